"""Layers as convolutions of width 1, a gated layer token by token; softplus, glu and masks written into by index."""

import torch
import torch.nn.functional as F
from torch import nn


def gelu(x, approximate="none"):
    if approximate == "none":
        return (torch.erf(x * 0.7071067811865476) + 1).mul_(0.5) * x
    elif approximate == "tanh":
        u = (2 / torch.pi) ** 0.5 * (x + 0.044715 * x * x * x)
        doubled = torch.stack([torch.ones_like(u), 2 * u])
        return F.glu(doubled, dim=0)[0] * x
    else:
        raise ValueError("approximate: none or tanh, not " + str(approximate))


def silu(x):
    return x * torch.exp(-F.softplus(-x))


class FeedForward(nn.Module):
    def __init__(self, d_model, d_hidden, dropout=0.0, activation="relu"):
        assert 0 <= dropout < 1
        super().__init__()
        self.up = nn.Linear(d_model, d_hidden, bias=True)
        self.down = nn.Linear(d_hidden, d_model, bias=True)
        self.dropout = dropout
        if activation != "relu" and activation != "gelu":
            raise ValueError
        self.use_gelu = activation == "gelu"

    def forward(self, x):
        columns = x.reshape(1, -1, x.shape[-1]).transpose(1, 2)
        hidden = F.conv1d(columns, self.up.weight.unsqueeze(-1), self.up.bias)
        hidden = gelu(hidden) if self.use_gelu else hidden * (hidden > 0)
        if self.training and self.dropout:
            hidden = hidden.clone()
            hidden[torch.rand(hidden.shape) < self.dropout] = 0
            hidden /= 1 - self.dropout
        out = F.conv1d(hidden, self.down.weight.unsqueeze(-1), self.down.bias)
        return out.transpose(1, 2).reshape(x.shape)


class SwiGLU(nn.Module):
    def __init__(self, d_model, d_hidden):
        super().__init__()
        self.down = nn.Linear(d_hidden, d_model, bias=False)
        self.up = nn.Linear(d_model, d_hidden, bias=False)
        self.gate = nn.Linear(d_model, d_hidden, bias=False)

    def forward(self, x):
        rows = []
        for token in x.reshape(-1, x.shape[-1]):
            rows.append(self.down.weight @ (silu(self.gate.weight @ token) * (self.up.weight @ token)))
        return torch.stack(rows).view(x.shape)


def swiglu_hidden(d_model, multiple_of=256):
    exact = d_model * 8
    while exact % (3 * multiple_of):
        exact += 1
    return exact // 3
