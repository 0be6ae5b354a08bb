"""Loops over sequences and heads; slices of the weights; dropout by hand; a list for the pair."""

import math

import torch
from torch import nn


class NotDivisible(ValueError):
    pass


def size_of_head(m, h):
    d, rest = divmod(m, h)
    if rest or d == 0:
        raise NotDivisible(f"{m} / {h}")
    return d


def split_heads(x, num_heads):
    size_of_head(x.shape[2], num_heads)
    return torch.stack(x.chunk(num_heads, dim=2), dim=1)


def merge_heads(x):
    return torch.cat([x[:, h] for h in range(x.shape[1])], dim=-1)


class MultiHeadAttention(nn.Module):
    def __init__(self, d_model, num_heads, dropout=0.0, bias=True):
        super().__init__()
        self.d = size_of_head(d_model, num_heads)
        self.heads = num_heads
        self.p = dropout
        self.q_proj, self.k_proj = nn.Linear(d_model, d_model, bias=bias), nn.Linear(d_model, d_model, bias=bias)
        self.v_proj, self.out_proj = nn.Linear(d_model, d_model, bias=bias), nn.Linear(d_model, d_model, bias=bias)

    def forward(self, query, key=None, value=None, mask=None, need_weights=False):
        key = key if key is not None else query
        value = value if value is not None else key
        B, L, S = len(query), query.shape[1], key.shape[1]
        if mask is None:
            mask = torch.ones(L, S, dtype=torch.bool)
        if mask.dim() == 3:
            mask = mask[:, None]
        mask = mask.expand(B, self.heads, L, S)
        outs, everything = [], []
        for b in range(B):
            mixed, per_head = [], []
            for h in range(self.heads):
                own = slice(h * self.d, (h + 1) * self.d)
                q, k, v = (
                    x[b] @ p.weight[own].T + (p.bias[own] if p.bias is not None else 0)
                    for x, p in ((query, self.q_proj), (key, self.k_proj), (value, self.v_proj))
                )
                w = self.attend(q, k, mask[b, h])
                per_head.append(w)
                mixed.append(w @ v)
            outs.append(torch.cat(mixed, -1) @ self.out_proj.weight.T)
            everything.append(torch.stack(per_head))
        out = torch.stack(outs)
        if self.out_proj.bias is not None:
            out += self.out_proj.bias
        return [out, torch.stack(everything)] if need_weights else out

    def attend(self, q, k, mask):
        rows = []
        for i in range(len(q)):
            allowed = mask[i].nonzero()[:, 0]
            row = torch.zeros(len(k), dtype=q.dtype)
            if len(allowed):
                row = row.index_put((allowed,), (k[allowed] @ q[i] / math.sqrt(self.d)).softmax(0))
            rows.append(row)
        w = torch.stack(rows)
        if self.training and self.p > 0:
            w = w * torch.bernoulli(torch.full_like(w, 1 - self.p)) / (1 - self.p)
        return w
