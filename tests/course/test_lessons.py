"""Notebooks are fresh, run from top to bottom, and hold no solution."""

from __future__ import annotations

import re

import pytest
from rooms import ROOMS, TOPICS, committed

pytest.importorskip("jupytext")
import nbformat

from kata.cells import answer_in
from kata.curriculum import Topic, load_curriculum
from kata.lessons import built, executed, without_outputs
from kata.stubs import cut

EACH = [pytest.param(topic, id=topic.name) for topic in TOPICS]
CURRICULUM = load_curriculum()


def lesson(topic: Topic) -> nbformat.NotebookNode:
    return nbformat.reads(committed(topic.notebook), as_version=4)


@pytest.mark.parametrize("topic", EACH)
def test_notebook_is_fresh(topic: Topic) -> None:
    fresh = built(topic, CURRICULUM)
    assert lesson(topic).metadata.kata == fresh.metadata.kata, f"run `make lessons TOPIC={topic.name}`"
    assert without_outputs(lesson(topic)).cells == fresh.cells


@pytest.mark.parametrize("topic", EACH)
def test_notebook_runs_on_a_clean_kernel_and_gives_what_is_committed(topic: Topic) -> None:
    ran = executed(built(topic, CURRICULUM), topic.notebook.parent)
    assert alike(texts(ran), texts(lesson(topic)))
    assert not [output for output in outputs(ran) if output.output_type == "error" or output.get("name") == "stderr"]
    check = next(cell for cell in ran.cells if cell.source == f"%check {topic.name}")
    assert "not written yet" in check.outputs[0]["data"]["text/html"]


def outputs(notebook: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    return [output for cell in notebook.cells for output in cell.get("outputs", ())]


def texts(notebook: nbformat.NotebookNode) -> list[str]:
    """What cells print and show, pictures left out: their bytes hang on the machine's fonts."""
    shown = (output.get("text") or output.get("data", {}).get("text/html", "") for output in outputs(notebook))
    return [text for text in shown if text]


NUMBER = re.compile(r"[-+]?\d+\.\d+(?:e[-+]?\d+)?")


def alike(some: list[str], others: list[str]) -> bool:
    """The same words, and numbers that differ by no more than another machine's rounding makes them."""
    words = [[NUMBER.sub("#", text) for text in texts] for texts in (some, others)]
    numbers = [[float(number) for text in texts for number in NUMBER.findall(text)] for texts in (some, others)]
    return words[0] == words[1] and numbers[0] == pytest.approx(numbers[1], rel=2e-2, abs=2e-2)


@pytest.mark.parametrize("topic", EACH)
def test_answer_cells_hold_the_stub(topic: Topic) -> None:
    stub, room = cut(ROOMS[topic.name].solution), ROOMS[topic.name]
    code = [cell.source for cell in lesson(topic).cells if cell.cell_type == "code"]
    wanted, given = answer_in([stub], room.names), answer_in(code, room.names)
    assert wanted.split() == given.split()


@pytest.mark.parametrize("topic", EACH)
def test_notebook_holds_no_solution(topic: Topic) -> None:
    room = ROOMS[topic.name]
    secret = lines_of(room.solution) - lines_of(cut(room.solution))
    shown = lines_of("\n".join(cell.source for cell in lesson(topic).cells))
    assert len(secret & shown) <= 1, secret & shown  # one line may be common knowledge
    assert "solutions" not in "\n".join(cell.source for cell in lesson(topic).cells)


def lines_of(source: str) -> set[str]:
    return {line.strip() for line in source.splitlines() if len(line.strip()) > 25}
