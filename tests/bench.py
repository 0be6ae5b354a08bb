"""`make bench`: how long feedback takes. Medians of runs on this machine, with minimum and maximum; ratios within one run.

No grade depends on any of this.
"""

from __future__ import annotations

import itertools
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

sys.path.append(str(Path(__file__).parent))

import torch
from rich.console import Console
from rich.table import Table
from rooms import ROOMS
from test_warm import Project, children
from test_watch import Terminal

from kata import warm
from kata.curriculum import ROOT
from kata.judge import grade
from kata.learner import Learner
from kata.processes import Starter, starter
from kata.request import request_for
from kata.room import Room

COLD_RUNS = 7
WARM_RUNS = 9
MISTAKES = 8  # of each topic, from all over its file
IN_A_ROW = 200

PLAIN = """
import pytest
from kata.curriculum import load_curriculum
from kata.host import Local
from kata.implementation import Implementation
from kata.judge import first_failure
from kata.loading import load
from kata.room import Room

ROOM = Room(load_curriculum().find({topic!r}))
ANSWER = Implementation(Local(load(ROOM.solution, "answer.py", "answer")))

@pytest.mark.parametrize("check", ROOM.checks, ids=lambda check: check.name)
def test(check):
    def seen(check, rung, key):
        return check.run(ANSWER, ROOM.wanted(check, rung, key)[0])
    assert first_failure(ROOM, check, seen, ("check", 0, check.name)) is None
"""

Row = tuple[str, list[float]]


def seconds(action: Callable[[], object]) -> float:
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def python(*arguments: str, cwd: Path = ROOT, cores: int = 2, **environment: str) -> Callable[[], object]:
    def run() -> None:
        wanted = set(list(os.sched_getaffinity(0))[:cores])
        subprocess.run(
            [sys.executable, *arguments],
            cwd=cwd,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=os.environ | environment,
            check=True,
            preexec_fn=lambda: os.sched_setaffinity(0, wanted),
        )

    return run


def cold(room: Room) -> Iterator[Row]:
    bare, check = [], []
    command = python("-m", "kata", "check", room.topic.name, "--file", str(room.topic.solution), KATA_COLD="1")
    for run in range(COLD_RUNS + 1):
        pair = seconds(python("-c", "import torch")), seconds(command)
        if run:  # the first of each warms the disk
            bare.append(pair[0])
            check.append(pair[1])
    yield "python -c 'import torch'", bare
    yield f"cold `kata check {room.topic.name}`", check
    yield "  ratio, pair by pair", [c / b for b, c in zip(bare, check, strict=True)]


def commands(room: Room) -> Iterator[Row]:
    for name, action in (
        ("`kata list`", python("-m", "kata", "list")),
        ("`kata hint`", python("-m", "kata", "hint", room.topic.name)),
        ("`kata --help`", python("-m", "kata", "--help")),
        (f"warm `kata check {room.topic.name}`", python("-m", "kata", "check", room.topic.name, "--file", str(room.topic.solution))),
    ):
        action()
        yield name, [seconds(action) for _ in range(WARM_RUNS)]


def one_call(room: Room, runners: Starter) -> Row:
    learner = Learner(runners, room.solution + "\n\ndef nothing():\n    return None\n", "bench.py", room.topic.off_limits)
    learner.start()
    with learner.limited():
        times = [seconds(learner.implementation.nothing) for _ in range(500)]
    learner.stop()
    return "one call over the wire", times[100:]


