"""Attention in float32, one sequence and one head at a time; values come first in storage; generation as a recursion."""

import torch
import torch.nn as nn


def kv_cache_bytes(num_layers, num_kv_heads, head_dim, seq_len, batch=1, bytes_per_element=2):
    one_layer = torch.empty(2, batch, num_kv_heads, seq_len, head_dim, device="meta")
    return one_layer.numel() * num_layers * bytes_per_element


class KVCache:
    def __init__(self, batch, num_heads, max_len, head_dim, dtype=torch.float32):
        self.shape = (batch, num_heads, max_len, head_dim)
        self.memory = torch.full((2,) + self.shape, float("nan"), dtype=dtype)
        self.length = 0

    def append(self, k, v):
        both = torch.stack([v, k]).detach()
        old = self.length
        new = old + both.shape[3]
        if new > self.shape[2]:
            raise ValueError("needed: " + str(new) + ", available: " + str(self.shape[2]))
        self.memory[..., old:new, :] = both
        self.length = new
        values, keys = self.memory[..., :new, :].unbind(0)
        return keys, values

    def reset(self):
        self.memory.fill_(float("nan"))
        self.length = 0

    def truncate(self, length):
        if length < 0:
            raise ValueError("negative length")
        if length > self.length:
            raise ValueError("a cache cannot be truncated to more than it holds")
        self.memory[..., length:, :] = float("nan")
        self.length = length

    def fork(self):
        twin = type(self)(*self.shape, self.memory.dtype)
        if self.length:
            values, keys = self.memory[..., : self.length, :]
            twin.append(keys, values)
        return twin


class CachedSelfAttention(nn.Module):
    def __init__(self, d_model, num_heads, bias=False):
        super().__init__()
        self.num_heads = num_heads
        self.head_dim = d_model // num_heads
        self.out_proj = nn.Linear(d_model, d_model, bias=bias)
        self.v_proj = nn.Linear(d_model, d_model, bias=bias)
        self.k_proj = nn.Linear(d_model, d_model, bias=bias)
        self.q_proj = nn.Linear(d_model, d_model, bias=bias)

    def forward(self, x, cache=None):
        batch, n, _ = x.shape
        shape = (batch, n, self.num_heads, self.head_dim)
        q = self.q_proj(x).view(shape).permute(0, 2, 1, 3)
        k = self.k_proj(x).view(shape).permute(0, 2, 1, 3)
        v = self.v_proj(x).view(shape).permute(0, 2, 1, 3)
        if cache is not None:
            k, v = cache.append(k, v)
        total = k.shape[-2]
        sequences = []
        for b in range(batch):
            heads = []
            for h in range(self.num_heads):
                scores = torch.matmul(q[b, h].float(), k[b, h].float().t()) / self.head_dim**0.5
                for i in range(n):
                    scores[i, total - n + i + 1 :] = -torch.inf
                heads.append(torch.matmul(torch.softmax(scores, dim=-1), v[b, h].float()))
            sequences.append(torch.cat(heads, dim=-1))
        return self.out_proj(torch.stack(sequences).to(x.dtype))


def generate(step, prompt_ids, max_new, cache):
    def more(new, left):
        if left == 0:
            return []
        best = step(new, cache).select(1, -1).argmax(-1)[:, None]
        return [best] + more(best, left - 1)

    return torch.cat([prompt_ids] + more(prompt_ids, max_new), dim=-1)
