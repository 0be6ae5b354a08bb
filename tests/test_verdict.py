"""What a verdict shows on a terminal and to machines."""

from __future__ import annotations

import fcntl
import io
import json
import os
import pty
import re
import struct
import sys
import termios
from collections.abc import Callable

import pytest
import torch
from rich.console import Console
from rooms import ROOMS

from kata import terminal
from kata.page import page
from kata.processes import Starter
from kata.request import request_for, width
from kata.service import Service
from kata.stubs import cut
from kata.verdict import Counterexample, Verdict, to_json

ROOM = ROOMS["attention"]
Grade = Callable[..., Verdict]


def wrong(mistake: str) -> str:
    return next(m.source for m in ROOM.mistakes if m.id == mistake)


def screen(verdict: Verdict, everything: bool = False, columns: int = 100) -> str:
    stream = io.StringIO()
    terminal.show(Console(file=stream, width=columns), verdict, ROOM.topic, 3, everything)
    return stream.getvalue()


def test_a_failure_shows_sentence_input_wanted_got_mistake_and_next_step(verdict_on: Grade) -> None:
    verdict = verdict_on("attention", wrong("no-scaling"))
    failure = verdict.first_failure
    assert failure is not None and failure.counterexample is not None
    assert failure.counterexample.inputs["q"].numel() <= 4  # the smallest that shows it
    shown = screen(verdict)
    for part in (
        "✓  softmax sums to one along dim",
        "✗  weights are softmax of scaled scores",
        "·  mask allows where true",
        f"{verdict.points} of {verdict.max_points} points",
        "attention_weights is the softmax over the keys of q·k / √D.",
        "on the smallest input found",
        "wanted",
        "got",
        "The scores are not divided by √D",
        "(3 left)",
        "Vaswani et al. 2017",
    ):
        assert part in shown


def test_matrices_are_shown_side_by_side_with_heat_maps_and_stars_where_they_differ() -> None:
    wanted = torch.eye(3, dtype=torch.float64)
    got = wanted.clone()
    got[0, 2] = 0.5
    stream = io.StringIO()
    parts = terminal.counterexample(Counterexample({}, wanted.expand(2, 3, 3), torch.stack([wanted, got]), ""))
    Console(file=stream, width=80).print(*parts)
    shown = [line.rstrip() for line in stream.getvalue().splitlines()]
    assert shown[1] == "at [1]      at [1]"
    assert shown[2].split() == ["1", "0", "0*", "1", "0", "0.5*"]
    assert any(line.startswith("██") and "▒▒" in line for line in shown)


def test_all_shows_every_failure(verdict_on: Grade) -> None:
    verdict = verdict_on("attention", wrong("softmax-over-queries"))
    failed = sum(r.status == "failed" for r in verdict.results)
    assert failed > 1
    assert f"{failed - 1} more failed" in screen(verdict)
    assert screen(verdict, everything=True).count("on the smallest input found") == failed


def test_full_marks_and_stub_say_so(verdict_on: Grade) -> None:
    assert "All of Scaled Dot-Product Attention is right." in screen(verdict_on("attention", ROOM.solution))
    shown = screen(verdict_on("attention", cut(ROOM.solution)))
    assert "○  softmax sums to one along dim" in shown
    assert "Write the function in" in shown


def test_what_the_answer_printed_is_shown_and_costs_nothing(verdict_on: Grade) -> None:
    verdict = verdict_on("attention", ROOM.solution + "\nimport sys\nprint('hello')\nprint('a warning', file=sys.stderr)\n")
    assert verdict.passed
    assert "hello" in screen(verdict) and "a warning" in screen(verdict)


def test_a_narrow_terminal_loses_no_words(verdict_on: Grade) -> None:
    shown = screen(verdict_on("attention", wrong("no-scaling")), columns=60)
    assert "saturates" in shown
    assert max(len(line) for line in shown.splitlines()) <= 60


def test_json_has_exactly_the_documented_form(verdict_on: Grade) -> None:
    data = json.loads(json.dumps(to_json(verdict_on("attention", wrong("large-negative-number"))), allow_nan=False))
    assert list(data) == ["topic", "points", "max_points", "passed", "checks"]
    assert data["topic"] == "attention" and data["passed"] is False
    assert data["points"] == sum(check["points"] for check in data["checks"]) < data["max_points"]
    keys = ["name", "says", "points", "max_points", "status", "message", "counterexample", "mistake"]
    assert all(list(check) == keys for check in data["checks"])
    failed = next(check for check in data["checks"] if check["status"] == "failed")
    assert set(failed["mistake"]) == {"id", "says"}
    assert failed["mistake"]["id"] == "large-negative-number"
    assert set(failed["counterexample"]) == {"inputs", "where", "wanted", "got"}
    passed = next(check for check in data["checks"] if check["status"] == "passed")
    assert passed["mistake"] is None and passed["counterexample"] is None and passed["message"] == ""


