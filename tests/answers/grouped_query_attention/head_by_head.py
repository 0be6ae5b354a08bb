"""A loop over query heads, each with a slice of the projections; softmax in float32; numbers below everything for -inf."""

from __future__ import annotations

import math

import torch
import torch.nn as nn
from torch import Tensor


def repeat_kv(x: Tensor, n: int) -> Tensor:
    return torch.stack([x[:, head // n] for head in range(x.size(1) * n)], dim=1)


class GroupedQueryAttention(nn.Module):
    def __init__(self, d_model: int, num_heads: int, num_kv_heads: int, bias: bool = False):
        super().__init__()
        quotient, remainder = divmod(num_heads, num_kv_heads)
        if remainder > 0:
            raise ValueError(f"{num_heads} / {num_kv_heads}")
        self.heads, self.share, self.size = num_heads, quotient, d_model // num_heads
        narrow = num_kv_heads * self.size
        for name, into in (("q_proj", d_model), ("k_proj", narrow), ("v_proj", narrow), ("out_proj", d_model)):
            self.add_module(name, nn.Linear(d_model, into, bias=bias))

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        queries = self.q_proj(x).split(self.size, dim=2)
        keys = self.k_proj(x).split(self.size, dim=2)
        values = self.v_proj(x).split(self.size, dim=2)
        length = x.size(1)
        if mask is None:
            mask = torch.arange(length)[:, None] >= torch.arange(length)
        mask = mask.broadcast_to(x.size(0), self.heads, length, length)
        outs = []
        for h, query in enumerate(queries):
            scores = torch.bmm(query, keys[h // self.share].transpose(1, 2)) / math.sqrt(self.size)
            scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
            scores = torch.where(mask[:, h], scores, torch.finfo(scores.dtype).min)
            outs.append(torch.bmm(torch.softmax(scores, 2).to(x.dtype), values[h // self.share]))
        return self.out_proj(torch.cat(outs, dim=2))


def mean_pool_kv(weight: Tensor, num_heads: int, num_kv_heads: int) -> Tensor:
    heads = weight.chunk(num_heads)
    n = num_heads // num_kv_heads
    return torch.cat([sum(heads[g * n : (g + 1) * n]) / n for g in range(num_kv_heads)])
