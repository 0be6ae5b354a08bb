"""Blocks of keys with a running maximum, as in FlashAttention; keys and values lie in different layouts; generation as a fold."""

import copy
from functools import reduce

import torch
from torch import nn


def kv_cache_bytes(num_layers, num_kv_heads, head_dim, seq_len, batch=1, bytes_per_element=2):
    return int(2.0 * num_layers * num_kv_heads * head_dim * seq_len * batch * bytes_per_element)


class KVCache(nn.Module):
    def __init__(self, batch, num_heads, max_len, head_dim, dtype=torch.float32):
        super().__init__()
        self.register_buffer("k", torch.zeros(batch, max_len, num_heads, head_dim, dtype=dtype), persistent=False)
        self.register_buffer("v", torch.zeros(batch, num_heads, head_dim, max_len, dtype=dtype), persistent=False)
        self.length = 0

    @torch.no_grad()
    def append(self, k, v):
        n = k.shape[2]
        if self.length + n > self.k.shape[1]:
            raise ValueError("overflow: %s > %s" % (self.length + n, self.k.shape[1]))
        places = torch.arange(self.length, self.length + n)
        self.k[:, places] = k.transpose(1, 2)
        self.v[..., places] = v.mT
        self.length += n
        return self.k[:, : self.length].transpose(1, 2), self.v[..., : self.length].mT

    def reset(self):
        self.length = 0

    def truncate(self, length):
        if length < 0 or self.length < length:
            raise ValueError("bad length")
        self.length = length

    def fork(self):
        return copy.deepcopy(self)


class CachedSelfAttention(nn.Module):
    BLOCK = 2

    def __init__(self, d_model, num_heads, bias=False):
        super().__init__()
        self.num_heads = num_heads
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            setattr(self, name, nn.Linear(d_model, d_model, bias=bias))

    def forward(self, x, cache=None):
        B, n, M = x.shape
        D = M // self.num_heads
        q, k, v = (p(x).unflatten(2, (self.num_heads, D)).permute(0, 2, 1, 3) for p in (self.q_proj, self.k_proj, self.v_proj))
        start = 0
        if cache is not None:
            start = cache.length
            k, v = cache.append(k, v)
        queries = start + torch.arange(n)
        top = q.new_full((B, self.num_heads, n, 1), torch.finfo(q.dtype).min)
        total, out = torch.zeros_like(top), torch.zeros_like(q)
        for first in range(0, k.shape[2], self.BLOCK):
            keys, values = k[:, :, first : first + self.BLOCK], v[:, :, first : first + self.BLOCK]
            seen = first + torch.arange(keys.shape[2]) <= queries[:, None]
            scores = torch.where(seen, q @ keys.mT * D**-0.5, torch.tensor(-1e300, dtype=q.dtype))
            higher = torch.maximum(top, scores.amax(-1, keepdim=True))
            powers, shrink = (scores - higher).exp() * seen, (top - higher).exp()
            total = total * shrink + powers.sum(-1, keepdim=True)
            out = out * shrink + powers @ values
            top = higher
        return self.out_proj((out / total).transpose(1, 2).reshape(B, n, M))


def generate(step, prompt_ids, max_new, cache):
    def grow(state, _):
        ids, feed = state
        best = step(feed, cache=cache)[:, -1].sort(dim=-1, descending=True).indices[:, :1]
        return torch.cat([ids, best], 1), best

    return reduce(grow, range(max_new), (prompt_ids, prompt_ids))[0]
