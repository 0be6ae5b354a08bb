"""The resident process: it grades as this one does, is never stale, and can always be done without."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from rooms import ROOMS

from kata import warm
from kata.curriculum import ROOT
from kata.processes import Zygote, starter
from kata.resident import Abandoned, Leased

ROOM = ROOMS["attention"]
NO_SCALING = next(m for m in ROOM.mistakes if m.id == "no-scaling")
pytestmark = [
    pytest.mark.skipif(not hasattr(socket, "AF_UNIX") or sys.platform != "linux", reason="finds processes in /proc"),
    pytest.mark.xdist_group("warm"),  # they share a project and its resident
]
LEFT_OUT = shutil.ignore_patterns("__pycache__", "*.ipynb")


class Project:
    """A copy of the project with a resident of its own."""

    def __init__(self, root: Path):
        self.root = root
        self.exercise = root / "exercises" / "1_foundations" / "attention.py"
        self.grader = root / "graders" / "1_foundations" / "attention.py"
        self.mistakes = root / "solutions" / "1_foundations" / "attention.mistakes.toml"
        self.solution = root / "solutions" / "1_foundations" / "attention.py"
        self.renew()

    def renew(self) -> None:
        """The project as it is checked out, with the solution as the learner's answer."""
        for tree in ("kata", "exercises", "solutions", "graders"):
            shutil.copytree(ROOT / tree, self.root / tree, ignore=LEFT_OUT, dirs_exist_ok=True)
        for file in ("curriculum.toml", "pyproject.toml", "constraints.txt"):
            shutil.copy(ROOT / file, self.root)
        self.exercise.write_text(ROOM.solution)

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "kata", *arguments]

    def environment(self, **more: str) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "KATA_COLD")}
        return kept | {"COLUMNS": "110"} | more

    def kata(self, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
        command, environment = self.command(*arguments), self.environment(**more)
        return subprocess.run(command, cwd=self.root, env=environment, capture_output=True, text=True, timeout=120)

    def verdict(self, **more: str) -> dict:
        done = self.kata("check", "attention", "--json", **more)
        assert done.stderr == ""
        return json.loads(done.stdout)

    def residents(self) -> list[int]:
        """Processes that hold this project's lock: /proc/locks tells by inode."""
        try:
            inode = str((self.root / ".kata" / "resident.lock").stat().st_ino)
        except FileNotFoundError:
            return []
        lines = [line.split() for line in Path("/proc/locks").read_text().splitlines()]
        return [int(parts[4]) for parts in lines if parts[5].endswith(f":{inode}") and Path(f"/proc/{parts[4]}").exists()]


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    made = Project(tmp_path_factory.mktemp("warm"))
    yield made
    made.kata("stop")


@pytest.fixture
def project(shared: Project) -> Project:
    """One project and one resident for all tests, whatever the last one did to its files."""
    shared.renew()
    return shared


def named(verdict: dict) -> str | None:
    return next((check["mistake"]["id"] for check in verdict["checks"] if check["mistake"]), None)


def test_warm_and_cold_say_the_same(project: Project) -> None:
    for source in (ROOM.solution, NO_SCALING.source):
        project.exercise.write_text(source)
        warm, cold = project.kata("check", "attention"), project.kata("check", "attention", KATA_COLD="1")
        assert (warm.returncode, warm.stdout, warm.stderr) == (cold.returncode, cold.stdout, cold.stderr)
    assert len(project.residents()) == 1
    assert (project.root / ".kata" / "resident.sock").stat().st_mode & 0o777 == 0o600


def test_no_change_of_a_file_is_missed(project: Project) -> None:
    project.exercise.write_text(NO_SCALING.source)
    assert named(project.verdict()) == "no-scaling"
    project.mistakes.write_text(project.mistakes.read_text().replace('id = "no-scaling"', 'id = "unscaled"'))
    assert named(project.verdict()) == "unscaled"
    project.grader.write_text(project.grader.read_text().replace("points=2", "points=3", 1))
    assert project.verdict()["max_points"] == sum(check.points for check in ROOM.checks) + 1
    project.exercise.write_text(ROOM.solution)
    assert project.verdict()["passed"]
    wrong = ROOM.solution.replace(NO_SCALING_OLD, NO_SCALING_NEW)
    project.solution.write_text(wrong)
    project.mistakes.write_text('[[mistake]]\nid = "none"\nsays = "."\nold = "import math"\nnew = "import math as m, math"\n')
    assert not project.verdict()["passed"]
    project.renew()
    assert project.verdict()["passed"]
    assert len(project.residents()) == 1


def differing_lines() -> tuple[str, str]:
    """A line of the reference and what the mistake makes of it."""
    pairs = zip(ROOM.solution.splitlines(), NO_SCALING.source.splitlines(), strict=True)
    return next((old, new) for old, new in pairs if old != new)


NO_SCALING_OLD, NO_SCALING_NEW = differing_lines()


def test_another_version_of_kata_takes_over(project: Project) -> None:
    project.verdict()
    (before,) = project.residents()
    terminal = project.root / "kata" / "terminal.py"
    terminal.write_text(terminal.read_text().replace("All of ", "Every bit of "))
    assert "Every bit of" in project.kata("check", "attention").stdout
    (after,) = project.residents()
    assert after != before


def test_two_at_once(project: Project) -> None:
    project.kata("stop")
    both = [
        subprocess.Popen(
            project.command("check", topic, "--json", "--file", str(ROOMS[topic].topic.solution)),
            cwd=project.root,
            env=project.environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for topic in ("attention", "masking", "attention")
    ]
    for process, topic in zip(both, ("attention", "masking", "attention"), strict=True):
        stdout, stderr = process.communicate(timeout=120)
        assert (stderr, json.loads(stdout)["topic"], json.loads(stdout)["passed"]) == ("", topic, True)
    assert len(project.residents()) == 1


def test_a_resident_that_was_killed_leaves_a_socket_that_harms_nobody(project: Project) -> None:
    project.verdict()
    (resident,) = project.residents()
    os.kill(resident, signal.SIGKILL)
    assert project.verdict()["passed"]
    assert project.residents() not in ([], [resident])


def test_a_zygote_that_was_killed_is_told_and_done_without(project: Project) -> None:
    project.verdict()
    (resident,) = project.residents()
    for child in children(resident):
        os.kill(child, signal.SIGKILL)
    done = project.kata("check", "attention")
    assert done.returncode == 0
    assert (
        done.stderr.startswith("graded without the warm process: the process that starts runners does not answer")
        and done.stderr.count("\n") == 1
    )
    assert project.verdict()["passed"]  # by a new one


def test_a_folder_that_cannot_be_written_costs_the_warmth_only(project: Project) -> None:
    project.kata("stop")
    shutil.rmtree(project.root / ".kata", ignore_errors=True)
    (project.root / ".kata").write_text("")  # root may write anywhere, but not below a file
    done = project.kata("check", "attention")
    (project.root / ".kata").unlink()
    assert done.returncode == 0 and "All of Scaled Dot-Product Attention is right" in done.stdout
    assert "graded without the warm process" in done.stderr


def test_any_number_of_threads_may_find_the_folder_writable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(warm, "ROOT", tmp_path)
    monkeypatch.setattr(warm, "FOLDER", tmp_path / ".kata")
    monkeypatch.setattr(subprocess, "Popen", lambda *command, **options: None)
    with ThreadPoolExecutor(4) as pool:
        for launched in [pool.submit(warm.launch) for _ in range(400)]:
            launched.result()


def test_whoever_stops_waiting_frees_the_resident(project: Project) -> None:
    project.exercise.write_text("while True:\n    pass\n")
    waiting = subprocess.Popen(project.command("check", "attention"), cwd=project.root, env=project.environment())
    deadline = time.monotonic() + 60
    while not (project.residents() and any(map(children, children(project.residents()[0])))) and time.monotonic() < deadline:
        time.sleep(0.05)
    waiting.send_signal(signal.SIGINT)
    assert waiting.wait(10) == 130
    project.exercise.write_text(ROOM.solution)
    began = time.monotonic()
    assert project.verdict()["passed"]
    assert time.monotonic() - began < 8  # not the 10 s that a loop may take


def test_whoever_goes_while_a_runner_starts_leaves_none(monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = socket.socketpair()
    with contextlib.closing(starter()) as started, ours:
        leased = Leased(started)
        watching = threading.Thread(target=leased.watch, args=(ours,))
        watching.start()
        begun: list[Any] = []

        def start() -> Any:
            begun.append(Zygote.start(started))  # type: ignore[arg-type]  # on Linux it is one
            theirs.close()
            watching.join(10)
            return begun[0]

        monkeypatch.setattr(started, "start", start)
        with pytest.raises(Abandoned):
            leased.start()
        assert not Path(f"/proc/{begun[0].pid}").exists()


def test_it_ends_when_idle_and_when_told(project: Project) -> None:
    project.kata("stop")
    assert project.kata("stop").stdout == "none was running\n"
    project.verdict(KATA_IDLE_SECONDS="0.5")
    deadline = time.monotonic() + 20
    while project.residents() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert project.residents() == []


def children(pid: int) -> list[int]:
    return [int(child) for task in Path(f"/proc/{pid}/task").glob("*/children") for child in task.read_text().split()]
