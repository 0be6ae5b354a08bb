"""`make bench`: how long feedback takes. Medians of runs on this machine, with minimum and maximum; ratios within one run.

No grade depends on any of this.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from rich.console import Console
from rich.table import Table

from kata.curriculum import ROOT, load_curriculum
from kata.judge import grade
from kata.learner import Learner
from kata.processes import Starter, starter
from kata.room import Room

COLD_RUNS = 7
WARM_RUNS = 15


def seconds(action: Callable[[], object]) -> float:
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def python(*arguments: str) -> Callable[[], object]:
    return lambda: subprocess.run([sys.executable, *arguments], cwd=ROOT, stdout=subprocess.DEVNULL, check=True)


def cold(room: Room) -> Iterator[tuple[str, list[float]]]:
    bare, check = [], []
    command = python("-m", "kata", "check", room.topic.name, "--file", str(room.topic.solution))
    for run in range(COLD_RUNS + 1):
        pair = seconds(python("-c", "import torch")), seconds(command)
        if run:  # the first of each warms the disk
            bare.append(pair[0])
            check.append(pair[1])
    yield "python -c 'import torch'", bare
    yield f"cold `kata check {room.topic.name}`", check
    yield "  ratio, pair by pair", [c / b for b, c in zip(bare, check, strict=True)]


def one_call(room: Room, runners: Starter) -> tuple[str, list[float]]:
    learner = Learner(runners, room.solution + "\n\ndef nothing():\n    return None\n", "bench.py", room.topic.off_limits)
    learner.start()
    with learner.limited():
        times = [seconds(learner.implementation.nothing) for _ in range(500)]
    learner.stop()
    return "one call over the wire", times[100:]


def warm(room: Room, runners: Starter, folder: Path) -> Iterator[tuple[str, list[float]]]:
    answer = folder / "answer.py"
    answer.write_text(room.solution)
    grade(room, answer, runners)
    yield f"{room.topic.name}, right", [seconds(lambda: grade(room, answer, runners)) for _ in range(WARM_RUNS)]
    times = []
    for mistake in room.mistakes:
        answer.write_text(mistake.source)
        grade(room, answer, runners)
        times.append(seconds(lambda: grade(room, answer, runners)))
    yield f"{room.topic.name}, each of {len(room.mistakes)} mistakes, shrunk and named", times


def main() -> None:
    torch.set_num_threads(1)
    console = Console()
    table = Table(box=None)
    for column in ("", "median", "min", "max"):
        table.add_column(column, justify="left" if not column else "right")

    def row(name: str, times: list[float]) -> None:
        unit = (1.0, "×") if "ratio" in name else (1e3, "ms")
        numbers = (statistics.median(times), min(times), max(times))
        table.add_row(name, *(f"{number * unit[0]:.2f} {unit[1]}" for number in numbers))

    rooms = [Room(topic) for topic in load_curriculum().topics]
    for line in cold(rooms[0]):
        row(*line)
    runners = starter()
    row(*one_call(rooms[0], runners))
    with TemporaryDirectory() as folder:
        for room in rooms:
            for line in warm(room, runners, Path(folder)):
                row(*line)
    runners.close()
    row("the whole exam, `pytest tests/test_exam.py`", [seconds(python("-m", "pytest", "-q", "tests/test_exam.py"))])
    console.print(table)


if __name__ == "__main__":
    main()
