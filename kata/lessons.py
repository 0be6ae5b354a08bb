"""Builds the notebooks from lessons: markdown, the stub's cells in the place of `<!-- kata -->`, and what the cells give."""

from __future__ import annotations

import ast
import hashlib
import os
import re
from collections.abc import Iterator

import jupytext
import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from kata.curriculum import Curriculum, Lesson, Topic
from kata.pieces import FOLDER
from kata.stubs import cut

PLACE = "<!-- kata -->"
ANSWER = "answer"  # the tag of cells that hold the stub
SECONDS = 120  # that a cell may take
QUIET = ["--log-level=40"]  # a kernel on this machine warns that nothing is encrypted


class LessonError(Exception):
    """A lesson cannot be built; the text says which and why."""


def built(lesson: Lesson, curriculum: Curriculum) -> NotebookNode:
    """A lesson as a notebook without outputs; the same from the same sources, cell ids too.

    Raises:
        LessonError: the lesson is missing, or has no place for its kata.
    """
    try:
        text = lesson.lesson.read_text(encoding="utf-8")
    except OSError as error:
        raise LessonError(f"{lesson.lesson} cannot be read: {error.strerror}") from error
    if isinstance(lesson, Topic):
        before, place, after = text.partition(f"\n{PLACE}\n")
        if not place:
            raise LessonError(f"{lesson.lesson}: a line {PLACE} must say where the kata stands")
        body = [*cells_of(before), *kata(lesson), *cells_of(after)]
    else:
        body = cells_of(text)
    cells = [*opening(lesson, curriculum), *body, sources(lesson)]
    for number, cell in enumerate(cells):
        cell.id = f"{lesson.name[:20].replace('_', '-')}-{number:02}"
    digest = hashlib.sha256("\0".join(cell.cell_type + cell.source for cell in cells).encode()).hexdigest()
    metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
        "kata": {"topic": lesson.name, "sources": digest},
    }
    return new_notebook(cells=cells, metadata=metadata)


def cells_of(markdown: str) -> list[NotebookNode]:
    """Cells of a piece of a lesson; two empty lines, a heading or code begin a new one."""
    front = "---\njupyter:\n  jupytext:\n    split_at_heading: true\n---\n\n"
    return list(jupytext.reads(front + markdown.strip() + "\n", fmt="md").cells)


def opening(lesson: Lesson, curriculum: Curriculum) -> Iterator[NotebookNode]:
    """Title, what one can do afterwards, what to know before."""
    earlier = [curriculum.lesson(name) for name in lesson.prerequisites]
    builds = f" Builds on {', '.join(f'[{each.number} {each.title}]({link(lesson, each)})' for each in earlier)}." if earlier else ""
    told = "You will write" if isinstance(lesson, Topic) else "To read"
    yield new_markdown_cell(f"# {lesson.number} {lesson.title}\n\n*{told}:* {lesson.summary}. About {lesson.minutes} minutes.{builds}")
    yield new_code_cell("%load_ext kata.notebook")


def link(lesson: Lesson, other: Lesson) -> str:
    """From one notebook to another."""
    path = os.path.relpath(other.notebook, lesson.notebook.parent)
    return path.replace(os.sep, "/").replace(" ", "%20")


def kata(topic: Topic) -> Iterator[NotebookNode]:
    """The stub, a cell for each definition, and the check below."""
    stub = cut(topic.solution.read_text(encoding="utf-8"))
    question = ast.get_docstring(ast.parse(stub)) or ""
    first, _, rest = question.partition("\n\n")
    yield new_markdown_cell(f"## The kata: {first.rstrip('.')}\n\n{rest}")
    for source in pieces(stub):
        yield new_code_cell(source, metadata={"tags": [ANSWER]})
    yield new_markdown_cell(
        f"Run the cells above, then this. `%hint {topic.name}` gives one hint more each time; "
        f"`%check {topic.name} --file` grades [{topic.exercise.name}]({topic.exercise.name}) instead, if you would rather write there."
    )
    yield new_code_cell(f"%check {topic.name}")


def pieces(stub: str) -> Iterator[str]:
    """A stub without its docstring: what is above the first definition, then each definition with what stands above it."""
    tree = ast.parse(stub)
    lines = stub.splitlines()
    body = tree.body[1:] if ast.get_docstring(tree) is not None else tree.body
    start = (tree.body[0].end_lineno or 0) if body is not tree.body else 0
    begun = False  # something without a definition waits
    for node in body:
        end = node.end_lineno or node.lineno
        if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            begun = True
            continue
        if begun:
            first = min([node.lineno, *(d.lineno for d in node.decorator_list)]) - 1
            while first > start and lines[first - 1].startswith("#"):
                first -= 1
            yield "\n".join(lines[start:first]).strip("\n")
            start, begun = first, False
        yield "\n".join(lines[start:end]).strip("\n")
        start = end
    if begun:
        yield "\n".join(lines[start:]).strip("\n")


def sources(lesson: Lesson) -> NotebookNode:
    return new_markdown_cell("## Sources\n\n" + "\n".join(f"- {paper}" for paper in lesson.papers))


def executed(notebook: NotebookNode, lesson: Lesson) -> NotebookNode:
    """The notebook with what its cells give on a clean kernel where it stands; earlier pieces are the reference's.

    Raises:
        nbclient.exceptions.CellExecutionError: a cell raised.
    """
    client = NotebookClient(
        notebook,
        timeout=SECONDS,
        kernel_name="python3",
        resources={"metadata": {"path": str(lesson.notebook.parent)}},
        record_timing=False,
        extra_arguments=QUIET,
    )
    one = {"OMP_NUM_THREADS": "1"}  # what lessons compute is small: where cores are shared, a second thread makes it many times as slow
    client.execute(env={**os.environ, **one, FOLDER: str(lesson.root / "solutions")})
    notebook.metadata.language_info = {"name": "python"}  # not the version of whoever built it
    for cell in notebook.cells:
        for output in cell.get("outputs", ()):
            output.get("metadata", {}).clear()
            if "text/html" in output.get("data", {}):
                output.data.pop("text/plain", None)
    return notebook


def without_outputs(notebook: NotebookNode) -> NotebookNode:
    """A copy as `built` gives it."""
    bare = nbformat.from_dict(notebook)
    for cell in bare.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    return bare


def written(notebook: NotebookNode) -> str:
    """A notebook as it stands in its file."""
    return re.sub(r"[ \t]+\n", "\n", nbformat.writes(notebook)) + "\n"


def write(lesson: Lesson, curriculum: Curriculum) -> None:
    """Build, run and save one lesson."""
    notebook = executed(built(lesson, curriculum), lesson)
    lesson.notebook.write_text(written(notebook), encoding="utf-8")
