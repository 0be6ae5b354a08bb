"""The softmax written out with a running sum of exponentials, query by query; views of expanded keys; a mean by reduce."""

import functools
import operator

import torch
from torch import Tensor, nn


def repeat_kv(x: Tensor, n: int) -> Tensor:
    result = x.new_empty(x.shape[0], x.shape[1] * n, x.shape[2], x.shape[3])
    for copy in range(n):
        result[:, copy::n] = x
    return result


class GroupedQueryAttention(nn.Module):
    def __init__(self, d_model: int, num_heads: int, num_kv_heads: int, bias: bool = False):
        super().__init__()
        if num_heads % num_kv_heads:
            raise ValueError("indivisible")
        self.num_heads, self.n = num_heads, num_heads // num_kv_heads
        self.q_proj = nn.Linear(d_model, d_model, bias=bias)
        self.k_proj = nn.Linear(d_model, d_model // self.n, bias=bias)
        self.v_proj = nn.Linear(d_model, d_model // self.n, bias=bias)
        self.out_proj = nn.Linear(d_model, d_model, bias=bias)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        L, H = x.shape[1], self.num_heads
        q = torch.stack(self.q_proj(x).chunk(H, -1), 1)
        k = repeat_kv(torch.stack(self.k_proj(x).chunk(H // self.n, -1), 1), self.n)
        v = repeat_kv(torch.stack(self.v_proj(x).chunk(H // self.n, -1), 1), self.n)
        rows = []
        for i in range(L):
            scores = (q[:, :, i : i + 1] * k).sum(-1) / q.shape[-1] ** 0.5  # (B, H, L)
            if mask is None:
                allowed = (torch.arange(L) <= i).expand_as(scores)
            else:
                allowed = mask.expand(x.shape[0], H, L, L)[:, :, i]
            top = scores.masked_fill(~allowed, -torch.inf).amax(-1, keepdim=True)
            powers = (scores - top).clamp(max=0).exp() * allowed
            rows.append((powers[..., None] * v).sum(2) / powers.sum(-1, keepdim=True))
        return self.out_proj(torch.stack(rows, 1).flatten(2))


def mean_pool_kv(weight: Tensor, num_heads: int, num_kv_heads: int) -> Tensor:
    n = num_heads // num_kv_heads
    by_head = weight.view(num_heads, weight.shape[0] // num_heads, weight.shape[1])
    return functools.reduce(operator.add, [by_head[i::n] for i in range(n)]).div(n).flatten(0, 1)
