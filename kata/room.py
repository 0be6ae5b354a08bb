"""All that the judge knows of a topic, loaded when it is first asked for."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from types import ModuleType
from typing import Any

from kata.checks import UNUSABLE, Check, load_checks
from kata.compare import Outcome, Raised, Value, compare
from kata.curriculum import Topic
from kata.host import Local
from kata.implementation import Implementation
from kata.inputs import Rung
from kata.loading import load
from kata.mistakes import Mistake, load_mistakes
from kata.reach import MARK, differing, marked
from kata.stubs import public_names

COMPUTING = threading.RLock()  # what runs in this process has one global generator
REMEMBERED = 16_384  # outcomes on inputs that come again


@dataclass(frozen=True)
class Room:
    """Reference, checks and mistakes of one topic."""

    topic: Topic

    @cached_property
    def solution(self) -> str:
        return self.topic.solution.read_text(encoding="utf-8")

    @cached_property
    def names(self) -> list[str]:
        """What the topic asks for."""
        return public_names(self.solution)

    @cached_property
    def module(self) -> ModuleType:
        """The solution, marked to tell what it reaches."""
        return load(self.solution, self.topic.solution, f"kata_reference_{self.topic.name}", marked(self.solution))

    @cached_property
    def reference(self) -> Implementation:
        return Implementation(Local(self.module))

    def knows(self, check: Check, rung: Rung) -> bool:
        """Whether it can say what is wanted on this rung."""
        return True

    def wanted(self, check: Check, rung: Rung, key: Any) -> tuple[dict[str, Any], Outcome]:
        """Inputs, and what a right answer gives on them; computed once for all answers."""
        place = (check.name, rung, key)
        with COMPUTING:
            if place not in self.seen:
                if len(self.seen) >= REMEMBERED:
                    self.seen.clear()
                    self.reached.clear()
                inputs = rung.inputs(check.inputs, key)
                if check.wanted is None:
                    outcome, self.reached[place] = self.watched(lambda: check.run(self.reference, inputs))
                else:
                    outcome = Value(check.wanted)
                if isinstance(outcome, Raised) and outcome.types[0] == UNUSABLE:  # else an answer over which it stumbles too would pass
                    raise RuntimeError(f"the check {check.name} stumbles over the reference: {outcome.message}")
                self.seen[place] = inputs, outcome
            return self.seen[place]

    def watched(self, run: Callable[[], Outcome]) -> tuple[Outcome, frozenset[str]]:
        """What comes of running the reference, and which of its functions were called then, or as it was loaded."""
        names: set[str] = getattr(self.module, MARK)
        loading = frozenset(names)
        try:
            return run(), frozenset(names)
        finally:
            names &= loading

    def meets(self, mistake: Mistake, place: Any) -> bool:
        """Whether what the reference did there has come to where the mistake is."""
        if mistake.id not in self.differences:
            self.differences[mistake.id] = differing(self.solution, mistake.source)
        differences, reached = self.differences[mistake.id], self.reached.get(place)
        return differences is None or reached is None or not differences.isdisjoint(reached)

    @cached_property
    def differences(self) -> dict[str, frozenset[str] | None]:
        return {}

    @cached_property
    def reached(self) -> dict[Any, frozenset[str]]:
        return {}

    @cached_property
    def seen(self) -> dict[Any, tuple[dict[str, Any], Outcome]]:
        return {}

    def outcome_of(self, mistake: Mistake, check: Check, rung: Rung, key: Any) -> Outcome:
        """What the check sees of a mistake; computed once for all answers."""
        place = (mistake.id, check.name, rung, key)
        with COMPUTING:
            if place not in self.made:
                if len(self.made) >= REMEMBERED:
                    self.made.clear()
                inputs, wanted = self.wanted(check, rung, key)
                met = self.meets(mistake, (check.name, rung, key))
                self.made[place] = check.run(mistake.implementation, inputs) if met else wanted
            return self.made[place]

    def fails(self, mistake: Mistake, check: Check, rung: Rung, key: Any) -> bool:
        """Whether a mistake gives something else than a right answer; computed once for all answers."""
        place = (mistake.id, check.name, rung, key)
        if place not in self.wrong:
            if len(self.wrong) >= REMEMBERED:
                self.wrong.clear()
            _, wanted = self.wanted(check, rung, key)
            self.wrong[place] = compare(wanted, self.outcome_of(mistake, check, rung, key), check.comparison) is not None
        return self.wrong[place]

    def known_to_fail(self, mistake: Mistake, check: Check, rung: Rung, key: Any) -> bool:
        """Whether it was seen to fail; nothing is run."""
        return (mistake.id, check.name, rung, key) in self.made and self.fails(mistake, check, rung, key)

    @cached_property
    def wrong(self) -> dict[Any, bool]:
        return {}

    @cached_property
    def made(self) -> dict[Any, Outcome]:
        return {}

    @cached_property
    def checks(self) -> list[Check]:
        return load_checks(self.topic.grader)

    @cached_property
    def mistakes(self) -> list[Mistake]:
        return load_mistakes(self.topic.mistakes, self.solution)
