"""The topics as the judge knows them, for all tests."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

from kata.curriculum import load_curriculum
from kata.loading import load
from kata.room import Room

ANSWERS = Path(__file__).parent / "answers"
TOPICS = load_curriculum().topics
ROOMS = {topic.name: Room(topic) for topic in TOPICS}


def solution(topic: str) -> ModuleType:
    """A topic's reference as a module, for its oracles."""
    room = ROOMS[topic]
    return load(room.solution, room.topic.solution, f"solution_{topic}")
