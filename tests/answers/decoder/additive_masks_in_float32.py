"""The annotated style: sub-layer connections that take a function, masks as 0 and -inf, scores and softmax in float32."""

import copy
import math

import torch
import torch.nn as nn


def clones(module, n):
    return nn.ModuleList([copy.deepcopy(module) for _ in range(n)])


class MultiHeaded(nn.Module):
    def __init__(self, h, d_model, p):
        super().__init__()
        self.h, self.d_k = h, d_model // h
        self.q_proj, self.k_proj, self.v_proj, self.out_proj = clones(nn.Linear(d_model, d_model), 4)
        self.drop = nn.Dropout(p)

    def forward(self, query, key, value, bias):
        n = query.size(0)
        q, k, v = [
            lin(t).view(n, -1, self.h, self.d_k).transpose(1, 2)
            for lin, t in zip((self.q_proj, self.k_proj, self.v_proj), (query, key, value))
        ]
        scores = torch.matmul(q, k.transpose(-2, -1)).float() / math.sqrt(self.d_k)
        if bias is not None:
            scores = scores + bias
            empty = (bias == -math.inf).all(-1, keepdim=True)
            scores = torch.where(empty, torch.zeros_like(scores), scores)
            p_attn = torch.softmax(scores, -1) * (~empty)
        else:
            p_attn = torch.softmax(scores, -1)
        x = torch.matmul(self.drop(p_attn).to(v.dtype), v)
        return self.out_proj(x.transpose(1, 2).contiguous().view(n, -1, self.h * self.d_k))


class PositionwiseFeedForward(nn.Module):
    def __init__(self, d_model, d_ff, p):
        super().__init__()
        self.up = nn.Linear(d_model, d_ff)
        self.down = nn.Linear(d_ff, d_model)
        self.p = nn.Dropout(p)

    def forward(self, x):
        return self.down(self.p(self.up(x).relu()))


def bias_of(mask):
    """0 where allowed and -inf where not, with an axis for the heads."""
    if mask is None:
        return None
    bias = torch.zeros(mask.shape, dtype=torch.float32)
    bias.masked_fill_(mask.logical_not(), float("-inf"))
    return bias.unsqueeze(1) if bias.dim() == 3 else bias


class DecoderBlock(nn.Module):
    def __init__(self, d_model, num_heads, d_hidden, dropout=0.0, norm_first=True):
        super().__init__()
        self.self_attn = MultiHeaded(num_heads, d_model, dropout)
        self.cross_attn = MultiHeaded(num_heads, d_model, dropout)
        self.ff = PositionwiseFeedForward(d_model, d_hidden, dropout)
        self.norm1, self.norm2, self.norm3 = clones(nn.LayerNorm(d_model), 3)
        self.drop = nn.Dropout(dropout)
        self.norm_first = norm_first

    def connect(self, x, norm, sublayer):
        if self.norm_first:
            return x + self.drop(sublayer(norm(x)))
        return norm(x + self.drop(sublayer(x)))

    def forward(self, x, memory, mask=None, memory_mask=None):
        L = x.size(-2)
        bias = torch.triu(torch.full((L, L), float("-inf")), diagonal=1)
        if mask is not None:
            bias = bias + bias_of(mask)
        x = self.connect(x, self.norm1, lambda y: self.self_attn(y, y, y, bias))
        x = self.connect(x, self.norm2, lambda y: self.cross_attn(y, memory, memory, bias_of(memory_mask)))
        return self.connect(x, self.norm3, self.ff)


class Decoder(nn.Module):
    def __init__(self, num_layers, d_model, num_heads, d_hidden, dropout=0.0, norm_first=True):
        super().__init__()
        self.layers = clones(DecoderBlock(d_model, num_heads, d_hidden, dropout, norm_first), num_layers)
        if norm_first:
            self.norm = nn.LayerNorm(d_model)

    def forward(self, x, memory, mask=None, memory_mask=None):
        for layer in self.layers:
            x = layer(x, memory, mask, memory_mask)
        return self.norm(x) if hasattr(self, "norm") else x
