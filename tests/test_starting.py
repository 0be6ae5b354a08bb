"""A runner in a fresh interpreter, as on macOS and Windows, grades alike and is as confined."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from rooms import ROOMS

from kata.judge import grade
from kata.learner import Learner
from kata.processes import Spawner, Starter, Zygote, starter

ROOM = ROOMS["attention"]


@pytest.fixture
def spawner(monkeypatch: pytest.MonkeyPatch) -> Iterator[Starter]:
    monkeypatch.setenv("KATA_START", "spawn")
    started = starter()
    assert isinstance(started, Spawner)
    yield started
    started.close()


def test_spawned_runner_grades_alike(spawner: Starter, tmp_path: Path) -> None:
    right, wrong = tmp_path / "right.py", tmp_path / "wrong.py"
    right.write_text(ROOM.solution)
    mistake = next(m for m in ROOM.mistakes if m.id == "no-scaling")
    wrong.write_text(mistake.source)
    assert grade(ROOM, right, spawner).passed
    failure = grade(ROOM, wrong, spawner).first_failure
    assert failure is not None
    assert [named.id for named in failure.mistakes] == ["no-scaling"]


@pytest.mark.parametrize(
    "body, says",
    [
        ("print('x' * 100_000); import os; os.kill(os.getpid(), 9)", "crashed: SIGKILL"),
        ("while True: pass", "ran longer than 3 s"),
        ("import socket; socket.socket()", "PermissionError"),
    ],
)
def test_spawned_runner_is_limited(body: str, says: str, spawner: Starter, tmp_path: Path) -> None:
    file = tmp_path / "attention.py"
    file.write_text(f"def softmax(x, dim):\n    {body}\n")
    verdict = grade(ROOM, file, spawner, wall=3.0)
    assert says in verdict.results[0].message
    assert len(verdict.printed) < 20_000


def test_an_endless_import_is_told_in_time(spawner: Starter, tmp_path: Path) -> None:
    file = tmp_path / "attention.py"
    file.write_text("while True:\n    pass\n")
    assert "while the file was loaded, it ran longer than 2 s" in grade(ROOM, file, spawner, wall=2.0).results[0].message


def test_both_ways_have_the_same_protections(spawner: Starter, runners: Starter) -> None:
    assert isinstance(runners, Zygote)
    found = []
    for way in (spawner, runners):
        learner = Learner(way, "", "nothing.py", [])
        learner.start()
        learner.stop()
        found.append(learner.protections)
    assert found[0] == found[1]
    assert "resource limits" in found[0]
