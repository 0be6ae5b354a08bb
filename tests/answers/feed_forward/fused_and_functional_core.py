"""Pure functions of weights below, modules as thin faces; gate and up in one product; dropout as a bernoulli draw."""

import functools
import math
from typing import Optional

import torch
from torch import Tensor, nn


def _phi(x: Tensor) -> Tensor:
    return torch.distributions.Normal(torch.zeros_like(x), torch.ones_like(x), validate_args=False).cdf(x)


def _phi_tanh(x: Tensor) -> Tensor:
    u = math.sqrt(8 / math.pi) * torch.addcmul(x, x * x, x, value=0.044715)
    return u.sigmoid()


_PHIS = {"none": _phi, "tanh": _phi_tanh}


def gelu(x: Tensor, approximate: str = "none") -> Tensor:
    try:
        return torch.mul(x, _PHIS[approximate](x))
    except KeyError:
        raise ValueError(f"{approximate!r} is not one of {sorted(_PHIS)}") from None


def silu(x: Tensor) -> Tensor:
    return x * torch.nn.functional.logsigmoid(x).exp()


def _network(x: Tensor, up, down, act, keep: Optional[Tensor]) -> Tensor:
    h = act(torch.einsum("...m,fm->...f", x, up.weight) + up.bias)
    h = h if keep is None else h * keep
    return torch.einsum("...f,mf->...m", h, down.weight) + down.bias


class FeedForward(nn.Module):
    def __init__(self, d_model: int, d_hidden: int, dropout: float = 0.0, activation: str = "relu") -> None:
        super().__init__()
        self.act = {"relu": functools.partial(torch.clamp, min=0), "gelu": gelu}.get(activation)
        if self.act is None:
            raise ValueError(activation)
        self.up = nn.Linear(d_model, d_hidden)
        self.down = nn.Linear(d_hidden, d_model)
        self.keep = 1 - dropout

    def forward(self, x: Tensor) -> Tensor:
        keep = None
        if self.training and self.keep < 1:
            shape = (*x.shape[:-1], self.up.out_features)
            keep = torch.bernoulli(torch.full(shape, self.keep, dtype=x.dtype)) / self.keep
        return _network(x, self.up, self.down, self.act, keep)


class SwiGLU(nn.Module):
    def __init__(self, d_model: int, d_hidden: int) -> None:
        super().__init__()
        self.gate = nn.Linear(d_model, d_hidden, bias=False)
        self.up = nn.Linear(d_model, d_hidden, bias=False)
        self.down = nn.Linear(d_hidden, d_model, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        both = x @ torch.cat([self.gate.weight, self.up.weight]).mT
        gate, up = both.chunk(2, dim=-1)
        return (silu(gate) * up) @ self.down.weight.mT


def swiglu_hidden(d_model: int, multiple_of: int = 256) -> int:
    thirds, block = 8 * d_model, 3 * multiple_of
    full, rest = divmod(thirds, block)
    return (full + bool(rest)) * multiple_of
