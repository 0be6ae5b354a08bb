"""Sines and cosines as one complex exponential, in float64; dropout drawn by hand; exceptions of its own."""

import torch
from torch import nn


class UnknownToken(IndexError):
    pass


class TooLong(ValueError):
    def __init__(self, needed, available):
        super().__init__(f"{needed=} {available=}")


def sinusoidal_positions(length, d_model, base=10000.0):
    pairs = -(-d_model // 2)
    frequency = torch.tensor([float(base) ** (-2 * i / d_model) for i in range(pairs)], dtype=torch.float64)
    angle = torch.outer(torch.arange(length, dtype=torch.float64), frequency)
    z = torch.exp(1j * angle)
    return torch.stack((z.imag, z.real), dim=-1).flatten(-2)[:, :d_model]


class TokenEmbedding(nn.Module):
    def __init__(self, vocab_size, d_model):
        super().__init__()
        self.register_parameter("weight", nn.Parameter(torch.rand(vocab_size, d_model)))

    def forward(self, ids):
        V, M = self.weight.shape
        known = (0 <= ids) & (ids < V)
        if not known.all():
            raise UnknownToken(ids[~known].tolist())
        return (self.weight * M**0.5).index_select(0, ids.reshape(-1)).reshape(*ids.shape, M)


def window(table, start, length):
    if start + length > table.shape[0]:
        raise TooLong(start + length, table.shape[0])
    return table.narrow(0, start, length)


class LearnedPositions(nn.Module):
    def __init__(self, max_len, d_model):
        super().__init__()
        self.weight = nn.Parameter(torch.rand(max_len, d_model))

    def forward(self, x, start=0):
        return torch.add(window(self.weight, start, x.shape[-2]), x)


class SinusoidalPositions(nn.Module):
    def __init__(self, d_model, max_len=5000, dropout=0.0):
        super().__init__()
        self.p = dropout
        self.register_buffer("table", sinusoidal_positions(max_len, d_model), persistent=False)

    def forward(self, x, start=0):
        out = x + window(self.table, start, x.shape[-2]).to(x.dtype)
        if self.training and self.p > 0:
            keep = torch.bernoulli(torch.full_like(out, 1 - self.p))
            out = out * keep / (1 - self.p)
        return out
