"""F.scaled_dot_product_attention with enable_gqa, an index for the heads, a matrix that averages."""

import torch
from torch import nn
from torch.nn import functional as F


def repeat_kv(x, n):
    index = torch.div(torch.arange(x.shape[1] * n), n, rounding_mode="floor")
    return x.index_select(1, index)


class GroupedQueryAttention(nn.Module):
    def __init__(self, d_model, num_heads, num_kv_heads, bias=False):
        super().__init__()
        if num_heads // num_kv_heads * num_kv_heads != num_heads:
            raise ValueError("heads")
        head_dim = d_model // num_heads
        self.num_heads, self.num_kv_heads = num_heads, num_kv_heads
        self.k_proj = nn.Linear(d_model, head_dim * num_kv_heads, bias=bias)
        self.v_proj = nn.Linear(d_model, head_dim * num_kv_heads, bias=bias)
        self.q_proj = nn.Linear(d_model, d_model, bias=bias)
        self.out_proj = nn.Linear(d_model, d_model, bias=bias)

    @staticmethod
    def heads(x, number):
        return x.reshape(*x.shape[:2], number, -1).permute(0, 2, 1, 3)

    def forward(self, x, mask=None):
        q = self.heads(self.q_proj(x), self.num_heads)
        k = self.heads(self.k_proj(x), self.num_kv_heads)
        v = self.heads(self.v_proj(x), self.num_kv_heads)
        if mask is None:
            out = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        else:
            out = F.scaled_dot_product_attention(q, k, v, mask, enable_gqa=True)
        return self.out_proj(out.permute(0, 2, 1, 3).reshape(x.shape))


def mean_pool_kv(weight, num_heads, num_kv_heads):
    n = num_heads // num_kv_heads
    average = torch.eye(num_kv_heads, dtype=weight.dtype).repeat_interleave(n, dim=1) / n  # (G, H)
    return torch.tensordot(average, weight.view(num_heads, -1, weight.size(1)), dims=1).reshape(-1, weight.size(1))
