"""Writes an nbgrader course: for each topic its lesson with solution regions, and a graded cell for each check.

What students receive holds no solution and no known mistake. Beside the
notebook stand what %check needs and the recorded outcomes of one seed, so
that they see verdicts; the instructor grades on another.
"""

from __future__ import annotations

import ast
import os
import secrets
import shutil
import sys
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path

import nbformat
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell
from nbgrader.apps import NbGraderAPI
from nbgrader.coursedir import CourseDirectory
from traitlets.config import PyFileConfigLoader

from kata.checks import Check
from kata.curriculum import FILE, Curriculum, Topic
from kata.lessons import ANSWER, built
from kata.recording import record
from kata.room import Room
from kata.stubs import cuts_in, indent_of, private

FOLDER = "course"
CONFIG = "nbgrader_config.py"
BEGIN, END = "### BEGIN SOLUTION", "### END SOLUTION"
HERE = "# YOUR CODE HERE"
NEEDED = "torch numpy rich click tomli watchfiles jinja2 msgpack matplotlib ipykernel jupyterlab"


class CourseError(Exception):
    """The course cannot be written; the text says why."""


def write(curriculum: Curriculum, topics: Sequence[Topic], folder: Path) -> Iterator[Path]:
    """Write sources and configuration, then have nbgrader make the release; yields what was written.

    Args:
        topics: those of the curriculum that are to be assignments.

    Raises:
        CourseError: nbgrader refused an assignment.
    """
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"  # nbgrader calls alembic by name
    folder.mkdir(parents=True, exist_ok=True)
    config = folder / CONFIG
    if not config.exists():  # it holds the seed of the class, which must not change
        config.write_text(configuration(secrets.randbelow(2**31)), encoding="utf-8")
    yield config
    settings = PyFileConfigLoader(CONFIG, path=str(folder)).load_config()
    settings.CourseDirectory.root = str(folder.resolve())
    api = NbGraderAPI(CourseDirectory(config=settings), config=settings)
    for topic in topics:
        source = folder / "source" / topic.name
        write_assignment(topic, curriculum, source)
        outcome = api.generate_assignment(topic.name, force=True)
        if not outcome["success"]:
            raise CourseError(f"nbgrader could not release {topic.name}: {outcome['log']}")
        yield folder / "release" / topic.name


def configuration(seed: int) -> str:
    return f'''"""The course's configuration. Keep it to yourself: the seed decides on which numbers the class is graded."""

from nbconvert.preprocessors import ClearMetadataPreprocessor
from nbgrader.preprocessors import AssignLatePenalties, CheckCellMetadata, LimitOutput, SaveAutoGrades

from kata.nbgrading import GradeAnswers

c = get_config()  # noqa: F821  # nbgrader defines it
c.CourseDirectory.course_id = "transformer-katas"
c.ClearSolutions.code_stub = {{"python": "{HERE}"}}

# No student's code runs in the instructor's process: the judge grades it in a sandbox, in the place of nbgrader's Execute.
c.Autograde.autograde_preprocessors = [
    GradeAnswers,
    ClearMetadataPreprocessor,
    LimitOutput,
    SaveAutoGrades,
    AssignLatePenalties,
    CheckCellMetadata,
]
c.GradeAnswers.seed = {seed}
c.GradeAnswers.seconds = 10  # that loading an answer, or one check of it, may take

# For `nbgrader zip_collect`: the path of a file that was handed in, such as ada_attention.ipynb.
c.FileNameCollectorPlugin.named_regexp = r".*/(?P<student_id>[A-Za-z0-9\\-]+)_(?P<file_id>\\w+)"
'''


def write_assignment(topic: Topic, curriculum: Curriculum, folder: Path) -> None:
    """One topic's folder below source/, afresh."""
    if folder.exists():
        shutil.rmtree(folder)
    room = Room(topic)
    folder.mkdir(parents=True)
    nbformat.write(assignment(topic, curriculum, room), folder / f"{topic.name}.ipynb")
    unwanted = shutil.ignore_patterns("__pycache__", "course.py", "nbgrading.py")
    shutil.copytree(topic.root / "kata", folder / "kata", ignore=unwanted)
    shutil.copy(topic.root / FILE, folder)
    grader = folder / "graders" / f"{topic.path}.py"
    grader.parent.mkdir(parents=True)
    shutil.copy(topic.grader, grader)
    record(room, folder / "recorded" / f"{topic.path}.outcomes")
    (folder / "requirements.txt").write_text("\n".join(NEEDED.split()) + "\n", encoding="utf-8")


