"""Notebooks are fresh, run from top to bottom, and hold no solution."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
from rooms import ROOMS, TOPICS, committed

pytest.importorskip("jupytext")
import nbformat
from IPython.core.error import UsageError

from kata import pieces
from kata.cells import answer_in, kept
from kata.curriculum import Lesson, Topic, load_curriculum
from kata.lessons import built, executed, without_outputs
from kata.stubs import cut

CURRICULUM = load_curriculum()
EACH = [pytest.param(topic, id=topic.name) for topic in TOPICS]
ALL = [pytest.param(lesson, id=lesson.name) for lesson in CURRICULUM.lessons]


def notebook(lesson: Lesson) -> nbformat.NotebookNode:
    return nbformat.reads(committed(lesson.notebook), as_version=4)


@pytest.mark.parametrize("lesson", ALL)
def test_notebook_is_fresh(lesson: Lesson) -> None:
    fresh = built(lesson, CURRICULUM)
    assert notebook(lesson).metadata.kata == fresh.metadata.kata, f"run `make lessons TOPIC={lesson.name}`"
    assert without_outputs(notebook(lesson)).cells == fresh.cells


@pytest.mark.parametrize("lesson", ALL)
def test_notebook_runs_on_a_clean_kernel_and_gives_what_is_committed(lesson: Lesson) -> None:
    ran = executed(built(lesson, CURRICULUM), lesson)
    assert alike(texts(ran), texts(notebook(lesson)))
    assert not [output for output in outputs(ran) if output.output_type == "error" or output.get("name") == "stderr"]
    checks = [cell.outputs[0]["data"]["text/html"] for cell in ran.cells if cell.source == f"%check {lesson.name}"]
    assert len(checks) == isinstance(lesson, Topic)
    assert all("not written yet" in check for check in checks)


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
    code = [cell.source for cell in notebook(topic).cells if cell.cell_type == "code"]
    wanted, given = answer_in([stub], room.names), answer_in(code, room.names)
    assert wanted.split() == given.split()


@pytest.mark.parametrize("topic", EACH)
def test_notebook_holds_no_solution(topic: Topic) -> None:
    room = ROOMS[topic.name]
    secret = lines_of(room.solution) - lines_of(cut(room.solution))
    shown = lines_of("\n".join(cell.source for cell in notebook(topic).cells))
    assert len(secret & shown) <= 1, secret & shown  # one line may be common knowledge
    assert "solutions" not in "\n".join(cell.source for cell in notebook(topic).cells)


def lines_of(source: str) -> set[str]:
    return {line.strip() for line in source.splitlines() if len(line.strip()) > 25}


def test_a_lesson_takes_the_pieces_that_somebody_wrote(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The exercise's file; while that is the stub, what the cells held; while nothing is written, a sentence."""
    room = ROOMS["gpt"]
    topic = replace(room.topic, root=tmp_path)
    monkeypatch.setattr(type(CURRICULUM), "find", lambda self, name: topic)
    for file, text in ((topic.solution, room.solution), (topic.exercise, cut(room.solution))):
        file.parent.mkdir(parents=True)
        file.write_text(text)
    with pytest.raises(UsageError, match=r"this needs your gpt, and gpt.py is the stub still: `make check TOPIC=gpt` shows the way"):
        pieces.mine("gpt")
    kept(topic).parent.mkdir(parents=True)
    kept(topic).write_text("where = 'cells'")
    assert pieces.mine("gpt").where == "cells"
    topic.exercise.write_text("where = 'file'")
    assert pieces.mine("gpt").where == "file"


def test_a_piece_of_no_topic_is_told() -> None:
    with pytest.raises(UsageError, match="no topic 'gtp'; did you mean 'gpt'"):
        pieces.mine("gtp")
