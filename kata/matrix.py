"""Which check catches which mistake: how a grader is seen by those who write it."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table
from rich.text import Text

from kata.curriculum import Topic
from kata.mistakes import Mistake
from kata.room import Room


def caught_by(room: Room, mistake: Mistake) -> list[str]:
    """The checks that a mistake trips, each judged without those that it comes after."""
    return [c.name for c in room.checks if any(room.fails(mistake, c, rung, ("check", 0, c.name)) for rung in c.rungs)]


def show(console: Console, topic: Topic) -> int:
    """Print the matrix; 1 if a check is idle or a mistake gets through."""
    room = Room(topic)
    caught = {mistake.id: caught_by(room, mistake) for mistake in room.mistakes}
    table = Table(box=None, header_style="dim", show_header=False)
    for mistake, checks in caught.items():
        first, *others = checks or [""]
        rest = Text("".join(f", {name}" for name in others), "dim")
        table.add_row(Text(mistake, "" if checks else "bold red"), Text(first, "bold") + rest)
    console.print(table)
    counts = Table(box=None, header_style="dim")
    counts.add_column("check")
    counts.add_column("mistakes", justify="right")
    counts.add_column("caught by it first", justify="right")
    for check in room.checks:
        total = sum(check.name in checks for checks in caught.values())
        first_here = sum(checks[:1] == [check.name] for checks in caught.values())
        counts.add_row(Text(check.name, "" if total else "bold red"), str(total), str(first_here))
    console.print(counts)
    tripped = {name for checks in caught.values() for name in checks}
    return 0 if all(caught.values()) and tripped == {check.name for check in room.checks} else 1
