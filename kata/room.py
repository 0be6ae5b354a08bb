"""All that the judge knows of a topic, loaded when it is first asked for."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from kata.checks import Check, load_checks
from kata.curriculum import Topic
from kata.host import Local
from kata.implementation import Implementation
from kata.loading import load
from kata.mistakes import Mistake, load_mistakes


@dataclass(frozen=True)
class Room:
    """Reference, checks and mistakes of one topic."""

    topic: Topic

    @cached_property
    def solution(self) -> str:
        return self.topic.solution.read_text(encoding="utf-8")

    @cached_property
    def reference(self) -> Implementation:
        return Implementation(Local(load(self.solution, self.topic.solution, f"kata_reference_{self.topic.name}")))

    @cached_property
    def checks(self) -> list[Check]:
        return load_checks(self.topic.grader)

    @cached_property
    def mistakes(self) -> list[Mistake]:
        return load_mistakes(self.topic.mistakes, self.solution)
