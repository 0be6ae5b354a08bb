"""Loops over heads, sums written out, half precision computed in float32; new storage is filled in place of a cat."""

import math

import torch
from torch import nn
from torch.nn import Parameter


class Matrix(nn.Module):
    def __init__(self, rows, columns):
        super().__init__()
        self.weight = Parameter(torch.randn(rows, columns) / math.sqrt(columns))

    def forward(self, x):
        return torch.matmul(x, self.weight.t())


class Norm(nn.Module):
    def __init__(self, n):
        super().__init__()
        self.weight = Parameter(torch.ones(n))

    def forward(self, x):
        return x / torch.sqrt((x * x).mean(dim=-1, keepdim=True) + 1e-6) * self.weight


def turned(x, places):
    out = torch.empty_like(x)
    n = x.shape[-1]
    for i in range(n // 2):
        angle = places.float() / 10000.0 ** (2 * i / n)
        c, s = torch.cos(angle).to(x.dtype), torch.sin(angle).to(x.dtype)
        out[..., 2 * i] = x[..., 2 * i] * c - x[..., 2 * i + 1] * s
        out[..., 2 * i + 1] = x[..., 2 * i] * s + x[..., 2 * i + 1] * c
    return out


class LatentAttention(nn.Module):
    def __init__(self, d_model, num_heads, head_dim, kv_rank, rope_dim):
        super().__init__()
        if rope_dim % 2 == 1:
            raise ValueError(rope_dim)
        self.h, self.d, self.c, self.r = num_heads, head_dim, kv_rank, rope_dim
        self.out_proj = Matrix(d_model, num_heads * head_dim)
        self.v_up = Matrix(num_heads * head_dim, kv_rank)
        self.k_up = Matrix(num_heads * head_dim, kv_rank)
        self.k_rope = Matrix(rope_dim, d_model)
        self.kv_norm = Norm(kv_rank)
        self.kv_down = Matrix(kv_rank, d_model)
        self.q_proj = Matrix(num_heads * (head_dim + rope_dim), d_model)

    def remember(self, x, cache):
        if cache is None:
            cache = x.new_empty(x.shape[0], 0, self.c + self.r)
        b, t, width = cache.shape
        places = torch.arange(t, t + x.shape[1])
        longer = x.new_zeros(b, t + x.shape[1], width)
        longer[:, :t] = cache
        longer[:, t:, : self.c] = self.kv_norm(self.kv_down(x))
        longer[:, t:, self.c :] = turned(self.k_rope(x), places)
        return longer, places

    def attend(self, x, cache, absorb):
        kept, places = self.remember(x, cache)
        hidden = torch.arange(kept.shape[1])[None, :] > places[:, None]
        latent, rotary = kept[..., : self.c], kept[..., self.c :]
        q, heads = self.q_proj(x), []
        for h in range(self.h):
            start = h * (self.d + self.r)
            q_c, q_r = q[..., start : start + self.d], turned(q[..., start + self.d : start + self.d + self.r], places)
            u, w = (up.weight[h * self.d : (h + 1) * self.d] for up in (self.k_up, self.v_up))
            content = (q_c @ u) @ latent.transpose(1, 2) if absorb else q_c @ (latent @ u.t()).transpose(1, 2)
            score = (content + q_r @ rotary.transpose(1, 2)) / math.sqrt(self.d + self.r)
            score = score.masked_fill(hidden, float("-inf")).float() if x.dtype.itemsize < 4 else score.masked_fill(hidden, float("-inf"))
            e = (score - score.max(dim=-1, keepdim=True).values).exp()
            p = (e / e.sum(dim=-1, keepdim=True)).to(x.dtype)
            heads.append((p @ latent) @ w.t() if absorb else p @ (latent @ w.t()))
        return self.out_proj(torch.cat(heads, dim=-1)), kept

    def forward(self, x, cache=None):
        return self.attend(x, cache, absorb=False)

    def absorbed(self, x, cache=None):
        return self.attend(x, cache, absorb=True)
