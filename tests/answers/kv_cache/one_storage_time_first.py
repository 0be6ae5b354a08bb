"""Keys and values share one tensor, (2, max_len, B, H, D); attention by einsum, -1e30 and a hand-made softmax."""

import math

import torch
from torch import nn


def kv_cache_bytes(num_layers, num_kv_heads, head_dim, seq_len, batch=1, bytes_per_element=2):
    total = 0
    for _ in ("keys", "values"):
        total += batch * num_kv_heads * seq_len * head_dim * bytes_per_element
    return num_layers * total


class Full(ValueError):
    pass


class KVCache:
    def __init__(self, batch, num_heads, max_len, head_dim, dtype=torch.float32):
        self.data = torch.empty(2, max_len, batch, num_heads, head_dim, dtype=dtype)
        self.used = 0

    @property
    def length(self):
        return self.used

    @torch.no_grad()
    def append(self, k, v):
        n = k.size(2)
        left = self.data.size(1) - self.used
        if n > left:
            raise Full(f"no place for {n} tokens: only {left} left")
        for place, new in zip(self.data, (k, v)):
            place[self.used : self.used + n].copy_(new.permute(2, 0, 1, 3))
        self.used += n
        k_all, v_all = self.data[:, : self.used].permute(0, 2, 3, 1, 4)
        return k_all, v_all

    def reset(self):
        self.truncate(0)

    def truncate(self, length):
        if length < 0 or length > self.used:
            raise ValueError("length must lie between 0 and the present length")
        self.used = length

    def fork(self):
        other = KVCache.__new__(KVCache)
        other.data, other.used = self.data.clone(), self.used
        return other


class CachedSelfAttention(nn.Module):
    def __init__(self, d_model, num_heads, bias=False):
        super().__init__()
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            self.add_module(name, nn.Linear(d_model, d_model, bias))
        self.h = num_heads

    def forward(self, x, cache=None):
        b, n, m = x.shape
        d = m // self.h
        q, k, v = (p(x).reshape(b, n, self.h, d) for p in (self.q_proj, self.k_proj, self.v_proj))
        k, v = k.transpose(1, 2), v.transpose(1, 2)
        past = 0
        if cache is not None:
            past = cache.length
            k, v = cache.append(k, v)
        scores = torch.einsum("bnhd,bhtd->bhnt", q, k) / math.sqrt(d)
        blocked = torch.ones(n, past + n, dtype=torch.bool).triu(past + 1)
        scores = scores.masked_fill(blocked, -1e30)
        weights = (scores - scores.amax(-1, keepdim=True)).exp()
        weights = weights / weights.sum(-1, keepdim=True)
        return self.out_proj(torch.einsum("bhnt,bhtd->bnhd", weights, v).reshape(b, n, m))


def generate(step, prompt_ids, max_new, cache):
    out = prompt_ids.new_empty(prompt_ids.shape[0], prompt_ids.shape[1] + max_new)
    length = prompt_ids.shape[1]
    out[:, :length] = prompt_ids
    fed = 0
    while length < out.shape[1]:
        logits = step(out[:, fed:length], cache)
        fed = length
        out[:, length] = logits[:, -1, :].max(dim=-1).indices
        length += 1
    return out
