"""What checks are run on: sizes that climb a ladder, values drawn from a seed.

A strategy such as `normal("B L D")` names its axes. The ladder gives each name
a size: smallest first, so that the first failure is already a small one; then
all different, so that a transposition shows; then all equal, since some
mistakes show only there.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Generator, Tensor

from kata.weights import number_from

Sizes = dict[str, int]


@dataclass(frozen=True)
class Strategy:
    """How to draw one input."""

    axes: tuple[str, ...]
    draw: Callable[[Sizes, Generator], Any]


@dataclass(frozen=True)
class Choice:
    """Options that the rungs of a ladder take in turn."""

    options: tuple[Any, ...]
    axes: tuple[str, ...] = ()


Input = Strategy | Choice


def shape_of(axes: str, sizes: Mapping[str, int]) -> list[int]:
    """Sizes of "B L H*D": names, numbers and their products."""
    return [math.prod(int(f) if f.isdigit() else sizes[f] for f in axis.split("*")) for axis in axes.split()]


def names_in(axes: str) -> tuple[str, ...]:
    return tuple(f for axis in axes.split() for f in axis.split("*") if not f.isdigit())


def normal(axes: str, scale: float = 1.0, mean: float = 0.0, dtype: torch.dtype = torch.float64) -> Strategy:
    """Reals around `mean`, with two decimals before they are scaled, so that they can be read."""

    def draw(sizes: Sizes, generator: Generator) -> Tensor:
        values = torch.randn(shape_of(axes, sizes), generator=generator, dtype=torch.float64)
        return (((values * 100).round() / 100) * scale + mean).to(dtype)

    return Strategy(names_in(axes), draw)


def booleans(axes: str, share: float = 0.5, some: bool = False) -> Strategy:
    """True with the given probability; with `some`, at least once along the last axis."""

    def draw(sizes: Sizes, generator: Generator) -> Tensor:
        shape = shape_of(axes, sizes)
        values = torch.rand(shape, generator=generator) < share
        if some:
            chosen = torch.randint(shape[-1], [*shape[:-1], 1], generator=generator)
            values.scatter_(-1, chosen, True)
        return values

    return Strategy(names_in(axes), draw)


def indices(axes: str, below: str | int, unique: bool = False, start: int = 0) -> Strategy:
    """Integers from `start` up to, not including, `below`: a number or an axis; with `unique`, no two alike along the last axis."""

    def draw(sizes: Sizes, generator: Generator) -> Tensor:
        shape, end = shape_of(axes, sizes), shape_of(str(below), sizes)[0]
        if unique:
            return torch.rand([*shape[:-1], end - start], generator=generator).argsort(-1)[..., : shape[-1]] + start
        return torch.randint(start, end, shape, generator=generator)

    return Strategy((*names_in(axes), *names_in(str(below))), draw)


def distinct(axes: str, spread: float = 1.0) -> Strategy:
    """Reals of which no two along the last axis are closer than half of `spread`: no ties."""

    def draw(sizes: Sizes, generator: Generator) -> Tensor:
        noise = torch.rand(shape_of(axes, sizes), generator=generator, dtype=torch.float64)
        order = noise.argsort(-1).double()
        jitter = (torch.rand(order.shape, generator=generator, dtype=torch.float64) * 50).round() / 100
        return (order - order.shape[-1] // 2 + jitter) * spread

    return Strategy(names_in(axes), draw)


def index(below: str | int, start: int = 0) -> Strategy:
    """One integer from `start` up to, not including, `below`: a number or an axis."""

    def draw(sizes: Sizes, generator: Generator) -> int:
        return int(torch.randint(start, shape_of(str(below), sizes)[0], (), generator=generator))

    return Strategy(names_in(str(below)), draw)


def count(up_to: str | int) -> Strategy:
    """One integer from 1 to `up_to`: a number or an axis."""

    def draw(sizes: Sizes, generator: Generator) -> int:
        return int(torch.randint(1, shape_of(str(up_to), sizes)[0] + 1, (), generator=generator))

    return Strategy(names_in(str(up_to)), draw)


def size(axis: str) -> Strategy:
    """The size of an axis, or of a product of axes, itself."""
    return Strategy(names_in(axis), lambda sizes, _: shape_of(axis, sizes)[0])


SCRIPTS = "aZ 0\n\0éßжλ中한क🙂👍🏽"  # one to four bytes of UTF-8 each; the last two are seen as one character


def text(length: str | int, alphabet: Sequence[str] = SCRIPTS) -> Strategy:
    """A text of `length`, a number or an axis, pieces of the alphabet: by default characters of many scripts."""

    def draw(sizes: Sizes, generator: Generator) -> str:
        chosen = torch.randint(len(alphabet), (shape_of(str(length), sizes)[0],), generator=generator)
        return "".join(alphabet[i] for i in chosen.tolist())

    return Strategy(names_in(str(length)), draw)


def choice(*options: Any) -> Choice:
    """One of the options; each ladder comes to all of them, beginning with any."""
    return Choice(options)


def seed() -> Strategy:
    """A seed for `with_weights` and `gradients`."""
    return Strategy((), lambda _, generator: int(torch.randint(1 << 30, (), generator=generator)))


@dataclass(frozen=True)
class Rung:
    """One step of the ladder: sizes, the number of the draw, and whose turn it is of the options."""

    sizes: tuple[tuple[str, int], ...]
    draw: int = 0
    turn: int = 0

    def inputs(self, strategies: Mapping[str, Input], key: Any) -> dict[str, Any]:
        """Fresh inputs; the same for the same key."""
        sizes = dict(self.sizes)
        values: dict[str, Any] = {}
        choices = 0
        for name, strategy in strategies.items():
            if isinstance(strategy, Choice):
                rounds = self.turn // len(strategy.options)  # with each, two choices meet in other pairs
                place = number_from(key, name) + self.turn + choices * rounds
                values[name] = strategy.options[place % len(strategy.options)]
                choices += 1
            else:
                generator = torch.Generator().manual_seed(number_from(key, name, self.sizes, self.draw))
                values[name] = strategy.draw(sizes, generator)
        return values


SMALL = (1, 2, 3, 4, 5, 6, 7, 8)


def ladder(strategies: Mapping[str, Input], allowed: Mapping[str, Sequence[int]], draws: int) -> list[Rung]:
    """Rungs for these inputs, smallest first.

    Args:
        allowed: the legal sizes of an axis, ascending, where it is not any from 1 up.
        draws: how often values are drawn for each set of sizes; more often if there are more options than rungs.
    """
    axes = list(dict.fromkeys(axis for strategy in strategies.values() for axis in strategy.axes))
    options = {axis: tuple(allowed.get(axis, SMALL)) for axis in axes}

    def at(*places: int) -> Sizes:
        return {axis: options[axis][place % len(options[axis])] for axis, place in zip(axes, places, strict=True)}

    n = len(axes)
    rising = list(range(1, n + 1))
    with_one = [(place + n // 2) % n for place in range(n)]  # all different, the smallest in the middle
    steps = [at(*[0] * n), at(*[1] * n), at(*rising), at(*rising[::-1]), at(*with_one), at(*[2] * n)]
    unique = list(dict.fromkeys(tuple(sizes.items()) for sizes in steps))
    most_options = max((len(s.options) for s in strategies.values() if isinstance(s, Choice)), default=1)
    draws = max(draws, math.ceil(most_options / len(unique)))
    rungs = enumerate(itertools.product(unique, range(draws)))
    return [Rung(sizes, draw, turn if most_options > 1 else 0) for turn, (sizes, draw) in rungs]


def smaller(rung: Rung, allowed: Mapping[str, Sequence[int]]) -> Iterator[Rung]:
    """Rungs with one axis made smaller, the smallest first."""
    sizes = dict(rung.sizes)
    for axis in sizes:
        for less in itertools.takewhile(lambda s, axis=axis: s < sizes[axis], allowed.get(axis, SMALL)):  # type: ignore[misc]
            for draw in range(2):
                yield Rung(tuple((sizes | {axis: less}).items()), draw, rung.turn)
