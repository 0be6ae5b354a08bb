"""Checks: functions of an implementation, with points."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import Tensor

from kata.compare import ROOM, Comparison, Difference, Outcome, Raised, Value, close, describe
from kata.implementation import Implementation, ImplementationRaised
from kata.inputs import Input, Rung, ladder
from kata.loading import load
from kata.weights import number_from
from kata.wire import Malformed, harmless

UNUSABLE = "kata.Unusable"  # the check itself raised


@dataclass(frozen=True, eq=False)
class Check:
    """A property of a right answer, and what it is worth."""

    name: str
    says: str  # the sentence the learner reads
    points: int
    function: Callable[..., Any]
    inputs: Mapping[str, Input]
    after: tuple[str, ...]
    comparison: Comparison
    sizes: Mapping[str, Sequence[int]]
    draws: int
    wanted: Any = None  # what every right answer gives; None if it is to be seen of the reference
    slow: bool = False  # takes a second or more: not run to name a mistake

    @cached_property
    def rungs(self) -> list[Rung]:
        return ladder(self.inputs, self.sizes, self.draws)

    def run(self, implementation: Implementation, inputs: Mapping[str, Any]) -> Outcome:
        """What this check sees of an implementation on these inputs, the same each time."""
        plain = [list(value.shape) if isinstance(value, Tensor) else value for value in inputs.values()]
        implementation._channel.begins = number_from(self.name, *plain)
        try:
            return Value(self.function(implementation, **copies(inputs)))
        except ImplementationRaised as error:
            return Raised(error.types, error.message, error.traceback)
        except Malformed:
            raise
        except Exception as error:  # the check stumbles over what it was given; on the reference our tests would see it
            came = describe(implementation._channel.last)
            return Raised((UNUSABLE,), f"{came} came back, and the check cannot go on with it: {harmless(error, ROOM)}")


@dataclass(frozen=True)
class Failure:
    """An input on which the answer differs from the reference."""

    rung: Rung
    inputs: dict[str, Any]
    wanted: Outcome
    got: Outcome
    difference: Difference


def copies(inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Inputs that a check may change without others seeing it."""
    return {name: value.clone() if isinstance(value, Tensor) else value for name, value in inputs.items()}


def check(
    *,
    points: int = 1,
    after: Check | Sequence[Check] = (),
    compare: Comparison | None = None,
    sizes: Mapping[str, Sequence[int]] | None = None,
    draws: int = 1,
    wanted: Any = None,
    slow: bool = False,
    **inputs: Input,
) -> Callable[[Callable[..., Any]], Check]:
    """Make a function a check: `function(impl, **inputs)` returns what it saw.

    Args:
        points: what passing is worth.
        after: checks without which this one tells nothing.
        compare: how results are compared; within the dtype's tolerance by default.
        sizes: the legal sizes of an axis, ascending, where not any will do.
        draws: how often values are drawn for each set of sizes.
        wanted: what every right answer gives, if that is one constant: the reference is then not run.
        slow: it takes a second or more, so it is not run on every known mistake to name one.
        inputs: a strategy or a choice for each of the function's inputs.
    """

    def make(function: Callable[..., Any]) -> Check:
        arguments = list(inspect.signature(function).parameters)[1:]
        if arguments != list(inputs):
            raise TypeError(f"check {function.__name__}: inputs {list(inputs)} do not match its arguments {arguments}")
        says = " ".join((function.__doc__ or "").split())
        if not says:
            raise TypeError(f"check {function.__name__}: a docstring must say what is right")
        first = (after,) if isinstance(after, Check) else after
        names = tuple(other.name for other in first)
        return Check(function.__name__, says, points, function, inputs, names, compare or close(), sizes or {}, draws, wanted, slow)

    return make


def load_checks(path: Path) -> list[Check]:
    """The checks of a grader's file, in the order in which they stand."""
    module = load(path.read_text(encoding="utf-8"), path, f"kata_grader_{path.stem}")
    return [value for value in vars(module).values() if isinstance(value, Check)]
