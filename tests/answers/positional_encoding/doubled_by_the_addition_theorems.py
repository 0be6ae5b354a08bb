"""The table doubles by the addition theorems until it is long enough; a base class for both kinds; typed and compiled."""

from __future__ import annotations

from typing import Optional

import torch
from torch import Tensor, nn


def sinusoidal_positions(length: int, d_model: int, base: float = 10000.0) -> Tensor:
    exponent = torch.arange(0, d_model + 1, 2, dtype=torch.float64) / d_model
    frequency = torch.exp(-exponent * torch.tensor(base, dtype=torch.float64).log())
    sine, cosine = torch.zeros(1, len(frequency), dtype=torch.float64), torch.ones(1, len(frequency), dtype=torch.float64)
    while len(sine) < length:  # sin(a + b) and cos(a + b), where b is all that there is so far
        s, c = torch.sin(len(sine) * frequency), torch.cos(len(sine) * frequency)
        sine, cosine = torch.cat([sine, sine * c + cosine * s]), torch.cat([cosine, cosine * c - sine * s])
    table = torch.empty(length, 2 * len(frequency))
    table[:, ::2] = sine[:length]
    table[:, 1::2] = cosine[:length]
    return table[:, :d_model]


class _Positions(nn.Module):
    def table(self) -> Tensor:
        raise NotImplementedError

    def after(self, x: Tensor) -> Tensor:
        return x

    def forward(self, x: Tensor, start: Optional[int] = 0) -> Tensor:
        table = self.table()
        last = (start or 0) + x.size(1)
        if last > table.size(0):
            raise ValueError(f"cannot encode up to {last}: only {table.size(0)} positions exist")
        return self.after(x + table[None, last - x.size(1) : last])


class LearnedPositions(_Positions):
    def __init__(self, max_len: int, d_model: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(nn.init.trunc_normal_(torch.empty(max_len, d_model), std=0.02))

    def table(self) -> Tensor:
        return self.weight


class SinusoidalPositions(_Positions):
    def __init__(self, d_model: int, max_len: int = 5000, dropout: float = 0.0) -> None:
        super().__init__()
        self.register_buffer("sinusoids", sinusoidal_positions(max_len, d_model), persistent=False)
        self.after_sum = nn.Sequential(nn.Dropout(dropout))

    def table(self) -> Tensor:
        return self.sinusoids

    def after(self, x: Tensor) -> Tensor:
        return self.after_sum(x)


class TokenEmbedding(nn.Module):
    def __init__(self, vocab_size: int, d_model: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(vocab_size, d_model))
        self.register_buffer("scale", torch.tensor(float(d_model)).sqrt(), persistent=False)

    @torch.compile
    def forward(self, ids: Tensor) -> Tensor:
        return self.scale * torch.embedding(self.weight, ids) if self.known(ids) else self.weight[len(self.weight)]

    def known(self, ids: Tensor) -> bool:
        return bool(((ids >= 0) & (ids < len(self.weight))).all())
