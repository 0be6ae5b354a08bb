"""Random numbers that are the same on both sides of the wire: a seed crosses, not what is drawn from it."""

from __future__ import annotations

import functools
import hashlib
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

LONG = 2**19


@functools.cache
def numbers() -> Tensor:
    """One long row of them, the same in every process."""
    return torch.randn(LONG, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@functools.lru_cache(maxsize=2048)
def drawn(name: str, shape: tuple[int, ...], seed: int) -> Tensor:
    """N(0, 1 / fan-in) for matrices, N(0, 1) for vectors; not to be changed.

    Each is a stretch of one long row of numbers, from a place that hangs on
    all three: a generator for each parameter cost more than the model.
    """
    place, count = number_from(seed, name, *shape), math.prod(shape)
    if count < LONG:
        start = place % (LONG - count)
        values = numbers()[start : start + count].view(shape)
    else:
        values = torch.randn(shape, generator=torch.Generator().manual_seed(place), dtype=torch.float64)
    return values / shape[-1] ** 0.5 if len(shape) > 1 else values


def set_weights(module: torch.nn.Module, seed: int, dtype: torch.dtype, constant: Mapping[str, float], times: Mapping[str, float]) -> None:
    """Fill each parameter from the seed, its name and its shape.

    Args:
        constant: numbers that fill parameters instead, by a part of their names.
        times: factors for what others are filled with, by their names.
    """
    for name, parameter in module.named_parameters():
        number = next((constant[part] for part in constant if part in name), None)
        if number is not None:
            parameter.data = torch.full_like(parameter.data, number, dtype=dtype)
        elif name in times:
            parameter.data = (drawn(name, tuple(parameter.shape), seed) * times[name]).to(dtype)
        else:
            parameter.data = drawn(name, tuple(parameter.shape), seed).to(dtype, copy=True)
    cast(module, dtype)


def initialize(module: torch.nn.Module, seed: int) -> None:
    """Weights to train from, in float32: matrices from the seed, biases zero, other vectors one."""
    for name, parameter in module.named_parameters():
        if parameter.ndim > 1:
            parameter.data = drawn(name, tuple(parameter.shape), seed).to(torch.float32, copy=True)
        else:
            parameter.data = torch.full_like(parameter.data, 0.0 if name.endswith("bias") else 1.0, dtype=torch.float32)
    cast(module, torch.float32)


def cast(module: torch.nn.Module, dtype: torch.dtype) -> None:
    """As `module.to(dtype)`, which walks through all of a module even if there is nothing to do; its parameters have the dtype already."""
    if any(buffer.is_floating_point() and buffer.dtype != dtype for buffer in module.buffers()):
        module.to(dtype)


def number_from(*parts: Any) -> int:
    """A seed that nobody guesses from its neighbours."""
    digest = hashlib.sha256("\0".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:7], "big")
