"""A course, run with nbgrader as an instructor runs it."""

from __future__ import annotations

import ast
import csv
import json
import subprocess
import sys
from pathlib import Path

import pytest
from rooms import ROOMS

pytest.importorskip("nbgrader")
import nbformat
from nbgrader.api import Gradebook

from kata import course
from kata.curriculum import load_curriculum
from kata.judge import grade
from kata.processes import Starter
from kata.stubs import cut

ROOM = ROOMS["attention"]
NO_SCALING = next(m for m in ROOM.mistakes if m.id == "no-scaling")
TOPICS = ("attention", "tokenization")  # the second has helpers, constants and a class
SEED, SECONDS = 31, 2

LOOPS = "def scaled_dot_product_attention(q, k, v, mask=None):\n    while True:\n        pass\n"
LEAVES = "def scaled_dot_product_attention(q, k, v, mask=None):\n    import os\n    os._exit(0)\n"
UNWRITTEN = "def scaled_dot_product_attention(q, k, v, mask=None):\n    raise NotImplementedError\n"
BROKEN = "def scaled_dot_product_attention(q, k, v, mask=None:\n    return v\n"
NOISY = "import sys, warnings\nwarnings.warn('deprecated')\nprint('loading', file=sys.stderr)\n"


def with_last(source: str) -> str:
    """The reference, with another scaled_dot_product_attention."""
    return ROOM.solution + "\n\n" + source


SUBMISSIONS = {
    "right": ROOM.solution,
    "half": with_last(UNWRITTEN),
    "wrong": NO_SCALING.source,
    "endless": with_last(LOOPS),
    "exiting": with_last(LEAVES),
    "broken": with_last(BROKEN),
    "noisy": NOISY + ROOM.solution,
}


