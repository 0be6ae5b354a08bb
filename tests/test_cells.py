"""The answer is found among a notebook's cells, whatever else stands there."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from rooms import ROOMS

from kata.asking import Misuse
from kata.cells import NoPython, answer_in, code_of
from kata.cli import run
from kata.page import page
from kata.verdict import Verdict, to_json

ROOM = ROOMS["attention"]
NO_SCALING = next(m for m in ROOM.mistakes if m.id == "no-scaling")


def namespace(cells: list[str], names: list[str]) -> dict:
    made: dict = {}
    exec(answer_in(cells, names), made)
    return made


def test_the_last_definition_counts() -> None:
    assert namespace(["def f(): return 1", "def f(): return 2"], ["f"])["f"]() == 2


def test_what_an_answer_needs_comes_along_and_nothing_else() -> None:
    cells = [
        "import math\nimport json",
        "SIZE = 3\nSIZE += 1",
        "def helper(): return SIZE * math.e",
        "def f(): return helper()",
        "1 / 0\nx = 1 / 0",
    ]
    assert namespace(cells, ["f"])["f"]() == pytest.approx(4 * 2.718281828)
    assert "json" not in answer_in(cells, ["f"])


def test_names_local_to_a_function_are_not_those_of_a_picture() -> None:
    cells = ["weights = 1 / 0", "def f(x):\n    weights = x\n    return [weights for scores in range(2)]", "scores = 1 / 0"]
    assert namespace(cells, ["f"])["f"](5) == [5, 5]


def test_a_class_keeps_what_was_added_to_it_later() -> None:
    cells = ["class A:\n    pass", "def size(self): return 3\nA.size = size", "A.size.note = 'x'"]
    assert namespace(cells, ["A"])["A"]().size() == 3


def test_a_table_keeps_what_a_loop_wrote_into_it() -> None:
    cells = ["table = {}", "for i in range(3):\n    table[i] = i * i", "def f(): return table[2]"]
    assert namespace(cells, ["f"])["f"]() == 4


def test_calls_that_change_what_is_needed_come_along_and_experiments_do_not() -> None:
    cells = [
        "import math\ntable = []\nclass A: pass",
        "table.append(4)\nfor i in range(2):\n    table.append(i)",
        "setattr(A, 'size', 3)",
        "math.factorial(-1)\nx = table.pop()\nprint(x)",
        "def f(): return math.prod(table[:1]) * A.size",
    ]
    assert namespace(cells, ["f"])["f"]() == 12
    assert "factorial" not in answer_in(cells, ["f"]) and "pop" not in answer_in(cells, ["f"])


def test_a_cell_that_is_timed_counts_and_one_in_another_language_does_not() -> None:
    cells = ["%%time\ndef f(): return 1", "%%bash\nf = 2", "%%timeit\ndef f(): return 3"]
    assert namespace(cells, ["f"])["f"]() == 1


def test_a_class_needs_its_base_and_a_function_its_decorator() -> None:
    cells = ["class Base: n = 1", "def twice(f): return lambda: 2 * f()", "class A(Base): pass", "@twice\ndef f(): return A.n"]
    assert namespace(cells, ["f"])["f"]() == 2


def test_magics_and_broken_cells_of_others_do_no_harm() -> None:
    cells = ["%load_ext x\n!ls\ndef f(): return 1", "%%bash\nls", "this is no python"]
    assert namespace(cells, ["f"])["f"]() == 1


def test_a_broken_cell_that_holds_the_answer_is_told() -> None:
    with pytest.raises(NoPython, match="line 1"):
        answer_in(["def f(:\n    return 1"], ["f"])


def notebook(file: Path, *cells: str) -> Path:
    code = [{"cell_type": "code", "source": cell, "metadata": {}, "outputs": [], "execution_count": None} for cell in cells]
    file.write_text(json.dumps({"cells": [{"cell_type": "markdown", "source": ["# T"]}, *code], "nbformat": 4}))
    return file


def test_a_notebook_is_graded_without_a_kernel(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = notebook(tmp_path / "n.ipynb", "%load_ext kata.notebook", "weights = softmax = 3", ROOM.solution, "%check attention")
    assert run(["check", "attention", "--notebook", "--file", str(file)]) == 0
    assert "17 of 17 points" in capsys.readouterr().out
    file = notebook(tmp_path / "n.ipynb", ROOM.solution, NO_SCALING.source)
    assert run(["check", "attention", "--notebook", "--file", str(file), "--json"]) == 1
    named = [check["mistake"] for check in json.loads(capsys.readouterr().out)["checks"] if check["mistake"]]
    assert named[0]["id"] == "no-scaling"


@pytest.mark.parametrize(
    "text, words",
    [
        ("{", "is no notebook"),
        ('{"cells": [3]}', "is no notebook"),
        (None, "cannot be read"),
        ('{"cells": []}', "is defined: run the cells"),
    ],
)
def test_a_notebook_without_an_answer_is_told_in_one_sentence(
    text: str | None, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "n.ipynb"
    file.write_text(text or "")
    if text is None:
        file.unlink()
        with pytest.raises(Misuse, match=words):
            code_of(file)
        return
    assert run(["check", "attention", "--notebook", "--file", str(file)]) == 2
    assert words in " ".join(capsys.readouterr().err.split())


def test_html_shows_the_counterexample_and_escapes_what_the_answer_says(verdict_on: Callable[..., Verdict]) -> None:
    wrong = page(to_json(verdict_on("attention", NO_SCALING.source)), "1.2 Attention", "next")
    assert "1.2 Attention" in wrong and NO_SCALING.says[:30] in wrong
    assert "outline: 2px solid crimson" in wrong and "rgb(" in wrong
    hostile = "def softmax(x, dim):\n    raise ValueError('<script>alert(1)</script>')\n"
    shown = page(to_json(verdict_on("attention", ROOM.solution + hostile)), "1.2")
    assert "<script>" not in shown and "&lt;script&gt;" in shown


@pytest.mark.parametrize(
    "cell",
    ["def g(x, x): return x", "nonlocal x", "def g(x):\n    global x", "def g():\n    x = 1\n    nonlocal x"],
    ids=range(4),
)
def test_names_that_python_refuses_are_told_like_a_syntax_error(cell: str) -> None:
    assert namespace([cell, "def f(): return 1"], ["f"])["f"]() == 1  # a cell of no matter stays behind
    with pytest.raises(NoPython, match="cannot be read as Python"):
        answer_in([cell + "\ndef f(): return 1"], ["f"])


@pytest.mark.parametrize(
    "cell, wanted",
    [
        ("a = 1; b = (\n 2)\ndef f(): return b", 2),
        ("a = 1; b = '''\nx'''; c = 3\ndef f(): return b, c", ("\nx", 3)),
        ("ä = 'ö'; b = 'ü' + ä; c = 3\ndef f(): return b", "üö"),
        ("a = 'x\x0cy'\n\x0c\ndef f(): return a", "x\x0cy"),
        ("a = 'x\u2028y\x85'\ndef f(): return a", "x\u2028y\x85"),
        ("a = 1\r\nb = 2\rdef f(): return a + b", 3),
        ("a = '''\n%d items\n! yes\n'''\ndef f(): return a", "\n%d items\n! yes\n"),
        ("a = (7\n% 4)\ndef f(): return a", 3),
        ("%time a = 1\n!ls\nb = 2\ndef f(): return b", 2),
    ],
    ids=range(9),
)
def test_statements_are_cut_where_python_sees_them(cell: str, wanted: object) -> None:
    assert namespace([cell], ["f"])["f"]() == wanted


def test_a_notebook_nested_beyond_all_measure_is_told(tmp_path: Path) -> None:
    file = tmp_path / "deep.ipynb"
    file.write_text('{"cells": ' + "[" * 100_000 + "]" * 100_000 + "}")
    with pytest.raises(Misuse, match="is no notebook of version 4"):
        code_of(file)
