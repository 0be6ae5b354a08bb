"""What a grading says: plain data, for the terminal, for machines, for pytest."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor

from kata.compare import FAR, Raised, describe, shortened, spelled
from kata.implementation import Function

Status = Literal["passed", "failed", "not_reached", "not_written", "error", "timeout"]
PRINTED_WHOLE = 256  # numbers in a tensor that JSON holds whole
ITEMS_WHOLE = 1024  # and items in a container


@dataclass(frozen=True)
class Counterexample:
    """The smallest input that shows a failure, and what came of it."""

    inputs: dict[str, Any]
    wanted: Any  # a value, or Raised
    got: Any
    where: str  # which part of the result differs; "" for the whole


@dataclass(frozen=True)
class NamedMistake:
    """A known mistake that behaves exactly like the answer."""

    id: str
    says: str


@dataclass(frozen=True)
class Result:
    """One check, on one answer."""

    name: str
    says: str
    points: int
    max_points: int
    status: Status
    message: str = ""
    counterexample: Counterexample | None = None
    mistakes: tuple[NamedMistake, ...] = ()  # more than one when they cannot be told apart
    traceback: str = ""


@dataclass(frozen=True)
class Verdict:
    """All checks of a topic, on one answer."""

    topic: str
    file: str
    results: tuple[Result, ...]
    printed: str = ""  # what the answer wrote to its outputs

    @property
    def points(self) -> int:
        return sum(result.points for result in self.results)

    @property
    def max_points(self) -> int:
        return sum(result.max_points for result in self.results)

    @property
    def passed(self) -> bool:
        return all(result.status == "passed" for result in self.results)

    @property
    def first_failure(self) -> Result | None:
        """The first check that failed by itself, not for another one's sake."""
        return next((r for r in self.results if r.status not in ("passed", "not_reached")), None)


def to_json(verdict: Verdict) -> dict[str, Any]:
    """The verdict for machines, as documented in CONTRIBUTING.md."""
    return {
        "topic": verdict.topic,
        "points": verdict.points,
        "max_points": verdict.max_points,
        "passed": verdict.passed,
        "checks": [
            {
                "name": result.name,
                "says": result.says,
                "points": result.points,
                "max_points": result.max_points,
                "status": result.status,
                "message": result.message,
                "counterexample": counterexample_json(result.counterexample),
                "mistake": mistake_json(result.mistakes),
            }
            for result in verdict.results
        ],
    }


def counterexample_json(example: Counterexample | None) -> dict[str, Any] | None:
    if example is None:
        return None
    return {
        "inputs": {name: value_json(value) for name, value in example.inputs.items()},
        "where": example.where,
        "wanted": value_json(example.wanted),
        "got": value_json(example.got),
    }


def mistake_json(mistakes: tuple[NamedMistake, ...]) -> dict[str, str] | None:
    if not mistakes:
        return None
    return {"id": mistakes[0].id, "says": " Or: ".join(mistake.says for mistake in mistakes)}


def value_json(value: Any) -> Any:
    """A value as JSON can hold it; large tensors as their description."""
    if isinstance(value, Tensor):
        if value.numel() > PRINTED_WHOLE:
            return describe(value)
        return finite(value.tolist())
    if isinstance(value, Raised):
        return f"{value.name}: {value.message}"
    if isinstance(value, (list, tuple, dict)) and len(value) > ITEMS_WHOLE:
        return describe(value)
    if isinstance(value, (list, tuple)):
        return [value_json(item) for item in value]
    if isinstance(value, dict):
        return {legal(str(key)): value_json(item) for key, item in value.items()}
    if isinstance(value, str):
        return legal(value)
    if value is None or isinstance(value, (bool, int, float)):
        return finite(value)
    return describe(value) if isinstance(value, Function) else spelled(value)


def legal(text: str) -> str:
    """A text that can be written to a file, and is not without end."""
    return shortened(text.encode(errors="backslashreplace").decode())  # half of a surrogate pair is no character


def finite(value: Any) -> Any:
    """NaN and infinities are no JSON: they become texts."""
    if isinstance(value, list):
        return [finite(item) for item in value]
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        return str(value)
    if isinstance(value, int) and abs(value) > FAR:  # nor do all readers take those
        return spelled(value)
    return value
