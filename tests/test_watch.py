"""Watch mode, used at a terminal as a learner uses it."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from rooms import ROOMS
from test_warm import NO_SCALING, Project

from kata.watch import changes

ROOM = ROOMS["attention"]
pytestmark = pytest.mark.xdist_group("watch")  # they share a project and its resident


class Terminal:
    """A learner's terminal on which `kata watch` runs."""

    def __init__(self, project: Project, *arguments: str):
        self.master, theirs = pty.openpty()
        environment = project.environment(COLUMNS="100", LINES="60", TERM="xterm")
        self.process = subprocess.Popen(
            project.command("watch", *arguments), cwd=project.root, env=environment, stdin=theirs, stdout=theirs, stderr=theirs
        )
        os.close(theirs)
        os.set_blocking(self.master, False)
        self.text = ""

    def wait_for(self, words: str, seconds: float = 60) -> str:
        """What was printed up to these words; it is taken off the screen."""
        deadline = time.monotonic() + seconds
        while words not in self.text:
            assert time.monotonic() < deadline, f"{words!r} did not come, but {self.text[-2000:]!r}"
            try:
                piece = os.read(self.master, 65_536).decode(errors="replace")
                self.text += re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", piece).replace("\r", "")
            except (BlockingIOError, OSError):
                time.sleep(0.01)
        before, self.text = self.text.split(words, 1)
        return " ".join(before.split())

    def press(self, key: str) -> None:
        os.write(self.master, key.encode())


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    made = Project(tmp_path_factory.mktemp("watch"))
    yield made
    made.kata("stop")


@pytest.fixture
def terminal(project: Project) -> Iterator[Terminal]:
    project.exercise.write_text(ROOM.solution)
    made = Terminal(project, "attention")
    yield made
    made.process.kill()
    made.process.wait()
    os.close(made.master)


def replace_as_editors_do(file: Path, text: str) -> None:
    fresh = file.with_name(".attention.py.swp")
    fresh.write_text(text)
    os.replace(fresh, file)


def test_each_save_shows_its_verdict_and_what_has_changed(project: Project, terminal: Terminal) -> None:
    assert "17 of 17 points" in terminal.wait_for("q quit")
    project.exercise.write_text(NO_SCALING.source)
    first = terminal.wait_for("q quit")
    assert "not divided by" in first or "scal" in first
    assert re.search(r"Since the last run: \d+ newly wrong \(weights are softmax of scaled scores", first)
    replace_as_editors_do(project.exercise, ROOM.solution)
    assert re.search(r"Since the last run: \d+ newly right \(weights", terminal.wait_for("q quit"))
    project.exercise.write_text("def softmax(x, dim:\n")  # half saved
    assert "syntax error in line 1" in terminal.wait_for("q quit")
    terminal.press("h")
    assert f"Hint 1 of {len(ROOM.topic.hints)}" in terminal.wait_for("q quit")
    terminal.press("n")
    assert "1.3 " in terminal.wait_for("q quit")
    terminal.press("q")
    assert terminal.process.wait(10) == 0


def test_a_new_save_stops_an_endless_loop(project: Project, terminal: Terminal) -> None:
    terminal.wait_for("q quit")
    project.exercise.write_text("while True:\n    pass\n")
    time.sleep(1)
    began = time.monotonic()
    project.exercise.write_text(ROOM.solution)
    assert "17 of 17 points" in terminal.wait_for("q quit")
    assert time.monotonic() - began < 8  # not the 10 s that a loop may take


def test_changes_are_said_in_words() -> None:
    before = {"a_b": "passed", "c": "failed", "d": "not_reached", "e": "failed", "f": "failed"}
    assert changes(before, before) == "" and changes({}, before) == ""
    now = {"a_b": "timeout", "c": "passed", "d": "passed", "e": "passed", "f": "passed"}
    assert changes(before, now) == "4 newly right (c, d, e, …); 1 newly wrong (a b)"
