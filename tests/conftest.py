"""What tests share: the topics, one way of starting runners, a shortcut to a verdict."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch

from kata.curriculum import load_curriculum
from kata.judge import Room, grade
from kata.loading import load
from kata.processes import Starter, starter
from kata.verdict import Verdict

torch.set_num_threads(1)

ANSWERS = Path(__file__).parent / "answers"
TOPICS = load_curriculum().topics
ROOMS = {topic.name: Room(topic) for topic in TOPICS}


def solution(topic: str) -> ModuleType:
    """A topic's reference as a module, for its oracles."""
    room = ROOMS[topic]
    return load(room.solution, room.topic.solution, f"solution_{topic}")


@pytest.fixture(scope="session")
def runners() -> Iterator[Starter]:
    started = starter()
    yield started
    started.close()


@pytest.fixture
def verdict_on(runners: Starter, tmp_path: Path) -> Callable[..., Verdict]:
    """verdict_on("attention", source) grades a source as a learner's file."""

    def verdict(topic: str, source: str | bytes, seed: int = 0, wall: float = 5.0) -> Verdict:
        file = tmp_path / f"{topic}.py"
        file.write_bytes(source.encode() if isinstance(source, str) else source)
        return grade(ROOMS[topic], file, runners, seed, wall)

    return verdict