def assignment(topic: Topic, curriculum: Curriculum, room: Room) -> NotebookNode:
    """The lesson with the solution in regions, and a cell with points for each check."""
    notebook = built(topic, curriculum)
    cells: list[NotebookNode] = []
    for cell in notebook.cells:
        if ANSWER in cell.metadata.get("tags", ()):
            if not any(ANSWER in other.metadata.get("tags", ()) for other in cells):
                cells += answer_cells(room.solution)
        elif cell.cell_type == "code" and cell.source.startswith("%check"):
            cells += [cell, *(graded_cell(topic, check) for check in room.checks)]
        else:
            cells.append(cell)
    for number, cell in enumerate(cells):
        cell.id = f"cell-{number:03}"
    notebook.cells = cells
    return notebook


def answer_cells(solution: str) -> Iterator[NotebookNode]:
    """A cell for each definition, with regions that nbgrader takes out; what stands before the first is locked."""
    tree = ast.parse(solution)
    lines = solution.splitlines()
    done = tree.body[0].end_lineno or 0 if ast.get_docstring(tree) is not None else 0
    waiting = done  # where lines begin that are no definition
    number = 0

    def given(end: int) -> Iterator[NotebookNode]:
        text = "\n".join(lines[waiting:end]).strip("\n")
        if text:
            yield marked(new_code_cell(text), f"given-{number}", locked=True)

    for node in tree.body:
        if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            continue
        cuts = sorted(cuts_in(node, lines))
        start = min([node.lineno, *(d.lineno for d in node.decorator_list)]) - 1
        while start > waiting and lines[start - 1].startswith("#"):
            start -= 1
        yield from given(start)
        number += 1
        waiting = node.end_lineno or node.lineno
        source = [BEGIN, *lines[start:waiting], END] if private(node.name) else with_regions(lines, start, waiting, cuts)
        cell = new_code_cell("\n".join(source), metadata={"tags": [ANSWER]})
        yield marked(cell, f"answer-{number}", solution=bool(cuts), locked=not cuts)
    yield from given(len(lines))


def with_regions(lines: list[str], start: int, end: int, cuts: list[tuple[int, int, list[str]]]) -> list[str]:
    """The lines of a definition; what the stub lacks stands in regions, what it has instead stands below them."""
    made: list[str] = []
    for first, after, instead in cuts:
        made += lines[start:first]
        body = lines[first:after]
        while body and not body[-1].strip():
            body.pop()
        indent = " " * min(indent_of(line) for line in body if line.strip())
        made += [indent + BEGIN, *body]
        if instead:  # a body: nothing may fall through to what the stub raises
            last = ast.parse(textwrap.dedent("\n".join(body))).body[-1]
            made += [] if isinstance(last, (ast.Return, ast.Raise)) else [f"{indent}return"]
            made += [indent + END, f"{indent}raise NotImplementedError"]
        else:
            made += [indent + END]
        made += [""] * (after - first - len(body))
        start = after
    return made + lines[start:end]


def graded_cell(topic: Topic, check: Check) -> NotebookNode:
    """Students see what the check says and, running it, its verdict on recorded values; the points are given out of their sight."""
    says = textwrap.fill(check.says, 95, initial_indent="# ", subsequent_indent="# ")
    source = f"""\
{says}
%check {topic.name} {check.name}
### BEGIN HIDDEN TESTS
from kata.notebook import points
points("{topic.name}", "{check.name}")
### END HIDDEN TESTS"""
    return marked(new_code_cell(source), f"check-{check.name}", grade=True, locked=True, points=check.points)


def marked(
    cell: NotebookNode, grade_id: str, grade: bool = False, solution: bool = False, locked: bool = False, points: int | None = None
) -> NotebookNode:
    """A cell with nbgrader's metadata."""
    cell.metadata.nbgrader = {
        "schema_version": 3,
        "grade_id": grade_id,
        "grade": grade,
        "solution": solution,
        "locked": locked,
        "task": False,
        **({"points": points} if grade else {}),
    }
    return cell