def through_the_resident(room: Room, folder: Path) -> Iterator[Row]:
    """From the request to the reply, as the command line and watch mode ask."""
    answer = folder / "answer.py"

    def graded(source: str) -> float:
        answer.write_text(source)
        return seconds(lambda: warm.grade(request_for(room.topic, answer, answer, 0)))

    graded(room.solution)
    yield f"warm {room.topic.name}, right", [graded(room.solution) for _ in range(WARM_RUNS)]
    chosen = room.mistakes[:: max(len(room.mistakes) // MISTAKES, 1)][:MISTAKES]
    yield f"warm {room.topic.name}, {len(chosen)} mistakes, seen for the first time", [graded(m.source) for m in chosen]
    yield f"warm {room.topic.name}, the same again", [graded(m.source) for m in chosen]


def memory() -> Row:
    inode = str((ROOT / ".kata" / "resident.lock").stat().st_ino)
    lines = [line.split() for line in Path("/proc/locks").read_text().splitlines()]
    (resident,) = (int(parts[4]) for parts in lines if parts[5].endswith(f":{inode}"))
    sizes = []
    for pid in (resident, *children(resident)):
        rollup = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        sizes.append(sum(int(line.split()[1]) for line in rollup if line.startswith("Pss:")) / 1024)
    return "memory of resident and zygote together, MiB", [sum(sizes)]


def saved_to_verdict(room: Room, folder: Path) -> Row:
    project = Project(folder)
    terminal = Terminal(project, room.topic.name)
    terminal.wait_for("q quit")
    times = []
    for source in itertools.islice(itertools.cycle((room.mistakes[0].source, room.solution)), 2 * WARM_RUNS):
        project.exercise.write_text(source)
        times.append(seconds(lambda: terminal.wait_for("q quit")))
        time.sleep(0.3)
    terminal.press("q")
    terminal.process.wait(10)
    project.kata("stop")
    return f"saved {room.topic.name}.py to verdict in watch mode", times[2:]


def all_topics(folder: Path) -> Iterator[Row]:
    project = Project(folder)
    for room in ROOMS.values():
        shutil.copy(room.topic.solution, project.root / "exercises" / f"{room.topic.path}.py")
    for cores in (1, 2):
        action = python("-m", "kata", "check", cwd=project.root, cores=cores, KATA_COLD="1")
        yield f"cold `kata check` of {len(ROOMS)} right answers, {cores} core{'s' * (cores > 1)}", [seconds(action) for _ in range(2)]


def plain_pytest(room: Room, folder: Path) -> Row:
    file = folder / "test_plain.py"
    file.write_text(PLAIN.format(topic=room.topic.name))
    action = python("-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", str(folder), str(file))
    return f"plain pytest in one process, {room.topic.name}", [seconds(action) for _ in range(3)]


def in_a_row(room: Room, runners: Starter, folder: Path) -> Row:
    answer = folder / "submission.py"
    times = []
    sources = [room.solution, *(mistake.source for mistake in room.mistakes)]
    for source in itertools.islice(itertools.cycle(sources), IN_A_ROW):
        answer.write_text(source)
        times.append(seconds(lambda: grade(room, answer, runners)))
    return f"one of {IN_A_ROW} submissions of {room.topic.name} in a row", times


def measured() -> Iterator[Row]:
    room = ROOMS["attention"]
    yield from cold(room)
    yield from commands(room)
    with TemporaryDirectory() as name:
        folder = Path(name)
        for each in ROOMS.values():
            yield from through_the_resident(each, folder)
        yield memory()
        warm.stop()
        for project in ("watched", "all"):
            (folder / project).mkdir()
        yield saved_to_verdict(room, folder / "watched")
        yield from all_topics(folder / "all")
        yield plain_pytest(room, folder)
        runners = starter()
        yield one_call(room, runners)
        yield in_a_row(room, runners, folder)
        runners.close()
    yield "the whole exam, two processes", [seconds(python("-m", "pytest", "-q", "-n", "2", "--dist", "loadgroup", "tests/test_exam.py"))]


def main() -> None:
    torch.set_num_threads(1)
    console = Console(width=120)
    table = Table(box=None)
    for column in ("", "median", "min", "max"):
        table.add_column(column, justify="left" if not column else "right")
    for name, times in measured():
        numbers = (statistics.median(times), min(times), max(times))
        unit = (1, "×", 2) if "ratio" in name else (1, "", 0) if "MiB" in name else (1e3, "ms", 1 if numbers[0] < 0.01 else 0)
        table.add_row(name, *(f"{number * unit[0]:,.{unit[2]}f} {unit[1]}" for number in numbers))
        print(name, f"{numbers[0]:.4g}", file=sys.stderr, flush=True)
    console.print(table)


if __name__ == "__main__":
    main()
