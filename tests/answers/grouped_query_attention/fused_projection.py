"""One product for queries, keys and values; query heads of a group lie one below the other, as more rows of one head."""

import torch
import torch.nn.functional as F
from torch import nn


def repeat_kv(x, n):
    return torch.cat([x] * n, dim=2).reshape(x.shape[0], x.shape[1] * n, *x.shape[2:])


class GroupedQueryAttention(nn.Module):
    def __init__(self, d_model, num_heads, num_kv_heads, bias=False):
        super().__init__()
        if num_kv_heads not in [g for g in range(1, num_heads + 1) if num_heads % g == 0]:
            raise ValueError(f"{num_kv_heads} does not divide {num_heads}")
        self.groups, self.head_dim = num_kv_heads, d_model // num_heads
        self.q_proj, self.out_proj = nn.Linear(d_model, d_model, bias=bias), nn.Linear(d_model, d_model, bias=bias)
        self.k_proj, self.v_proj = (nn.Linear(d_model, num_kv_heads * self.head_dim, bias=bias) for _ in range(2))

    def forward(self, x, mask=None):
        B, L, M = x.shape
        parts = (self.q_proj, self.k_proj, self.v_proj)
        weight = torch.cat([part.weight for part in parts])
        bias = None if self.q_proj.bias is None else torch.cat([part.bias for part in parts])
        q, k, v = F.linear(x, weight, bias).split([M, *[self.groups * self.head_dim] * 2], dim=-1)
        q = q.view(B, L, self.groups, -1, self.head_dim).permute(0, 2, 3, 1, 4).flatten(2, 3)  # (B, G, n·L, D)
        k, v = (each.view(B, L, self.groups, self.head_dim).transpose(1, 2) for each in (k, v))
        n = q.shape[2] // L
        mask = torch.ones(L, L, dtype=torch.bool).tril() if mask is None else mask
        bias = torch.zeros(B, self.groups * n, L, L, dtype=x.dtype).masked_fill(~mask, -torch.inf).view(B, self.groups, n * L, L)
        weights = torch.softmax(torch.matmul(q * self.head_dim**-0.5, k.transpose(-1, -2)) + bias, dim=-1)
        out = torch.matmul(weights, v).unflatten(2, (n, L)).permute(0, 3, 1, 2, 4)
        return self.out_proj(out.reshape(B, L, M))


def mean_pool_kv(weight, num_heads, num_kv_heads):
    heads = weight.unflatten(0, (num_heads, -1))
    pooled = heads.new_zeros(num_kv_heads, *heads.shape[1:])
    group = torch.arange(num_heads) // (num_heads // num_kv_heads)
    pooled.index_add_(0, group, heads)
    return (pooled / (num_heads // num_kv_heads)).flatten(0, 1)
