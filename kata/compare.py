"""Is what came equal to what was wanted, and if not, where?

Types and shapes are told before values. Numbers are compared with a tolerance
that belongs to the dtype; integers, booleans and strings exactly.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from kata.implementation import Method, Object, Parameters

# (relative, absolute): wide enough for another order of summation or for
# statistics in float32, far narrower than any mistake we know.
TOLERANCES = {
    torch.float64: (1e-5, 1e-5),
    torch.float32: (1e-4, 1e-5),
    torch.float16: (5e-3, 5e-3),
    torch.bfloat16: (2e-2, 2e-2),
}
FAR = 2**1000  # no number that is wanted is as large, and few integers beyond it are floats
ROOM = 2000  # characters of a value that are shown: an answer may be of any size


@dataclass(frozen=True)
class Value:
    """A check returned this."""

    value: Any


@dataclass(frozen=True)
class Raised:
    """A check ended in this exception."""

    types: tuple[str, ...]  # the exception's classes, most special first
    message: str
    traceback: str = ""

    @property
    def name(self) -> str:
        return self.types[0].removeprefix("builtins.")


Outcome = Value | Raised


@dataclass(frozen=True)
class Difference:
    """Where and how an outcome is not the wanted one."""

    message: str
    where: str = ""  # "[0]['flops']", empty for the whole value
    wanted: Any = None
    got: Any = None


@dataclass(frozen=True)
class Comparison:
    """How the results of a check are compared."""

    difference: Callable[[Any, Any], Difference | None]  # (wanted, got); None if the answer is right
    alike: Callable[[Any, Any], bool]  # whether two answers do the same, right or wrong


def compare(wanted: Outcome, got: Outcome, comparison: Comparison) -> Difference | None:
    """None if the outcomes are equal."""
    if isinstance(wanted, Raised):
        expected = wanted.types[0]
        if isinstance(got, Raised):
            if expected in got.types:
                return None
            return Difference(f"{wanted.name} wanted, but {got.name} was raised: {got.message}", got=got)
        return Difference(f"{wanted.name} wanted, but nothing was raised", wanted=wanted, got=got.value)
    if isinstance(got, Raised):
        return Difference(f"{got.name}: {got.message}", wanted=wanted.value, got=got)
    found = comparison.difference(wanted.value, got.value)
    if found and found.where:
        return replace(found, message=f"in result{found.where}: {found.message}")
    return found


def same_kind_of_failure(one: Outcome, other: Outcome, comparison: Comparison) -> bool:
    """Whether two implementations behave alike: equal values, or the same exception with the same words."""
    if isinstance(one, Raised) and isinstance(other, Raised):
        return one.types[0] == other.types[0] and one.message == other.message
    return isinstance(one, Value) and isinstance(other, Value) and comparison.alike(one.value, other.value)


def close(rtol: float | None = None, atol: float | None = None) -> Comparison:
    """Equal within a tolerance; the dtype's own where none is given."""

    def difference(wanted: Any, got: Any) -> Difference | None:
        return differ(wanted, got, "", rtol, atol)

    def alike(one: Any, other: Any) -> bool:
        return difference(one, other) is None and difference(other, one) is None  # 4 may stand for 4.0, not 4.0 for 4

    return Comparison(difference, alike)


def at_most(factor: float, least: float = 0.0) -> Comparison:
    """For costs: each number from `least` to `factor` times the reference's.

    The lower bound tells a computation that was hidden from the count.
    """

    def difference(wanted: Any, got: Any) -> Difference | None:
        return differ_costs(wanted, got, factor, least)

    return Comparison(difference, lambda one, other: differ_costs(one, other, 1.1, 0.9) is None)


def differ_costs(wanted: Any, got: Any, factor: float, least: float, where: str = "") -> Difference | None:
    """The first cost, in a number or a dict of numbers, that is out of bounds."""
    if isinstance(wanted, dict):
        if not isinstance(got, dict) or got.keys() != wanted.keys():
            return Difference(f"{describe(wanted)} wanted, {describe(got)} came", where, wanted, got)
        found = (differ_costs(wanted[name], got[name], factor, least, f"[{name!r}]") for name in wanted)
        return next(filter(None, found), None)
    if type(got) not in (int, float) or not abs(got) < FAR:  # nor is NaN below it
        return Difference(f"a number wanted, {describe(got)} came", where, wanted, got)
    what = where.strip("[']").replace("_", " ") or "cost"
    if got > factor * wanted:
        share = f"{got / wanted:.2f} times as much, {factor:g} times is allowed" if wanted else "none is allowed"
        return Difference(f"{what}: {got:,} where {wanted:,} is enough: {share}", where, wanted, got)
    if got < least * wanted:
        return Difference(f"{what}: {got:,} counted where {wanted:,} is needed; some work is not seen", where, wanted, got)
    return None


