"""The fused attention with rows without keys opened, then zeroed; inheritance from the block; post-norm as a subclass would have it."""

import math

import torch
from torch import nn
from torch.nn import functional as F


class SelfAttention(nn.Module):
    def __init__(self, width, heads, p):
        super().__init__()
        if width % heads != 0:
            raise ValueError(f"width {width} cannot be cut into {heads} heads")
        self.q_proj, self.k_proj = nn.Linear(width, width), nn.Linear(width, width)
        self.v_proj, self.out_proj = nn.Linear(width, width), nn.Linear(width, width)
        self.heads, self.p = heads, p

    def forward(self, x, mask=None):
        q = torch.stack(self.q_proj(x).chunk(self.heads, dim=-1), dim=1)
        k = torch.stack(self.k_proj(x).chunk(self.heads, dim=-1), dim=1)
        v = torch.stack(self.v_proj(x).chunk(self.heads, dim=-1), dim=1)
        p = self.p * self.training
        if mask is None:
            heads = F.scaled_dot_product_attention(q, k, v, dropout_p=p, scale=1 / math.sqrt(q.shape[-1]))
        else:
            mask = mask[:, None, :, :] if mask.dim() == 3 else mask
            empty = ~mask.any(dim=-1, keepdim=True)
            heads = F.scaled_dot_product_attention(q, k, v, attn_mask=mask | empty, dropout_p=p)
            heads = torch.where(empty, torch.zeros_like(heads), heads)
        return self.out_proj(torch.cat(heads.unbind(1), dim=-1))


class FeedForward(nn.Module):
    def __init__(self, width, hidden, p):
        super().__init__()
        self.up, self.down, self.p = nn.Linear(width, hidden), nn.Linear(hidden, width), p

    def forward(self, x):
        h = self.up(x)
        h = h * (h > 0)
        return self.down(F.dropout(h, self.p, self.training))


class EncoderBlock(nn.Module):
    def __init__(self, d_model, num_heads, d_hidden, dropout=0.0, norm_first=True):
        super().__init__()
        self.self_attn = SelfAttention(d_model, num_heads, dropout)
        self.ff = FeedForward(d_model, d_hidden, dropout)
        self.norm1, self.norm2 = nn.LayerNorm(d_model, eps=1e-5), nn.LayerNorm(d_model, eps=1e-5)
        self.p = dropout
        self.forward = self.pre if norm_first else self.post

    def add(self, x, y):
        return x + F.dropout(y, p=self.p, training=self.training)

    def pre(self, x, mask=None):
        y = self.add(x, self.self_attn(self.norm1(x), mask))
        return self.add(y, self.ff(self.norm2(y)))

    def post(self, x, mask=None):
        y = self.norm1(self.add(x, self.self_attn(x, mask)))
        return self.norm2(self.add(y, self.ff(y)))


class Encoder(nn.Module):
    def __init__(self, num_layers, d_model, num_heads, d_hidden, dropout=0.0, norm_first=True):
        super().__init__()
        self.layers = nn.ModuleList(EncoderBlock(d_model, num_heads, d_hidden, dropout, norm_first) for _ in range(num_layers))
        if norm_first:
            self.norm = nn.LayerNorm(d_model, eps=1e-5)
        else:
            self.register_module("norm", None)

    def forward(self, x, mask=None):
        for block in self.layers.children():
            x = block(x, mask)
        return x if self.norm is None else self.norm(x)
