"""One number after the other with the math module; one-hot vectors; rows added token by token."""

import math

import torch
from torch import nn


def sinusoidal_positions(length, d_model, base=10000.0):
    rows = []
    for p in range(length):
        row = []
        for c in range(d_model):
            angle = p / math.pow(base, (c - c % 2) / d_model)
            row.append(math.cos(angle) if c % 2 else math.sin(angle))
        rows.append(row)
    return torch.tensor(rows)


class TokenEmbedding(nn.Module):
    def __init__(self, vocab_size, d_model):
        super().__init__()
        self.vocab_size = vocab_size
        self.d_model = d_model
        self.weight = nn.Parameter(torch.randn(vocab_size, d_model))

    def forward(self, ids):
        for i in ids.flatten().tolist():
            if i not in range(self.vocab_size):
                raise IndexError(f"token {i} is not in a vocabulary of {self.vocab_size}")
        one_hot = nn.functional.one_hot(ids, self.vocab_size).to(self.weight.dtype)
        return torch.einsum("blv,vm->blm", one_hot, self.weight) * math.sqrt(self.d_model)


class LearnedPositions(nn.Module):
    def __init__(self, max_len, d_model):
        super().__init__()
        self.max_len = max_len
        self.weight = nn.Parameter(torch.randn(max_len, d_model))

    def forward(self, x, start=0):
        B, L, M = x.shape
        if not start + L <= self.max_len:
            raise ValueError(f"positions {start}..{start + L - 1} ({start + L} in all), but max_len={self.max_len}")
        return torch.stack([x[:, j, :] + self.weight[start + j] for j in range(L)], dim=1)


class SinusoidalPositions(nn.Module):
    def __init__(self, d_model, max_len=5000, dropout=0.0):
        super().__init__()
        self.register_buffer("positions", sinusoidal_positions(max_len, d_model), False)
        self.drop = nn.Dropout(dropout) if dropout else nn.Identity()

    def forward(self, x, start=0):
        L = x.shape[1]
        max_len = self.positions.shape[0]
        if not start + L <= max_len:
            raise ValueError(f"positions {start}..{start + L - 1} ({start + L} in all), but max_len={max_len}")
        out = torch.empty_like(x)
        for j in range(L):
            out[:, j] = x[:, j] + self.positions[start + j]
        return self.drop(out)
