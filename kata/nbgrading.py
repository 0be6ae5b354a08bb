"""nbgrader's autograding, done by the judge: no student's code runs in the instructor's process, or beside a solution."""

from __future__ import annotations

import atexit
import functools
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nbformat import NotebookNode
from nbformat.v4 import new_output
from nbgrader.preprocessors import NbGraderPreprocessor
from nbgrader.utils import is_grade
from traitlets import Integer

from kata.cells import NoPython, answer_in
from kata.curriculum import load_curriculum
from kata.judge import grade, nothing_graded
from kata.page import page
from kata.processes import Starter, starter
from kata.room import Room
from kata.verdict import to_json

CELL = "check-"  # how the ids of graded cells begin


class GradeAnswers(NbGraderPreprocessor):
    """In the place of `Execute`: grades the cells' source and writes points and verdict into each graded cell."""

    seed = Integer(0, help="Decides on which numbers answers are graded.").tag(config=True)
    seconds = Integer(10, help="That loading an answer, or one check of it, may take.").tag(config=True)

    def preprocess(self, notebook: NotebookNode, resources: dict[str, Any]) -> tuple[NotebookNode, dict[str, Any]]:
        """The notebook with outputs from which nbgrader reads the points."""
        topic = load_curriculum().find(resources["nbgrader"]["notebook"])  # the file's name, not what stands in it
        sources = [cell.source for cell in notebook.cells if cell.cell_type == "code" and not is_grade(cell)]
        verdict = self.verdict(room(topic), sources)
        by_name = {check["name"]: check for check in verdict["checks"]}
        for cell in notebook.cells:
            if cell.cell_type == "code":
                cell.outputs, cell.execution_count = [], None
                check = by_name.get(cell.metadata.get("nbgrader", {}).get("grade_id", "").removeprefix(CELL))
                if check and is_grade(cell):
                    cell.outputs = outputs(check)
        return notebook, resources

    def verdict(self, room: Room, sources: Sequence[str]) -> dict[str, Any]:
        """The verdict on the answer in these cells, for machines."""
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / f"{room.topic.name}.py"
            try:
                file.write_text(answer_in(sources, room.names), encoding="utf-8")
            except NoPython as error:
                return to_json(nothing_graded(room, file.name, "error", str(error)))
            return to_json(grade(room, file, runners(), self.seed, self.seconds, file.name))


room = functools.cache(Room)  # a class hands in answers to the same topic


@functools.cache
def runners() -> Starter:
    started = starter()
    atexit.register(started.close)
    return started


def outputs(check: dict[str, Any]) -> list[NotebookNode]:
    """The verdict on one check to be read, and its points, which nbgrader takes from the cell's result."""
    html = page({"checks": [check]})
    return [
        new_output("display_data", {"text/html": html, "text/plain": check["message"] or check["status"]}),
        new_output("execute_result", {"text/plain": str(float(check["points"]))}, execution_count=1),
    ]
