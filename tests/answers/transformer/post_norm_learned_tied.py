"""The paper's post-norm, learned positions, the target's embedding as the last projection."""

import math

import torch
import torch.nn.functional as F
from torch import nn


class Heads(nn.Module):
    def __init__(self, d_model, num_heads, dropout):
        super().__init__()
        self.h, self.d = num_heads, d_model // num_heads
        self.wq = nn.Linear(d_model, d_model, bias=False)
        self.wk = nn.Linear(d_model, d_model, bias=False)
        self.wv = nn.Linear(d_model, d_model, bias=False)
        self.wo = nn.Linear(d_model, d_model, bias=False)
        self.drop = nn.Dropout(dropout)

    def forward(self, x, y, blocked):
        B, L, _ = x.shape
        S = y.shape[1]
        q = self.wq(x).view(B, L, self.h, self.d).permute(0, 2, 1, 3)
        k = self.wk(y).view(B, S, self.h, self.d).permute(0, 2, 3, 1)
        v = self.wv(y).view(B, S, self.h, self.d).permute(0, 2, 1, 3)
        scores = (q @ k / math.sqrt(self.d)).masked_fill(blocked, -1e9)
        out = self.drop(scores.softmax(-1)) @ v
        return self.wo(out.permute(0, 2, 1, 3).reshape(B, L, self.h * self.d))


class Block(nn.Module):
    def __init__(self, d_model, num_heads, d_hidden, dropout, attentions):
        super().__init__()
        self.attentions = nn.ModuleList(Heads(d_model, num_heads, dropout) for _ in range(attentions))
        self.mlp = nn.Sequential(nn.Linear(d_model, d_hidden), nn.GELU(), nn.Dropout(dropout), nn.Linear(d_hidden, d_model))
        self.norms = nn.ModuleList(nn.LayerNorm(d_model) for _ in range(attentions + 1))
        self.drop = nn.Dropout(dropout)

    def forward(self, x, *seen):
        for attention, norm, (y, blocked) in zip(self.attentions, self.norms, seen, strict=False):
            x = norm(x + self.drop(attention(x, x if y is None else y, blocked)))
        return self.norms[-1](x + self.drop(self.mlp(x)))


class Transformer(nn.Module):
    def __init__(self, src_vocab, tgt_vocab, d_model, num_heads, num_layers, d_hidden, dropout=0.0, max_len=256, pad_id=0):
        super().__init__()
        self.pad_id, self.scale = pad_id, d_model**0.5
        self.src_table = nn.Embedding(src_vocab, d_model)
        self.tgt_table = nn.Embedding(tgt_vocab, d_model)
        self.src_positions = nn.Parameter(torch.randn(max_len, d_model) * 0.02)
        self.tgt_positions = nn.Parameter(torch.randn(max_len, d_model) * 0.02)
        self.enc = nn.ModuleList([Block(d_model, num_heads, d_hidden, dropout, 1) for _ in range(num_layers)])
        self.dec = nn.ModuleList([Block(d_model, num_heads, d_hidden, dropout, 2) for _ in range(num_layers)])
        self.drop = nn.Dropout(dropout)
        self.head = nn.Linear(d_model, tgt_vocab, bias=False)
        self.head.weight = self.tgt_table.weight

    def encode(self, src):
        padding = src.eq(self.pad_id)[:, None, None]
        x = self.drop(self.src_table(src) * self.scale + self.src_positions[: src.size(1)])
        for block in self.enc:
            x = block(x, (None, padding))
        return x

    def decode(self, tgt, memory, src):
        padding = src.eq(self.pad_id)[:, None, None]
        future = torch.ones(tgt.size(1), tgt.size(1), dtype=torch.bool).triu(1)
        x = self.drop(self.tgt_table(tgt) * self.scale + self.tgt_positions[: tgt.size(1)])
        for block in self.dec:
            x = block(x, (None, future), (memory, padding))
        return self.head(x)

    def forward(self, src, tgt):
        return self.decode(tgt, self.encode(src), src)

    def greedy_decode(self, src, bos_id, eos_id, max_new):
        with torch.inference_mode():
            memory = self.encode(src)
            out = src.new_full((src.size(0), max_new + 1), self.pad_id)
            out[:, 0] = bos_id
            open_rows = torch.ones(src.size(0), dtype=torch.bool)
            n = 0
            while n < max_new and open_rows.any():
                best = F.log_softmax(self.decode(out[:, : n + 1], memory, src)[:, n], -1).max(-1).indices
                out[open_rows, n + 1] = best[open_rows]
                open_rows &= best != eos_id
                n += 1
            return out[:, 1 : n + 1].clone()
