"""The commands, used as a learner uses them, in a copy of the project."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from rooms import ROOMS, TOPICS

from kata.curriculum import ROOT, load_curriculum
from kata.stubs import cut

ROOM = ROOMS["attention"]
TREES = ("kata", "exercises", "solutions", "graders")


class Project:
    """A copy of the project with fresh stubs, and its command line."""

    def __init__(self, root: Path):
        self.root = root
        for tree in TREES:
            shutil.copytree(ROOT / tree, root / tree, ignore=shutil.ignore_patterns("__pycache__", "*.ipynb"))
        for file in ("curriculum.toml", "README.md", "Makefile"):
            shutil.copy(ROOT / file, root)
        for topic in load_curriculum(root).topics:
            topic.exercise.write_text(cut(topic.solution.read_text()))
        self.exercise = root / "exercises" / "1_foundations" / "attention.py"

    def kata(self, *arguments: str, typed: str = "") -> subprocess.CompletedProcess[str]:
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | {"COLUMNS": "110"}
        command = [sys.executable, "-m", "kata", *arguments]
        return subprocess.run(command, cwd=self.root, env=environment, input=typed, capture_output=True, text=True, timeout=120)


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path)


def test_the_journey_from_stub_to_full_marks(project: Project) -> None:
    """Check the stub, be refused the answer, take hints, be wrong, be right, see it in the list."""
    stub = project.kata("check", "attention")
    assert stub.returncode == 1
    assert "not written" in stub.stdout and "0 of" in stub.stdout
    assert project.kata("check").stdout.startswith(f"Nothing is started yet. Open exercises/{TOPICS[0].path}.py")

    refused = project.kata("reveal", "attention")
    assert refused.returncode == 1
    assert "Try it first" in refused.stderr and "scores" not in refused.stdout
    assert project.kata("reveal", "attention", "--force").stdout.strip() == ROOM.solution.strip()

    total = len(ROOM.topic.hints)
    for number in range(1, total + 1):
        shown = project.kata("hint", "attention").stdout.replace("\n", " ")
        assert shown.startswith(f"Hint {number} of {total}: ")
        assert (f"{total - number} left." if number < total else "That was the last one.") in shown
    assert f"All {total} hints have been given" in project.kata("hint", "attention").stdout

    project.exercise.write_text(next(m.source for m in ROOM.mistakes if m.id == "no-scaling"))
    wrong = project.kata("check", "attention", "--json")
    assert wrong.returncode == 1
    assert next(c["mistake"]["id"] for c in json.loads(wrong.stdout)["checks"] if c["mistake"]) == "no-scaling"
    assert project.kata("reveal", "attention").stdout.strip() == ROOM.solution.strip()
    assert "◐" in project.kata("list").stdout

    project.exercise.write_text(ROOM.solution)
    right = project.kata("check")
    assert right.returncode == 0
    assert "✓" in right.stdout and f"{sum(c.points for c in ROOM.checks)}/" in right.stdout
    assert "✓" in project.kata("list").stdout


def test_reset_asks_keeps_a_copy_and_says_where(project: Project) -> None:
    assert "is the stub already" in project.kata("reset", "attention").stdout
    project.exercise.write_text("mine = 1\n")
    assert project.kata("reset", "attention", typed="n\n").returncode == 0
    assert project.exercise.read_text() == "mine = 1\n"
    done = project.kata("reset", "attention", typed="y\n").stdout
    assert project.exercise.read_text() == cut(ROOM.solution)
    copy = next(word for word in done.replace("\n", " ").split() if word.startswith(".kata/backups/")).rstrip(".")
    assert (project.root / copy).read_text() == "mine = 1\n"


def test_a_missing_exercise_is_told_and_brought_back(project: Project) -> None:
    project.exercise.unlink()
    assert "`make reset` brings the stub back" in project.kata("check", "attention").stdout.replace("\n", " ")
    assert project.kata("reset", "attention").returncode == 0
    assert project.exercise.read_text() == cut(ROOM.solution)


def test_debug_runs_in_one_process_where_breakpoints_work(project: Project) -> None:
    source = ROOM.solution.replace("    scale = q", "    breakpoint()\n    scale = 2 * q")
    project.exercise.write_text(source)
    done = project.kata("debug", "attention", "weights_are_softmax_of_scaled_scores", typed="p q.shape\nc\n" * 40)
    assert "(Pdb) torch.Size([1, 1, 1, 1])" in done.stdout
    assert done.returncode == 1
    assert "values differ" in done.stdout
    fine = project.kata("debug", "attention", "softmax_is_stable")
    assert fine.returncode == 0
    assert fine.stdout.startswith("✓")


def test_new_lays_out_a_topic_that_passes_its_own_exam(project: Project) -> None:
    done = project.kata("new", "2_blocks/swiglu")
    assert done.returncode == 0
    topic = load_curriculum(project.root).find("swiglu")
    assert topic.number.startswith("2.")
    for file in (topic.solution, topic.mistakes, topic.grader):
        assert str(file.relative_to(project.root)) in done.stdout
    assert project.kata("stubs").returncode == 0
    assert "raise NotImplementedError" in topic.exercise.read_text()
    assert project.kata("check", "swiglu", "--file", str(topic.solution)).returncode == 0
    taken = project.kata("new", "2_blocks/swiglu")
    assert taken.returncode == 2
    assert "there is a topic 'swiglu' already" in taken.stderr


def test_doctor_says_what_protects_this_machine(project: Project) -> None:
    done = project.kata("doctor")
    assert done.returncode == 0
    for protection in ("resource limits", "no capabilities", "Landlock", "seccomp", "separate process"):
        assert protection in done.stdout


def test_make_alone_prints_the_commands_one_line_each() -> None:
    lines = subprocess.run(["make"], cwd=ROOT, capture_output=True, text=True).stdout.splitlines()
    names = [line.split()[1] for line in lines]
    for name in ("check", "list", "hint", "reveal", "reset", "debug", "doctor", "new", "test", "bench"):
        assert names.count(name) == 1


def test_listing_and_help_import_nothing_slow() -> None:
    code = "import sys; from kata.cli import run; run(['list']); run(['--help']); print(set(sys.modules) & {'torch', 'pytest', 'rich'})"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "set()", done.stderr
