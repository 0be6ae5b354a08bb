"""A known mistake in the place of a learner's answer: graded alike, without a process, and from memory where it can be."""

from __future__ import annotations

import contextlib
from typing import Any

from kata.checks import Check
from kata.compare import Outcome
from kata.inputs import Rung
from kata.mistakes import Mistake
from kata.processes import RunnerLost
from kata.room import Room


class Rehearsal:
    """What the judge asks of a `Learner`, answered by a mistake."""

    process = None

    def __init__(self, mistake: Mistake):
        self.mistake = mistake
        self.printed: list[str] = []

    def limited(self, times: float = 1.0) -> contextlib.nullcontext[None]:
        return contextlib.nullcontext()

    def start(self) -> None:
        pass

    def stop(self) -> int:
        return 0

    def lost(self, why: str | None = None) -> RunnerLost:
        return RunnerLost("error", why or "was lost")

    def outcome(self, room: Room, check: Check, rung: Rung, key: Any) -> Outcome:
        return room.outcome_of(self.mistake, check, rung, key)
