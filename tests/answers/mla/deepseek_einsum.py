"""As DeepSeek's inference code has it: einsum over (b, s, h, d), complex rotations, an RMS norm in float32, one weight for both up-projections."""

import torch
from torch import nn


class RMSNorm(nn.Module):
    def __init__(self, dim, eps=1e-6):
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x):
        h = x.float()
        return (h * torch.rsqrt(h.pow(2).mean(-1, keepdim=True) + self.eps)).type_as(x) * self.weight


def freqs_cis(start, end, dim):
    freqs = 1.0 / (10000.0 ** (torch.arange(0, dim, 2, dtype=torch.float32) / dim))
    angles = torch.outer(torch.arange(start, end), freqs)
    return torch.polar(torch.ones_like(angles), angles)


def apply_rotary_emb(x, cis):
    """x is (b, s, h, d)."""
    pairs = torch.view_as_complex(x.float().reshape(*x.shape[:-1], -1, 2))
    return torch.view_as_real(pairs * cis.view(1, x.size(1), 1, -1)).flatten(3).to(x.dtype)


class LatentAttention(nn.Module):
    def __init__(self, d_model, num_heads, head_dim, kv_rank, rope_dim):
        super().__init__()
        if rope_dim % 2 != 0:
            raise ValueError("rope_dim has to be even")
        self.n_heads, self.nope, self.rank, self.rope = num_heads, head_dim, kv_rank, rope_dim
        self.q_proj = nn.Linear(d_model, num_heads * (head_dim + rope_dim), bias=False)
        self.kv_down = nn.Linear(d_model, kv_rank, bias=False)
        self.kv_norm = RMSNorm(kv_rank)
        self.k_rope = nn.Linear(d_model, rope_dim, bias=False)
        self.k_up = nn.Linear(kv_rank, num_heads * head_dim, bias=False)
        self.v_up = nn.Linear(kv_rank, num_heads * head_dim, bias=False)
        self.out_proj = nn.Linear(num_heads * head_dim, d_model, bias=False)
        self.softmax_scale = (head_dim + rope_dim) ** -0.5

    def start(self, x, cache):
        bsz, seqlen, _ = x.size()
        start_pos = cache.size(1) if cache is not None else 0
        cis = freqs_cis(start_pos, start_pos + seqlen, self.rope)
        q = self.q_proj(x).view(bsz, seqlen, self.n_heads, self.nope + self.rope)
        q_nope, q_pe = torch.split(q, [self.nope, self.rope], dim=-1)
        q_pe = apply_rotary_emb(q_pe, cis)
        kv, k_pe = self.kv_norm(self.kv_down(x)), apply_rotary_emb(self.k_rope(x).unsqueeze(2), cis).squeeze(2)
        if cache is not None:
            kv = torch.cat([cache[:, :, : self.rank], kv], 1)
            k_pe = torch.cat([cache[:, :, self.rank :], k_pe], 1)
        mask = torch.full((seqlen, start_pos + seqlen), float("-inf")).triu_(start_pos + 1)
        return q_nope, q_pe, kv, k_pe, mask

    def forward(self, x, cache=None):
        q_nope, q_pe, kv, k_pe, mask = self.start(x, cache)
        both = torch.cat([self.k_up.weight, self.v_up.weight])  # the weight of DeepSeek's wkv_b, sorted otherwise
        k_nope, v = (kv @ both.T).unflatten(-1, (2, self.n_heads, self.nope)).unbind(2)
        k = torch.cat([k_nope, k_pe.unsqueeze(2).expand(-1, -1, self.n_heads, -1)], dim=-1)
        q = torch.cat([q_nope, q_pe], dim=-1)
        scores = torch.einsum("bshd,bthd->bsht", q, k) * self.softmax_scale + mask.unsqueeze(1)
        x = torch.einsum("bsht,bthd->bshd", scores.softmax(dim=-1, dtype=torch.float32).type_as(x), v)
        return self.out_proj(x.flatten(2)), torch.cat([kv, k_pe], -1)

    def absorbed(self, x, cache=None):
        q_nope, q_pe, kv, k_pe, mask = self.start(x, cache)
        q_nope = torch.einsum("bshd,hdc->bshc", q_nope, self.k_up.weight.view(self.n_heads, self.nope, self.rank))
        scores = torch.einsum("bshc,btc->bsht", q_nope, kv) + torch.einsum("bshr,btr->bsht", q_pe, k_pe)
        scores = scores * self.softmax_scale + mask.unsqueeze(1)
        x = torch.einsum("bsht,btc->bshc", scores.softmax(dim=-1, dtype=torch.float32).type_as(x), kv)
        x = torch.einsum("bshc,hdc->bshd", x, self.v_up.weight.view(self.n_heads, self.nope, self.rank))
        return self.out_proj(x.flatten(2)), torch.cat([kv, k_pe], -1)