def test_two_runs_give_the_same_verdict_and_seeds_other_numbers(verdict_on: Grade) -> None:
    source = wrong("scaled-by-d")
    first, again, other = (json.dumps(to_json(verdict_on("attention", source, seed))) for seed in (0, 0, 1))
    assert first == again
    assert first != other


def test_an_unknown_mistake_is_not_named(verdict_on: Grade) -> None:
    source = ROOM.solution.replace("scale = q.shape[-1] ** -0.5", "scale = 0.7 * q.shape[-1] ** -0.5")
    failure = verdict_on("attention", source).first_failure
    assert failure is not None
    assert failure.mistakes == ()


def test_a_mistake_is_named_in_another_style(verdict_on: Grade) -> None:
    source = """
import numpy as np
import torch

def softmax(x, dim):
    e = torch.exp(x - torch.max(x, dim=dim, keepdim=True)[0])
    return e / e.sum(dim, keepdim=True)

def attention_weights(q, k, mask=None):
    s = torch.einsum("...id,...jd->...ij", q, k) / np.sqrt(q.shape[-1])
    if mask is not None:
        s = torch.where(mask, torch.tensor(float("-inf"), dtype=s.dtype), s)
    return softmax(s, -1)

def scaled_dot_product_attention(q, k, v, mask=None):
    return torch.einsum("...ij,...jd->...id", attention_weights(q, k, mask), v)
"""
    named = {r.name: [m.id for m in r.mistakes] for r in verdict_on("attention", source).results}
    assert (
        named["softmax_of_nothing_is_zero"] == ["softmax-nan-for-nothing"]
        or "softmax-zero-over-zero" in named["softmax_of_nothing_is_zero"]
    )


@pytest.mark.parametrize("value", [torch.zeros(2, 0), torch.tensor(float("inf")), torch.full((2, 2), float("nan")), torch.ones(3, 1, 2)])
def test_any_tensor_can_be_printed(value: torch.Tensor) -> None:
    console = Console(file=io.StringIO())
    console.print(terminal.printed_value(value))
    if value.ndim == 2:
        console.print(terminal.heat_map(value, value))


@pytest.mark.parametrize("value", ["'x' * 1_000_000", "list(range(100_000))", "dict.fromkeys(range(50_000))"])
def test_what_came_is_not_shown_without_end(value: str, verdict_on: Grade) -> None:
    verdict = verdict_on("attention", f"def softmax(x, dim):\n    return {value}\n")
    assert len(screen(verdict)) < 30_000
    assert len(json.dumps(to_json(verdict))) < 30_000


def test_half_a_character_can_be_written(verdict_on: Grade) -> None:
    verdict = verdict_on("attention", "def softmax(x, dim):\n    return '\\ud83d'\n")
    page(to_json(verdict)).encode()
    screen(verdict).encode()


@pytest.mark.parametrize(
    ("isatty", "environment", "green"),
    [
        (True, {"TERM": "xterm-256color"}, True),
        (True, {"TERM": "xterm-256color", "NO_COLOR": "1"}, False),
        (True, {"TERM": "dumb"}, False),
        (False, {"TERM": "xterm-256color"}, False),
        (False, {"TERM": "xterm-256color", "FORCE_COLOR": "1"}, True),
    ],
    ids=["terminal", "no color", "dumb", "pipe", "forced"],
)
def test_a_verdict_is_laid_out_for_the_terminal_of_whoever_asked(
    isatty: bool, environment: dict[str, str], green: bool, runners: Starter
) -> None:
    topic = ROOMS["attention"].topic
    asked = request_for(topic, topic.solution, topic.solution, 0) | {"terminal": isatty, "environment": environment, "width": 60}
    text = Service(runners).grade(asked)["text"]
    assert ("\x1b[32m" in text) == green
    assert max(len(re.sub(r"\x1b\[[0-9;]*m", "", line)) for line in text.splitlines()) <= (
        80 if environment["TERM"] == "dumb" else 60
    )  # which Rich takes to be 80 wide


def test_a_pager_gets_the_width_of_the_terminal_behind_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("4H", 24, 47, 0, 0))
    with open(theirs) as keyboard, open(os.devnull) as nowhere:
        monkeypatch.setattr(sys, "__stdin__", keyboard)
        monkeypatch.setattr(sys, "__stdout__", nowhere)
        assert width() == 47
        monkeypatch.setenv("COLUMNS", "110")
        assert width() == 110
        monkeypatch.delenv("COLUMNS")
        monkeypatch.setattr(sys, "__stdin__", nowhere)
        monkeypatch.setattr(sys, "__stderr__", nowhere)
        assert width() == 80
    os.close(ours)