def nbgrader(folder: Path, *arguments: str) -> None:
    path = f"{Path(sys.executable).parent}:/usr/bin:/bin"
    command = [sys.executable, "-m", "nbgrader", *arguments]
    done = subprocess.run(command, cwd=folder, env={"PATH": path, "HOME": str(folder)}, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A course of two topics, its release made."""
    folder = tmp_path_factory.mktemp("class") / "course"
    curriculum = load_curriculum()
    list(course.write(curriculum, [curriculum.find(name) for name in TOPICS], folder))
    return folder


@pytest.fixture(scope="module")
def graded(written: Path) -> Path:
    """The course after all submissions were collected and graded, with feedback and export."""
    config = written / "nbgrader_config.py"
    config.write_text(config.read_text() + f"\nc.GradeAnswers.seed = {SEED}\nc.GradeAnswers.seconds = {SECONDS}\n")
    archive = written / "downloaded" / "attention" / "archive"
    archive.mkdir(parents=True)
    for student, source in SUBMISSIONS.items():
        nbformat.write(handed_in(written, source), archive / f"{student}_attention.ipynb")
    nbformat.write(forged(written), archive / "forger_attention.ipynb")
    nbgrader(written, "zip_collect", "attention")
    nbgrader(written, "autograde", "attention", "--create")
    nbgrader(written, "generate_feedback", "attention")
    nbgrader(written, "export")
    return written


def handed_in(folder: Path, source: str) -> nbformat.NotebookNode:
    """The released notebook, with an answer written into its cells; no cell was run."""
    notebook = nbformat.read(folder / "release" / "attention" / "attention.ipynb", as_version=4)
    answers = [cell for cell in notebook.cells if cell.metadata.get("nbgrader", {}).get("solution")]
    answers[0].source = source
    for cell in answers[1:]:
        cell.source = "# all is in the cell above"
    return notebook


FORGERY = """
import kata.notebook, kata.judge, kata.nbgrading
kata.notebook.points = lambda *names: 99.0
kata.nbgrading.outputs = kata.judge.grade = lambda *rest: 99.0
"""


def forged(folder: Path) -> nbformat.NotebookNode:
    """Nothing written, but points that were raised, results of the student's own, a patched grader, and a cell that went."""
    notebook = handed_in(folder, FORGERY)
    cells = [cell for cell in notebook.cells if cell.metadata.get("nbgrader", {}).get("grade")]
    for cell in cells:
        cell.metadata.nbgrader["points"], cell.source = 99, "99.0"
        cell.outputs = [nbformat.v4.new_output("execute_result", {"text/plain": "99.0"}, execution_count=1)]
    notebook.cells.append(nbformat.v4.new_code_cell("(" * 5000))
    del notebook.cells[notebook.cells.index(cells[1])]
    return notebook


@pytest.mark.parametrize("topic", TOPICS)
def test_the_release_holds_no_solution(written: Path, topic: str) -> None:
    release = written / "release" / topic
    solved = lines_of(ROOMS[topic].solution) - lines_of(cut(ROOMS[topic].solution))
    assert len(solved) > 3
    cells = nbformat.read(release / f"{topic}.ipynb", as_version=4).cells
    assert not solved & lines_of("\n".join(cell.source for cell in cells))
    assert not any("HIDDEN" in cell.source or "SOLUTION" in cell.source for cell in cells)
    for file in release.rglob("*"):
        assert "solutions" not in file.parts and not file.name.endswith("mistakes.toml")
        if file.suffix in (".py", ".json", ".toml"):
            assert not solved <= lines_of(file.read_text())
            assert not any(f"def {name}(" in file.read_text() for name in ROOMS[topic].names if name.islower())


def lines_of(source: str) -> set[str]:
    """Lines that say something."""
    return {line.strip() for line in source.splitlines() if len(line.strip()) > 25}


@pytest.mark.parametrize("topic", TOPICS)
def test_release_and_source_are_python(written: Path, topic: str) -> None:
    for tree in ("source", "release"):
        notebook = nbformat.read(written / tree / topic / f"{topic}.ipynb", as_version=4)
        for cell in notebook.cells:
            if cell.cell_type == "code" and "%" not in cell.source:
                ast.parse(cell.source)


@pytest.mark.parametrize("student", SUBMISSIONS)
def test_points_are_those_of_make_check(graded: Path, student: str, runners: Starter, tmp_path: Path) -> None:
    file = tmp_path / "attention.py"
    file.write_text(SUBMISSIONS[student])
    verdict = grade(ROOM, file, runners, SEED, SECONDS)
    with gradebook(graded) as book:
        submission = book.find_submission("attention", student)
        assert (submission.score, submission.max_score) == (verdict.points, verdict.max_points)
        points = {grade.name: grade.score for grade in submission.notebooks[0].grades}
    assert points == {f"check-{result.name}": result.points for result in verdict.results}


def test_each_submission_is_worth_what_it_should_be(graded: Path) -> None:
    with gradebook(graded) as book:
        score = {student: book.find_submission("attention", student).score for student in SUBMISSIONS}
        full = book.find_submission("attention", "right").max_score
    assert score["right"] == score["noisy"] == full
    assert score["broken"] == 0
    assert 0 < score["half"] == score["endless"] == score["exiting"] < full
    assert 0 < score["wrong"] < full


def test_a_forger_gains_nothing(graded: Path) -> None:
    with gradebook(graded) as book:
        submission = book.find_submission("attention", "forger")
        assert (submission.score, submission.max_score) == (0, sum(check.points for check in ROOM.checks))


def gradebook(folder: Path) -> Gradebook:
    return Gradebook(f"sqlite:///{folder / 'gradebook.db'}", "transformer-katas")


def test_feedback_names_the_mistake(graded: Path) -> None:
    page = (graded / "feedback" / "wrong" / "attention" / "attention.html").read_text()
    assert NO_SCALING.says.split(":")[0][:40] in page


def test_export_has_every_student(graded: Path) -> None:
    with (graded / "grades.csv").open() as file:
        score = {row["student_id"]: float(row["score"]) for row in csv.DictReader(file) if row["assignment"] == "attention"}
    assert score.keys() == {*SUBMISSIONS, "forger"}
    assert score["right"] > score["wrong"] > score["broken"] == 0


IN_A_KERNEL = """
import json, sys
from IPython.core.interactiveshell import InteractiveShell
shell = InteractiveShell.instance()
shell.run_line_magic("load_ext", "kata.notebook")
import kata.notebook
print(kata.__file__)
for source in json.loads(sys.argv[1]):
    shell.run_cell(source, store_history=True)
    print(json.dumps(kata.notebook.graded(kata.notebook.found("attention"))))
"""


def test_a_students_bundle_gives_verdicts_without_a_solution(written: Path) -> None:
    release = written / "release" / "attention"
    command = [sys.executable, "-c", IN_A_KERNEL, json.dumps([ROOM.solution, NO_SCALING.source])]
    environment = {"KATA_COLD": "1", "HOME": str(release)}
    done = subprocess.run(command, cwd=release, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    used, right, wrong = done.stdout.splitlines()
    assert Path(used).is_relative_to(release)
    assert json.loads(right)["passed"]
    failure = next(check for check in json.loads(wrong)["checks"] if check["status"] == "failed")
    assert failure["counterexample"]["wanted"] != failure["counterexample"]["got"]
