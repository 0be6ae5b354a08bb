"""Loops over sequences and heads, each head with its slice of the weights; blocked keys are left out, not masked."""

import torch
from torch import nn


class Attention(nn.Module):
    def __init__(self, d_model, num_heads, dropout):
        super().__init__()
        self.q_proj = nn.Linear(d_model, d_model)
        self.k_proj = nn.Linear(d_model, d_model)
        self.v_proj = nn.Linear(d_model, d_model)
        self.out_proj = nn.Linear(d_model, d_model)
        self.num_heads = num_heads
        self.drop = nn.Dropout(dropout)

    def head(self, h, tokens, allowed):
        size = tokens.shape[-1] // self.num_heads
        part = slice(h * size, (h + 1) * size)
        q, k, v = (tokens @ p.weight[part].T + p.bias[part] for p in (self.q_proj, self.k_proj, self.v_proj))
        rows = []
        for i in range(len(tokens)):
            seen = allowed[i].nonzero()[:, 0]
            if len(seen) == 0:
                rows.append(torch.zeros_like(v[0]))
                continue
            scores = k[seen] @ q[i] / size**0.5
            weights = torch.exp(scores - torch.logsumexp(scores, 0))
            rows.append(self.drop(weights) @ v[seen])
        return torch.stack(rows) @ self.out_proj.weight[:, part].T

    def forward(self, x, mask):
        B, L, _ = x.shape
        if mask is None:
            mask = torch.ones(1, 1, L, L, dtype=torch.bool)
        if mask.dim() == 2:
            mask = mask[None, None]
        if mask.dim() == 3:
            mask = mask[:, None]
        mask = mask.expand(B, self.num_heads, L, L)
        return torch.stack([sum(self.head(h, x[b], mask[b, h]) for h in range(self.num_heads)) for b in range(B)]) + self.out_proj.bias


class PerToken(nn.Sequential):
    def __init__(self, d_model, d_hidden, dropout):
        super().__init__()
        self.add_module("up", nn.Linear(d_model, d_hidden))
        self.add_module("act", nn.ReLU())
        self.add_module("drop", nn.Dropout(dropout))
        self.add_module("down", nn.Linear(d_hidden, d_model))


class PreNorm(nn.Module):
    def forward(self, x, norm, f):
        return x + f(norm(x))


class PostNorm(nn.Module):
    def forward(self, x, norm, f):
        return norm(x + f(x))


class EncoderBlock(nn.Module):
    def __init__(self, d_model, num_heads, d_hidden, dropout=0.0, norm_first=True):
        super().__init__()
        self.norm2, self.norm1 = nn.LayerNorm(d_model), nn.LayerNorm(d_model)
        self.ff = PerToken(d_model, d_hidden, dropout)
        self.self_attn = Attention(d_model, num_heads, dropout)
        self.around = PreNorm() if norm_first else PostNorm()
        self.drop = nn.Dropout(dropout)

    def forward(self, x, mask=None):
        x = self.around(x, self.norm1, lambda y: self.drop(self.self_attn(y, mask)))
        return self.around(x, self.norm2, lambda y: self.drop(self.ff(y)))


class Encoder(nn.Module):
    def __init__(self, num_layers, d_model, num_heads, d_hidden, dropout=0.0, norm_first=True):
        super().__init__()
        blocks = [EncoderBlock(d_model, num_heads, d_hidden, dropout, norm_first) for _ in range(num_layers)]
        self.layers = nn.ModuleList(blocks)
        self.norm = None
        if norm_first:
            self.norm = nn.LayerNorm(d_model)

    def forward(self, x, mask=None):
        def run(i, y):
            return y if i == len(self.layers) else run(i + 1, self.layers[i](y, mask))

        out = run(0, x)
        return self.norm(out) if self.norm is not None else out
