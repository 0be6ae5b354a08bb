"""The topics as the judge knows them, for all tests."""

from __future__ import annotations

import subprocess
from pathlib import Path
from types import ModuleType

from kata.curriculum import ROOT, load_curriculum
from kata.loading import load
from kata.room import Room

ANSWERS = Path(__file__).parent / "answers"
TOPICS = load_curriculum().topics
ROOMS = {topic.name: Room(topic) for topic in TOPICS}


def solution(topic: str) -> ModuleType:
    """A topic's reference as a module, for its oracles."""
    room = ROOMS[topic]
    return load(room.solution, room.topic.solution, f"solution_{topic}")


def committed(path: Path) -> str:
    """A file as it is in git's index, where learners' edits do not show; without git, as it lies there."""
    shown = subprocess.run(["git", "show", f":{path.relative_to(ROOT).as_posix()}"], cwd=ROOT, capture_output=True)
    return (shown.stdout if shown.returncode == 0 else path.read_bytes()).decode()


def tracked(*trees: str) -> list[str]:
    """Paths of the files that git holds, below some folders or everywhere."""
    return subprocess.run(["git", "ls-files", "-z", *trees], cwd=ROOT, capture_output=True, text=True).stdout.rstrip("\0").split("\0")
