"""A chunk goes into the cache token by token, so that no mask is needed; keys and values lie side by side; generation on lists."""

import math

import torch
from torch import nn


def kv_cache_bytes(num_layers, num_kv_heads, head_dim, seq_len, batch=1, bytes_per_element=2):
    numbers = math.prod([num_layers, num_kv_heads, head_dim, seq_len, batch])
    return sum(numbers * bytes_per_element for _ in range(2))


class KVCache:
    def __init__(self, batch, num_heads, max_len, head_dim, dtype=torch.float32):
        self.max_len, self.length = max_len, 0
        self._kv = torch.zeros(batch, num_heads, max_len, 2 * head_dim, dtype=dtype)

    def append(self, k, v):
        n = k.size(2)
        try:
            last = range(self.max_len)[self.length + n - 1]
        except IndexError as error:
            raise ValueError(f"{n} tokens wanted, {self.max_len - self.length} of {self.max_len} places are free") from error
        self._kv[:, :, self.length : last + 1] = torch.cat([k, v], dim=-1).detach()
        self.length = last + 1
        return self._kv[:, :, : self.length].chunk(2, dim=-1)

    def reset(self):
        self.length = 0

    def truncate(self, length):
        if length > self.length or length < 0:
            raise ValueError(f"{length} is not between 0 and {self.length}")
        self.length = length

    def fork(self):
        other = KVCache(1, 1, 1, 1)
        other.__dict__ = {**self.__dict__, "_kv": self._kv.clone()}
        return other


class CachedSelfAttention(nn.Module):
    def __init__(self, d_model, num_heads, bias=False):
        super().__init__()
        self.q_proj, self.k_proj, self.v_proj, self.out_proj = (nn.Linear(d_model, d_model, bias=bias) for _ in range(4))
        self.num_heads = num_heads

    def heads(self, x):
        return (p(x).view(*x.shape[:2], self.num_heads, -1).transpose(1, 2) for p in (self.q_proj, self.k_proj, self.v_proj))

    def forward(self, x, cache=None):
        if cache is None:
            q, k, v = self.heads(x)
            scores = q @ k.transpose(2, 3) / math.sqrt(q.size(-1))
            scores = scores + torch.full((x.size(1), x.size(1)), -math.inf).triu(1)
            return self.out_proj((scores.softmax(-1) @ v).transpose(1, 2).flatten(2))
        outs = []
        for token in x.split(1, dim=1):
            q, k, v = self.heads(token)
            k, v = cache.append(k, v)
            weights = torch.softmax(q @ k.transpose(2, 3) / math.sqrt(q.size(-1)), dim=-1)
            outs.append((weights @ v).view(token.shape))
        return self.out_proj(torch.cat(outs, dim=1))


def generate(step, prompt_ids, max_new, cache):
    rows = prompt_ids.tolist()
    feed = prompt_ids
    for _ in range(max_new):
        last = step(feed, cache)[:, -1].tolist()
        best = [max(range(len(row)), key=row.__getitem__) for row in last]
        for row, token in zip(rows, best):
            row.append(token)
        feed = torch.tensor(best)[:, None]
    return torch.tensor(rows)
