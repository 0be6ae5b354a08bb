"""What a right answer gives, recorded, so that answers can be checked where no solution is.

A file of messages as they go over the wire, one for each run of a check, and
the names that the topic asks for in a JSON file beside it.
"""

from __future__ import annotations

import json
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from kata.checks import Check
from kata.compare import Outcome, Raised, Value
from kata.curriculum import CurriculumError
from kata.inputs import Rung
from kata.mistakes import Mistake
from kata.room import Room
from kata.stubs import names_of
from kata.wire import DTYPES, NAMES, Written, opened, receive, send

SEED = 0  # the recorded one


def record(room: Room, file: Path) -> None:
    """Write inputs and outcomes of all checks of a room, on all rungs of the recorded seed."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("wb") as stream:
        for check in room.checks:
            for rung in check.rungs:
                inputs, outcome = room.wanted(check, rung, key(check))
                raised = {"raised": [outcome.types, outcome.message]} if isinstance(outcome, Raised) else {}
                value = None if isinstance(outcome, Raised) else outcome.value
                send(stream, Written(raised, [inputs, value], wrap))
    file.with_suffix(".json").write_text(json.dumps({"names": names_of(room.topic)}), encoding="utf-8")


def key(check: Check) -> tuple[str, int, str]:
    return "check", SEED, check.name


def wrap(value: Any) -> tuple[str, Any]:
    if isinstance(value, torch.dtype):
        return "dtype", NAMES[value]
    raise TypeError(f"{value!r} cannot be recorded: a check must return data")


def unwrap(kind: str, content: Any) -> Any:
    return DTYPES[content]


def outcome_from(raised: Any, value: Any) -> Outcome:
    if raised is None:
        return Value(value)
    types, message = raised
    return Raised(tuple(types), message)


class Recorded(Room):
    """A room without a solution: it knows no mistakes, and the outcomes of one seed."""

    @cached_property
    def names(self) -> list[str]:
        return names_of(self.topic)

    @cached_property
    def mistakes(self) -> list[Mistake]:
        return []

    @cached_property
    def outcomes(self) -> dict[tuple[str, Rung], tuple[dict[str, Any], Outcome]]:
        found: dict[tuple[str, Rung], tuple[dict[str, Any], Outcome]] = {}
        with self.topic.recorded.open("rb") as stream:
            for check in self.checks:
                for rung in check.rungs:
                    message = receive(stream)
                    if message is None:
                        raise CurriculumError(f"{self.topic.recorded} ends too early; have it built again")
                    inputs, value = opened(message, unwrap)
                    found[check.name, rung] = inputs, outcome_from(message.header.get("raised"), value)
        return found

    def knows(self, check: Check, rung: Rung) -> bool:
        return (check.name, rung) in self.outcomes

    def wanted(self, check: Check, rung: Rung, key: Any) -> tuple[dict[str, Any], Outcome]:
        return self.outcomes[check.name, rung]
