"""Queries cut into (G, n) groups and einsum: no key or value is ever repeated. The mask is cut into groups too."""

import torch
from torch import nn


def repeat_kv(x, n):
    B, G, S, D = x.shape
    return torch.einsum("bgsd,n->bgnsd", x, x.new_ones(n)).reshape(B, G * n, S, D)


class GroupedQueryAttention(nn.Module):
    def __init__(self, d_model, num_heads, num_kv_heads, bias=False):
        if num_heads % num_kv_heads != 0:
            raise ValueError("num_heads must be a multiple of num_kv_heads")
        super().__init__()
        self.G, self.n, self.D = num_kv_heads, num_heads // num_kv_heads, d_model // num_heads
        self.q_proj = nn.Linear(d_model, num_heads * self.D, bias)
        self.k_proj = nn.Linear(d_model, num_kv_heads * self.D, bias)
        self.v_proj = nn.Linear(d_model, num_kv_heads * self.D, bias)
        self.out_proj = nn.Linear(num_heads * self.D, d_model, bias)

    def forward(self, x, mask=None):
        B, L, _ = x.shape
        q = self.q_proj(x).view(B, L, self.G, self.n, self.D)
        k = self.k_proj(x).view(B, L, self.G, self.D)
        v = self.v_proj(x).view(B, L, self.G, self.D)
        if mask is None:
            mask = torch.ones(L, L, dtype=torch.bool, device=x.device).tril()
        mask = mask.expand(B, self.G * self.n, L, L).unflatten(1, (self.G, self.n))
        scores = torch.einsum("blgnd,bsgd->bgnls", q, k) * self.D**-0.5
        weights = scores.masked_fill(~mask, float("-inf")).softmax(dim=-1)
        return self.out_proj(torch.einsum("bgnls,bsgd->blgnd", weights, v).reshape(B, L, -1))


def mean_pool_kv(weight, num_heads, num_kv_heads):
    n = num_heads // num_kv_heads
    heads = weight.reshape(num_kv_heads, n, -1, weight.shape[1])
    return torch.einsum("gndm->gdm", heads).reshape(-1, weight.shape[1]) / n
