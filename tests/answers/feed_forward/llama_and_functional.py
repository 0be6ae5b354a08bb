"""As in Llama's and GPT-2's own code: nn.functional everywhere, an int cut before it is rounded up; names refused when called."""

import math

import torch
import torch.nn.functional as F
from torch import nn


def gelu(x: torch.Tensor, approximate: str = "none") -> torch.Tensor:
    if approximate not in {"none", "tanh"}:
        raise ValueError(approximate)
    if approximate == "tanh":
        return 0.5 * x * (1.0 + torch.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * torch.pow(x, 3.0))))
    return x * 0.5 * (1.0 + torch.erf(x / math.sqrt(2.0)))


def silu(x):
    return torch.sigmoid(x).mul(x)


class FeedForward(nn.Module):
    def __init__(self, d_model, d_hidden, dropout=0.0, activation="relu"):
        super().__init__()
        self.up = nn.Linear(d_model, d_hidden)
        self.down = nn.Linear(d_hidden, d_model)
        self.dropout = dropout
        self.activation = activation

    def forward(self, x):
        x = F.linear(x, self.up.weight, self.up.bias)
        if self.activation == "relu":
            x = F.relu(x, inplace=True)
        elif self.activation == "gelu":
            x = gelu(x)
        else:
            raise ValueError(f"unknown activation {self.activation}")
        x = F.dropout(x, p=self.dropout, training=self.training)
        return F.linear(x, self.down.weight, self.down.bias)


class SwiGLU(nn.Module):
    def __init__(self, d_model: int, d_hidden: int):
        super().__init__()
        self.up = nn.Linear(d_model, d_hidden, bias=False)
        self.gate = nn.Linear(d_model, d_hidden, bias=False)
        self.down = nn.Linear(d_hidden, d_model, bias=False)

    def forward(self, x):
        return self.down(silu(self.gate(x)) * self.up(x))


def swiglu_hidden(d_model, multiple_of=256):
    hidden_dim = 4 * d_model
    hidden_dim = int(2 * hidden_dim / 3)
    return multiple_of * ((hidden_dim + multiple_of - 1) // multiple_of)


if __name__ == "__main__":
    x = torch.randn(1000) * 3
    torch.testing.assert_close(gelu(x), F.gelu(x))
    torch.testing.assert_close(gelu(x, "tanh"), F.gelu(x, approximate="tanh"))
    torch.testing.assert_close(silu(x), F.silu(x))
