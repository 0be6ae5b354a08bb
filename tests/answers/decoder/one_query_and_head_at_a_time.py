"""Loops over heads and queries; the causal rule is a slice, and a query without keys is a case of its own."""

import torch
from torch import nn


class Attention(nn.Module):
    def __init__(self, d_model, num_heads, dropout):
        super().__init__()
        for name in ["q_proj", "k_proj", "v_proj", "out_proj"]:
            setattr(self, name, nn.Linear(d_model, d_model))
        self.num_heads = num_heads
        self.dropout = nn.Dropout(dropout)

    def forward(self, x, source, mask, causal):
        B, L, M = x.shape
        S, H = source.shape[1], self.num_heads
        if mask is not None:
            if mask.dim() == 3:
                mask = mask.reshape(mask.shape[0], 1, *mask.shape[1:])
            mask = torch.broadcast_to(mask, (B, H, L, S))
        heads = []
        for h, (q, k, v) in enumerate(zip(self.q_proj(x).chunk(H, -1), self.k_proj(source).chunk(H, -1), self.v_proj(source).chunk(H, -1))):
            rows = []
            for i in range(L):
                n = i + 1 if causal else S
                scores = (k[:, :n] * q[:, i : i + 1]).sum(-1) * (H / M) ** 0.5  # (B, n)
                if mask is not None:
                    allowed = mask[:, h, i, :n]
                    some = allowed.any(-1, keepdim=True)
                    scores = scores.masked_fill(some & ~allowed, -torch.inf)
                    weights = torch.where(some, scores.softmax(-1), 0.0)
                else:
                    weights = scores.softmax(-1)
                rows.append((self.dropout(weights).unsqueeze(-1) * v[:, :n]).sum(1))
            heads.append(torch.stack(rows, 1))
        return self.out_proj(torch.cat(heads, -1))


class DecoderBlock(nn.Module):
    def __init__(self, d_model, num_heads, d_hidden, dropout=0.0, norm_first=True):
        super().__init__()
        self.self_attn = Attention(d_model, num_heads, dropout)
        self.cross_attn = Attention(d_model, num_heads, dropout)
        self.ff = nn.ModuleDict({"up": nn.Linear(d_model, d_hidden), "down": nn.Linear(d_hidden, d_model)})
        self.norm1 = nn.LayerNorm(d_model)
        self.norm2 = nn.LayerNorm(d_model)
        self.norm3 = nn.LayerNorm(d_model)
        self.norm_first = norm_first
        self.dropout = nn.Dropout(dropout)

    def steps(self, memory, mask, memory_mask):
        yield self.norm1, lambda x: self.self_attn(x, x, mask, causal=True)
        yield self.norm2, lambda x: self.cross_attn(x, memory, memory_mask, causal=False)
        yield self.norm3, lambda x: self.ff["down"](self.dropout(torch.clamp(self.ff["up"](x), min=0)))

    def forward(self, x, memory, mask=None, memory_mask=None):
        for norm, sublayer in self.steps(memory, mask, memory_mask):
            if self.norm_first:
                x = torch.add(x, self.dropout(sublayer(norm(x))))
            else:
                x = norm(torch.add(x, self.dropout(sublayer(x))))
        return x


class Decoder(nn.Module):
    def __init__(self, num_layers, d_model, num_heads, d_hidden, dropout=0.0, norm_first=True):
        super().__init__()
        self.layers = nn.ModuleList([DecoderBlock(d_model, num_heads, d_hidden, dropout, norm_first) for i in range(num_layers)])
        self.norm_first = norm_first
        if norm_first:
            self.norm = nn.LayerNorm(d_model)

    def forward(self, x, memory, mask=None, memory_mask=None):
        for i in range(len(self.layers)):
            x = self.layers[i](x, memory, mask, memory_mask)
        if self.norm_first:
            x = self.norm(x)
        return x
