"""One grading as a request and its reply: plain data, so that a warm process may answer it as well as this one."""

from __future__ import annotations

import io
import threading
from pathlib import Path
from typing import Any

from rich.console import Console

from kata import judge, terminal, verdict
from kata.curriculum import Topic, load_curriculum
from kata.processes import Starter
from kata.room import Room


class Service:
    """Grades what is asked for, and remembers rooms as long as their files stay as they are."""

    def __init__(self, starter: Starter):
        self.starter = starter
        self.rooms: dict[str, tuple[list[bytes], Room, threading.Lock]] = {}
        self.opening = threading.Lock()

    def grade(self, request: dict[str, Any], starter: Starter | None = None) -> dict[str, Any]:
        """The reply to a `request.request_for`: the verdict for machines, and as text for the asker's terminal.

        Raises:
            CurriculumError: the curriculum is broken.
            CannotStart: runners cannot be started.
        """
        topic = load_curriculum().find(request["topic"])
        room, alone = self.room(topic)
        with alone:  # one answer at a time in a room
            result = judge.grade(room, Path(request["file"]), starter or self.starter, request["seed"], shown=request["shown"])
        text = Page(request["terminal"])
        console = Console(
            file=text,
            width=request["width"],
            force_jupyter=False,  # it would show itself in the notebook from which it was asked
            _environ=request["environment"],
            highlight=False,
            markup=False,
        )
        terminal.show(console, result, topic, request["hints_left"], request["everything"])
        return {"verdict": verdict.to_json(result), "text": text.getvalue()}

    def room(self, topic: Topic) -> tuple[Room, threading.Lock]:
        """The topic's room, opened afresh when a file of it has changed."""
        solved = topic.solution.exists()
        files = (topic.solution, topic.grader, topic.mistakes) if solved else (topic.recorded, topic.grader)
        contents = [file.read_bytes() for file in files]
        with self.opening:
            known = self.rooms.get(topic.name)
            if known is None or known[0] != contents or known[1].topic != topic:
                self.rooms[topic.name] = known = contents, Room(topic) if solved else recorded(topic), threading.Lock()
            return known[1:]


class Page(io.StringIO):
    """What is to be shown, as if it were the asker's output."""

    def __init__(self, terminal: bool):
        super().__init__()
        self.terminal = terminal

    def isatty(self) -> bool:
        return self.terminal


def recorded(topic: Topic) -> Room:
    from kata.recording import Recorded  # only students' bundles need it

    return Recorded(topic)
