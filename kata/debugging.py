"""One check in one process: breakpoints and print work, nothing is limited."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from kata.answer import Unreadable, read_answer
from kata.checks import Check
from kata.compare import Outcome
from kata.curriculum import Topic
from kata.host import Local
from kata.implementation import Implementation
from kata.inputs import Rung
from kata.judge import explain_failure, first_failure
from kata.loading import load
from kata.room import Room
from kata.terminal import details


def debug(console: Console, topic: Topic, name: str, file: Path | None = None) -> int:
    """Run the check on the learner's file, imported here; exit status."""
    room = Room(topic)
    check = next((c for c in room.checks if c.name == name), None)
    if check is None:
        names = [c.name for c in room.checks]
        near = difflib.get_close_matches(name, names, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        console.print(Text(f"{topic.name} has no check {name!r}{hint} It has: {', '.join(names)}."))
        return 2
    path = file or topic.exercise
    try:
        source = read_answer(path)
    except Unreadable as error:
        console.print(Text(str(error)))
        return 1
    answer = Implementation(Local(load(source, path.resolve(), "answer")))

    def seen(check: Check, rung: Rung, key: Any) -> Outcome:
        return check.run(answer, room.wanted(check, rung, key)[0])

    failure = first_failure(room, check, seen, ("check", 0, check.name))
    if failure is None:
        console.print(Text(f"✓ {check.says}", "green"))
        return 0
    console.print(details(explain_failure(check, failure)))
    return 1
