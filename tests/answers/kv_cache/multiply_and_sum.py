"""No matrix products in attention: a loop over queries, multiply and sum; the cache is a module with buffers."""

import copy

import torch
from torch import nn


def kv_cache_bytes(num_layers, num_kv_heads, head_dim, seq_len, batch=1, bytes_per_element=2):
    per_token = 2 * num_kv_heads * head_dim * bytes_per_element
    return int(per_token * seq_len * num_layers * batch)


class KVCache(nn.Module):
    def __init__(self, batch, num_heads, max_len, head_dim, dtype=torch.float32):
        super().__init__()
        self.max_len = max_len
        self.register_buffer("k", torch.zeros((batch, num_heads, max_len, head_dim), dtype=dtype))
        self.register_buffer("v", torch.zeros((batch, num_heads, max_len, head_dim), dtype=dtype))
        self.length = 0

    def append(self, k, v):
        start, n = self.length, k.shape[-2]
        if not start + n <= self.max_len:
            raise ValueError(f"KVCache overflow: need {start + n} > max_len = {self.max_len}")
        with torch.no_grad():
            self.k.narrow(2, start, n).copy_(k)
            self.v.narrow(2, start, n).copy_(v)
        self.length = start + n
        return [self.k.narrow(2, 0, start + n), self.v.narrow(2, 0, start + n)]

    def reset(self):
        self.k.zero_()
        self.v.zero_()
        self.length = 0

    def truncate(self, length):
        if length not in range(self.length + 1):
            raise ValueError(length)
        self.k[:, :, length:] = 0
        self.v[:, :, length:] = 0
        self.length = length

    def fork(self):
        return copy.deepcopy(self)


class CachedSelfAttention(nn.Module):
    def __init__(self, d_model, num_heads, bias=False):
        super().__init__()
        self.H, self.D = num_heads, d_model // num_heads
        self.q_proj = nn.Linear(d_model, d_model, bias=bias)
        self.k_proj = nn.Linear(d_model, d_model, bias=bias)
        self.v_proj = nn.Linear(d_model, d_model, bias=bias)
        self.out_proj = nn.Linear(d_model, d_model, bias=bias)

    def heads(self, x):
        return torch.stack(x.split(self.D, dim=-1), dim=1)

    def forward(self, x, cache=None):
        q, k, v = self.heads(self.q_proj(x)), self.heads(self.k_proj(x)), self.heads(self.v_proj(x))
        n = x.shape[1]
        if cache is not None:
            k, v = cache.append(k, v)
        t = k.shape[2]
        rows = []
        for i in range(n):
            seen = t - n + i + 1
            scores = (q[:, :, i : i + 1] * k[:, :, :seen]).sum(-1) * self.D**-0.5
            weights = torch.softmax(scores, dim=-1)
            rows.append((weights.unsqueeze(-1) * v[:, :, :seen]).sum(dim=2))
        out = torch.stack(rows, dim=2)
        return self.out_proj(torch.cat(out.unbind(1), dim=-1))


def generate(step, prompt_ids, max_new, cache):
    tokens = [prompt_ids]
    for i in range(max_new):
        logits = step(ids=tokens[-1], cache=cache)
        tokens.append(torch.argmax(logits[:, -1], dim=-1, keepdim=True))
    return torch.cat(tokens, dim=1)