def differ(wanted: Any, got: Any, where: str, rtol: float | None, atol: float | None) -> Difference | None:
    """The first difference, looking into containers."""
    if isinstance(wanted, Tensor):
        return differ_tensors(wanted, got, where, rtol, atol)
    if isinstance(wanted, (list, tuple)):
        if not isinstance(got, (list, tuple)):
            return Difference(f"{describe(wanted)} wanted, {describe(got)} came", where, wanted, got)
        if len(wanted) != len(got):
            return Difference(f"{len(wanted)} values wanted, {len(got)} came", where, wanted, got)
        pairs = [(f"{where}[{i}]", w, g) for i, (w, g) in enumerate(zip(wanted, got, strict=True))]
    elif isinstance(wanted, dict):
        if not isinstance(got, dict):
            return Difference(f"{describe(wanted)} wanted, {describe(got)} came", where, wanted, got)
        missing, extra = wanted.keys() - got.keys(), got.keys() - wanted.keys()
        if isinstance(got, Parameters):  # one more name for what is asked for is no more than that
            asked_for = {got.same[name] for name in got.keys() & wanted.keys()}
            extra = {name for name in extra if got.same[name] not in asked_for}
        if missing or extra:
            parts = [f"{name!r} is missing" for name in sorted(map(str, missing))]
            parts += [f"{name!r} is not asked for" for name in sorted(map(str, extra))]
            return Difference(shortened("; ".join(parts)), where, wanted, got)
        pairs = [(f"{where}[{key!r}]", wanted[key], got[key]) for key in wanted]
    else:
        return differ_scalars(wanted, got, where, rtol, atol)
    for place, w, g in pairs:
        found = differ(w, g, place, rtol, atol)
        if found:
            return found
    return None


def differ_scalars(wanted: Any, got: Any, where: str, rtol: float | None, atol: float | None) -> Difference | None:
    if isinstance(wanted, float) and type(got) in (int, float):
        if near(wanted, got, *tolerance(torch.float64, rtol, atol)):
            return None
    elif type(wanted) is type(got) and wanted == got:
        return None
    if type(wanted) is type(got) or isinstance(got, (bool, int, float, str)):
        return Difference(f"{spelled(wanted)} wanted, {spelled(got)} came", where, wanted, got)
    return Difference(f"{spelled(wanted)} wanted, {describe(got)} came", where, wanted, got)


def near(wanted: float, got: float, rtol: float, atol: float) -> bool:
    """As `close_elements`, for two numbers."""
    if isinstance(got, int) and abs(got) > FAR:
        return False  # no float holds it
    if not (math.isfinite(wanted) and math.isfinite(got)):
        return wanted == got or (math.isnan(wanted) and math.isnan(got))
    return abs(got - wanted) <= atol + rtol * abs(wanted)


def differ_tensors(wanted: Tensor, got: Any, where: str, rtol: float | None, atol: float | None) -> Difference | None:
    if not isinstance(got, Tensor):
        return Difference(f"{describe(wanted)} wanted, {describe(got)} came", where, wanted, got)
    if wanted.shape != got.shape:
        return Difference(f"shape {tuple(wanted.shape)} wanted, {tuple(got.shape)} came", where, wanted, got)
    if wanted.dtype != got.dtype:
        return Difference(f"dtype {dtype_name(wanted)} wanted, {dtype_name(got)} came", where, wanted, got)
    if torch.equal(wanted, got):
        return None
    wrong = ~close_elements(wanted, got, rtol, atol)
    count = int(wrong.sum())
    if count == 0:
        return None
    first = tuple(wrong.nonzero()[0].tolist())
    at = f" at {list(first)}" if first else ""
    share = f"{count} of {wanted.numel()} values differ; " if wanted.numel() > 1 else ""
    return Difference(f"{share}{number(wanted[first])} wanted{at}, {number(got[first])} came", where, wanted, got)


def close_elements(wanted: Tensor, got: Tensor, rtol: float | None = None, atol: float | None = None) -> Tensor:
    """Element by element, within the dtype's tolerance; NaN equals NaN."""
    if not wanted.is_floating_point():
        return wanted == got
    rtol, atol = tolerance(wanted.dtype, rtol, atol)
    return torch.isclose(got.double(), wanted.double(), rtol, atol, equal_nan=True)


def tolerance(dtype: torch.dtype, rtol: float | None, atol: float | None) -> tuple[float, float]:
    relative, absolute = TOLERANCES[dtype]
    return (relative if rtol is None else rtol, absolute if atol is None else atol)


def dtype_name(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def number(scalar: Tensor) -> str:
    value = scalar.item()
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def describe(value: Any) -> str:
    """What a value is, in a few words."""
    if value is None:
        return "None"
    if isinstance(value, Tensor):
        return f"a {dtype_name(value)} tensor of shape {tuple(value.shape)}"
    if isinstance(value, (list, tuple)):
        return f"a {type(value).__name__} of {len(value)}"
    if isinstance(value, Object):
        return f"an object of type {value._type}"
    if isinstance(value, Method):
        return f"a method ({value._name})"
    return f"{spelled(value)} ({type(value).__name__})"


def spelled(value: Any) -> str:
    """As `repr`, up to where it gets long; the rest is not even made."""
    text = ""
    for piece in pieces(value):
        text += piece
        if len(text) > ROOM:
            break
    return shortened(text)


def pieces(value: Any) -> Iterator[str]:
    """What `repr` consists of."""
    if type(value) in (list, tuple):
        yield "[" if type(value) is list else "("
        for place, item in enumerate(value):
            yield ", " if place else ""
            yield from pieces(item)
        yield "]" if type(value) is list else ",)" if len(value) == 1 else ")"
    elif type(value) is dict:
        yield "{"
        for place, (key, item) in enumerate(value.items()):
            yield ", " if place else ""
            yield from pieces(key)
            yield ": "
            yield from pieces(item)
        yield "}"
    elif isinstance(value, int) and abs(value) > FAR:  # Python may refuse to write it
        yield f"an integer of {value.bit_length()} bits"
    else:
        yield repr(value)


def shortened(text: str) -> str:
    return text if len(text) <= ROOM else text[:ROOM] + "…"
