"""Builds the notebooks from lessons: markdown, the stub's cells in the place of `<!-- kata -->`, and what the cells give."""

from __future__ import annotations

import ast
import hashlib
import os
import re
from collections.abc import Iterator
from pathlib import Path

import jupytext
import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from kata.curriculum import Curriculum, Topic
from kata.stubs import cut

PLACE = "<!-- kata -->"
ANSWER = "answer"  # the tag of cells that hold the stub
SECONDS = 120  # that a cell may take
QUIET = ["--log-level=40"]  # a kernel on this machine warns that nothing is encrypted


class LessonError(Exception):
    """A lesson cannot be built; the text says which and why."""


def built(topic: Topic, curriculum: Curriculum) -> NotebookNode:
    """A lesson as a notebook without outputs; the same from the same sources, cell ids too.

    Raises:
        LessonError: the lesson is missing, or has no place for the kata.
    """
    try:
        text = topic.lesson.read_text(encoding="utf-8")
    except OSError as error:
        raise LessonError(f"{topic.lesson} cannot be read: {error.strerror}") from error
    before, place, after = text.partition(f"\n{PLACE}\n")
    if not place:
        raise LessonError(f"{topic.lesson}: a line {PLACE} must say where the kata stands")
    cells = [*opening(topic, curriculum), *cells_of(before), *kata(topic), *cells_of(after), sources(topic)]
    for number, cell in enumerate(cells):
        cell.id = f"{topic.name[:20].replace('_', '-')}-{number:02}"
    digest = hashlib.sha256("\0".join(cell.cell_type + cell.source for cell in cells).encode()).hexdigest()
    metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
        "kata": {"topic": topic.name, "sources": digest},
    }
    return new_notebook(cells=cells, metadata=metadata)


def cells_of(markdown: str) -> list[NotebookNode]:
    """Cells of a piece of a lesson; two empty lines, a heading or code begin a new one."""
    front = "---\njupyter:\n  jupytext:\n    split_at_heading: true\n---\n\n"
    return list(jupytext.reads(front + markdown.strip() + "\n", fmt="md").cells)


def opening(topic: Topic, curriculum: Curriculum) -> Iterator[NotebookNode]:
    """Title, what one can do afterwards, what to know before."""
    by_name = {other.name: other for other in curriculum.topics}
    before = [f"[{by_name[name].number} {by_name[name].title}]({link(topic, by_name[name])})" for name in topic.prerequisites]
    builds = f" Builds on {', '.join(before)}." if before else ""
    yield new_markdown_cell(f"# {topic.number} {topic.title}\n\n*You will write:* {topic.summary}. About {topic.minutes} minutes.{builds}")
    yield new_code_cell("%load_ext kata.notebook")


def link(topic: Topic, other: Topic) -> str:
    """From one notebook to another."""
    path = os.path.relpath(other.notebook, topic.notebook.parent)
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


def sources(topic: Topic) -> NotebookNode:
    return new_markdown_cell("## Sources\n\n" + "\n".join(f"- {paper}" for paper in topic.papers))


def executed(notebook: NotebookNode, folder: Path) -> NotebookNode:
    """The notebook with what its cells give on a clean kernel in a folder.

    Raises:
        nbclient.exceptions.CellExecutionError: a cell raised.
    """
    client = NotebookClient(
        notebook,
        timeout=SECONDS,
        kernel_name="python3",
        resources={"metadata": {"path": str(folder)}},
        record_timing=False,
        extra_arguments=QUIET,
    )
    client.execute()
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


def write(topic: Topic, curriculum: Curriculum) -> None:
    """Build, run and save one lesson."""
    notebook = executed(built(topic, curriculum), topic.notebook.parent)
    topic.notebook.write_text(written(notebook), encoding="utf-8")
