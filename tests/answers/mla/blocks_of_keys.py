"""Online softmax over blocks of keys; everything inside in float32 or wider; tables of angles kept in a plain cache that grows."""

import torch
import torch.nn.functional as F
from torch import nn

_TABLES = {}


def table(n, r):
    have = _TABLES.get(r)
    if have is None or have.shape[0] < n:
        inv = 10000.0 ** (-torch.arange(0, r, 2, dtype=torch.float64) / r)
        a = torch.arange(max(n, 64), dtype=torch.float64)[:, None] * inv
        have = _TABLES[r] = torch.stack([a.cos(), a.sin()], -1)
    return have[:n]


def rotate(x, start):
    n, r = x.shape[-2:]
    c, s = table(start + n, r)[start:].unbind(-1)
    y = x.to(torch.float64).unflatten(-1, (r // 2, 2))
    a, b = y[..., 0], y[..., 1]
    return torch.stack([a * c - b * s, b * c + a * s], -1).flatten(-2).to(x.dtype)


def online(q, k, v, first, scale, block=32):
    """q (B, H, L, E), k (B, h, T, E), v (B, h, T, F), with h 1 or H."""
    wide = torch.promote_types(q.dtype, torch.float32)
    q = q.to(wide) * scale
    B, H, L, _ = q.shape
    m = q.new_full((B, H, L, 1), -torch.inf)
    den = q.new_zeros(B, H, L, 1)
    num = q.new_zeros(B, H, L, v.shape[-1])
    rows = torch.arange(first, first + L)[:, None]
    for j in range(0, k.shape[-2], block):
        kk, vv = k[..., j : j + block, :].to(wide), v[..., j : j + block, :].to(wide)
        s = q @ kk.mT
        s = s.masked_fill(torch.arange(j, j + kk.shape[-2]) > rows, -torch.inf)
        new = torch.maximum(m, s.amax(-1, keepdim=True))
        safe = new.masked_fill(new == -torch.inf, 0)
        p, fix = (s - safe).exp(), (m - safe).exp()
        num, den, m = num * fix + p @ vv, den * fix + p.sum(-1, keepdim=True), new
    return num / den


class LatentAttention(nn.Module):
    def __init__(self, d_model, num_heads, head_dim, kv_rank, rope_dim):
        super().__init__()
        if rope_dim % 2 != 0:
            raise ValueError(rope_dim)
        self.H, self.D, self.C, self.R = num_heads, head_dim, kv_rank, rope_dim
        self.q_proj = nn.Linear(d_model, num_heads * (head_dim + rope_dim), bias=False)
        self.kv_down = nn.Linear(d_model, kv_rank, bias=False)
        self.kv_norm = nn.RMSNorm(kv_rank, eps=1e-6)
        self.k_rope = nn.Linear(d_model, rope_dim, bias=False)
        self.k_up = nn.Linear(kv_rank, num_heads * head_dim, bias=False)
        self.v_up = nn.Linear(kv_rank, num_heads * head_dim, bias=False)
        self.out_proj = nn.Linear(num_heads * head_dim, d_model, bias=False)

    def prepare(self, x, cache):
        t = 0 if cache is None else cache.shape[1]
        q = self.q_proj(x).unflatten(-1, (self.H, -1)).transpose(1, 2)
        qc, qr = q[..., : self.D], rotate(q[..., self.D :], t)
        new = torch.cat([self.kv_norm(self.kv_down(x)), rotate(self.k_rope(x), t)], -1)
        return t, qc, qr, new if cache is None else torch.cat([cache, new], 1)

    def forward(self, x, cache=None):
        t, qc, qr, kept = self.prepare(x, cache)
        lat, kr = kept.split([self.C, self.R], -1)
        k = F.linear(lat, self.k_up.weight).unflatten(-1, (self.H, -1)).transpose(1, 2)
        v = F.linear(lat, self.v_up.weight).unflatten(-1, (self.H, -1)).transpose(1, 2)
        k = torch.cat([k, kr.unsqueeze(1).expand(-1, self.H, -1, -1)], -1)
        o = online(torch.cat([qc, qr], -1), k, v, t, (self.D + self.R) ** -0.5).to(x.dtype)
        return self.out_proj(o.transpose(1, 2).flatten(2)), kept

    def absorbed(self, x, cache=None):
        t, qc, qr, kept = self.prepare(x, cache)
        wk = self.k_up.weight.view(self.H, self.D, self.C)
        wv = self.v_up.weight.view(self.H, self.D, self.C)
        k = kept.unsqueeze(1)
        o = online(torch.cat([qc @ wk, qr], -1), k, k[..., : self.C], t, (self.D + self.R) ** -0.5).to(x.dtype)
        return self.out_proj((o @ wv.mT).transpose(1, 2).flatten(2)), kept
