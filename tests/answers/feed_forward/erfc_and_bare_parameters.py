"""Φ by the complementary error function; layers of our own with bare parameters; dropout by hand; ValueErrors of our own."""

import torch
from torch import nn


class UnknownName(ValueError):
    pass


def gelu(x, approximate="none"):
    match approximate:
        case "none":
            return x * torch.special.erfc(x * -(0.5**0.5)) / 2
        case "tanh":
            z = 0.7978845608028654 * x * (1 + 0.044715 * x * x)
            return x * torch.sigmoid(2 * z)
    raise UnknownName(approximate)


def silu(x):
    return x / 2 * (1 + torch.tanh(x / 2))


class Affine(nn.Module):
    def __init__(self, inputs, outputs, bias):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs) * inputs**-0.5)
        self.bias = nn.Parameter(torch.zeros(outputs)) if bias else None

    def forward(self, x):
        y = x @ self.weight.T
        return y if self.bias is None else y + self.bias


class FeedForward(nn.Module):
    def __init__(self, d_model, d_hidden, dropout=0.0, activation="relu"):
        if activation not in ("relu", "gelu"):
            raise UnknownName(activation)
        super().__init__()
        self.down = Affine(d_hidden, d_model, True)
        self.up = Affine(d_model, d_hidden, True)
        self.p, self.name = dropout, activation

    def forward(self, x):
        h = self.up(x)
        h = gelu(h) if self.name == "gelu" else h.clamp(min=0)
        if self.training and self.p > 0:
            h = torch.where(torch.rand_like(h) < self.p, 0.0, h / (1 - self.p))
        return self.down(h)


class SwiGLU(nn.Module):
    def __init__(self, d_model, d_hidden):
        super().__init__()
        self.gate, self.up, self.down = Affine(d_model, d_hidden, False), Affine(d_model, d_hidden, False), Affine(d_hidden, d_model, False)

    def forward(self, x):
        return self.down(self.up(x) * silu(self.gate(x)))


def swiglu_hidden(d_model, multiple_of=256):
    size = 0
    while 3 * size < 8 * d_model:
        size += multiple_of
    return size
