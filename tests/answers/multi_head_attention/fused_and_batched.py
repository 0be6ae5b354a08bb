"""One matrix product for q, k and v where it can be; heads folded into the batch; the dtype's smallest number; compiled."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn


def split_heads(x: torch.Tensor, num_heads: int) -> torch.Tensor:
    if x.size(-1) % num_heads:
        raise ValueError(f"embedding of {x.size(-1)}, but {num_heads} heads")
    return x.view(*x.shape[:-1], num_heads, -1).movedim(-2, -3)


def merge_heads(x: torch.Tensor) -> torch.Tensor:
    return x.movedim(-3, -2).reshape(x.size(0), x.size(2), -1)


class MultiHeadAttention(nn.Module):
    def __init__(self, d_model: int, num_heads: int, dropout: float = 0.0, bias: bool = True) -> None:
        super().__init__()
        if d_model % num_heads:
            raise ValueError(f"embedding of {d_model}, but {num_heads} heads")
        self.d_model, self.num_heads, self.head_dim = d_model, num_heads, d_model // num_heads
        self.dropout = dropout
        self.out_proj = nn.Linear(d_model, d_model, bias=bias)
        self.v_proj = nn.Linear(d_model, d_model, bias=bias)
        self.k_proj = nn.Linear(d_model, d_model, bias=bias)
        self.q_proj = nn.Linear(d_model, d_model, bias=bias)
        self.register_buffer("scale", torch.tensor(self.head_dim**-0.5), persistent=False)

    def project(self, query, key, value):
        if key is None and value is None:
            three = (self.q_proj, self.k_proj, self.v_proj)
            bias = torch.cat([p.bias for p in three]) if self.q_proj.bias is not None else None
            return F.linear(query, torch.cat([p.weight for p in three]), bias).chunk(3, -1)
        key = query if key is None else key
        return self.q_proj(query), self.k_proj(key), self.v_proj(key if value is None else value)

    @torch.compile
    def forward(self, query, key=None, value=None, mask=None, need_weights=False):
        q, k, v = (split_heads(x, self.num_heads).flatten(0, 1) for x in self.project(query, key, value))
        scores = torch.bmm(q * self.head_dim**-0.5, k.transpose(1, 2)).unflatten(0, (-1, self.num_heads))
        if mask is not None:
            mask = mask.unsqueeze(1) if mask.dim() == 3 else mask
            scores.masked_fill_(mask.logical_not(), torch.finfo(scores.dtype).min)
        weights = F.softmax(scores, dim=-1)
        if mask is not None:
            weights = weights * mask
        weights = F.dropout(weights, self.dropout, self.training)
        out = torch.bmm(weights.flatten(0, 1), v).unflatten(0, (-1, self.num_heads))
        out = self.out_proj(merge_heads(out))
        return (out, weights) if need_weights else out
