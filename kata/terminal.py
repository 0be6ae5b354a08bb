"""A verdict on the terminal."""

from __future__ import annotations

from typing import Any

import torch
from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.panel import Panel
from rich.table import Table
from rich.text import Text
from torch import Tensor

from kata.compare import Raised, close_elements, describe, spelled
from kata.curriculum import Topic
from kata.implementation import Function
from kata.verdict import Counterexample, Result, Verdict

MARKS = {
    "passed": ("✓", "green"),
    "failed": ("✗", "red"),
    "error": ("✗", "red"),
    "timeout": ("✗", "red"),
    "not_written": ("○", "yellow"),
    "not_reached": ("·", "dim"),
}
WHOLE = 64  # numbers in a tensor that is printed whole
SHADES = " ░▒▓█"
PRINTED_LINES = 12


def show(console: Console, verdict: Verdict, topic: Topic, hints_left: int, everything: bool = False) -> None:
    """Print a verdict: a line a check, then the first failure in full, then the next step.

    Args:
        everything: each failure in full.
    """
    console.print()
    console.print(Text.assemble((f"{topic.number} {topic.title}", "bold"), ("  " + verdict.file, "dim")))
    console.print(check_lines(verdict))
    console.print(total(verdict))
    failures = [r for r in verdict.results if r.status not in ("passed", "not_reached")]
    shown = failures if everything else failures[:1]
    for result in shown:
        console.print(details(result))
    if verdict.printed.strip():
        console.print(printed(verdict.printed))
    console.print(next_step(verdict, topic, hints_left, len(failures) - len(shown)))


def check_lines(verdict: Verdict) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column()
    table.add_column(overflow="fold")
    table.add_column(justify="right")
    table.add_column(style="dim")
    for result in verdict.results:
        mark, style = MARKS[result.status]
        faint = "dim" if result.status == "not_reached" else ""
        note = {"not_reached": "not reached", "not_written": "not written", "timeout": "too slow"}.get(result.status, "")
        table.add_row(Text(" " + mark, style), Text(spoken(result.name), faint), f"{result.points}/{result.max_points}", note)
    return table


def spoken(name: str) -> str:
    return name.replace("_", " ")


def total(verdict: Verdict) -> Text:
    passed = sum(result.status == "passed" for result in verdict.results)
    style = "bold green" if verdict.passed else "bold"
    return Text(f"\n {verdict.points} of {verdict.max_points} points, {passed} of {len(verdict.results)} checks\n", style)


def details(result: Result) -> RenderableType:
    """One failure: its sentence, what differs, on which input, which mistake it is."""
    if result.status == "not_written":
        return framed(result, [Text(result.says, "italic"), Text("not written yet", "yellow")], "yellow")
    parts: list[RenderableType] = [Text(result.says, "italic"), Text(), Text(result.message)]
    if result.traceback:
        parts += [Text(), Text(result.traceback.rstrip(), "dim")]
    if result.counterexample:
        parts += [Text(), *counterexample(result.counterexample)]
    if result.mistakes:
        lead = "This is what it does when" if len(result.mistakes) == 1 else "This is what it does in either of these cases"
        parts += [Text(), Text(f"{lead}:", "bold")]
        parts += [Padding(Text(f"→ {mistake.says}"), (0, 0, 0, 2)) for mistake in result.mistakes]
    return framed(result, parts, "red")


def framed(result: Result, parts: list[RenderableType], style: str) -> Panel:
    return Panel(Group(*parts), title=Text(spoken(result.name), f"bold {style}"), title_align="left", border_style=style, padding=(0, 1))


def counterexample(example: Counterexample) -> list[RenderableType]:
    """The inputs, then wanted and got side by side."""
    parts: list[RenderableType] = []
    if example.inputs:
        inputs = Table.grid(padding=(0, 2))
        for name, value in example.inputs.items():
            inputs.add_row(Text(name, "bold"), Text(shape_of(value), "dim"), printed_value(value))
        parts += [Text("on the smallest input found", "dim"), inputs, Text()]
    wanted, got = example.wanted, example.got
    if isinstance(got, Raised):
        return parts
    sides = Table.grid(padding=(0, 4))
    label = f" {example.where}" if example.where else ""
    sides.add_row(Text(f"wanted{label}", "dim"), Text(f"got{label}", "dim"))
    if isinstance(wanted, Tensor) and isinstance(got, Tensor) and wanted.shape == got.shape:
        place, wanted, got = differing_matrix(wanted, got)
        wrong = ~close_elements(wanted, got) if wanted.dtype == got.dtype else torch.zeros_like(wanted, dtype=torch.bool)
        if place:
            sides.add_row(Text(f"at {place}", "dim"), Text(f"at {place}", "dim"))
        sides.add_row(matrix(wanted, wrong), matrix(got, wrong))
        if wanted.ndim == 2 and min(wanted.shape) > 1 and max(wanted.shape) <= 32:
            sides.add_row(Text(), Text())
            sides.add_row(heat_map(wanted, wanted, got), heat_map(got, wanted, got))
    else:
        sides.add_row(printed_value(wanted), printed_value(got))
    return [*parts, sides]


def differing_matrix(wanted: Tensor, got: Tensor) -> tuple[list[int], Tensor, Tensor]:
    """The first matrix, along the leading axes, in which the two differ, and its place."""
    if wanted.ndim <= 2:
        return [], wanted, got
    wrong = ~close_elements(wanted, got) if wanted.dtype == got.dtype else torch.ones_like(wanted, dtype=torch.bool)
    found = wrong.flatten(-2).any(-1).nonzero()
    place = found[0].tolist() if len(found) else [0] * (wanted.ndim - 2)
    return place, wanted[tuple(place)], got[tuple(place)]


def shape_of(value: Any) -> str:
    if not isinstance(value, Tensor):
        return ""
    dtype = str(value.dtype).removeprefix("torch.")
    return str(tuple(value.shape)) + ("" if dtype in ("float64", "bool") else f" {dtype}")


def printed_value(value: Any) -> Text:
    """A value whole if it is small, else its description."""
    if isinstance(value, Tensor):
        if value.numel() > WHOLE:
            return Text(describe(value), "dim")
        if value.ndim <= 2:
            return matrix(value)
        slices = [matrix(piece) for piece in value.flatten(0, -3)]
        return Text("\n\n").join(slices)
    if isinstance(value, Raised):
        return Text(f"{value.name}: {value.message}")
    if isinstance(value, (list, tuple)) and any(isinstance(item, Tensor) for item in value):
        return Text(describe(value))
    if isinstance(value, Function):
        return Text(describe(value))
    return Text(spelled(value).removeprefix("torch."))


def matrix(tensor: Tensor, wrong: Tensor | None = None) -> Text:
    """Up to two axes as aligned numbers; those that are wrong in red, with a star if others are right."""
    if tensor.numel() == 0:
        return Text("(empty)")
    rows = tensor.reshape(-1, tensor.shape[-1]) if tensor.ndim else tensor.reshape(1, 1)
    if rows.numel() > 4 * WHOLE:
        return Text(describe(tensor), "dim")
    marks = wrong.reshape(rows.shape) if wrong is not None else torch.zeros_like(rows, dtype=torch.bool)
    starred = bool(marks.any()) and not bool(marks.all())
    cells = [[cell(number) for number in row] for row in rows]
    width = max(len(text) for row in cells for text in row)
    text = Text()
    for y, row in enumerate(cells):
        text.append("\n" if y else "")
        for x, number in enumerate(row):
            bad = bool(marks[y, x])
            text.append(number.rjust(width + (1 if x else 0)), "red bold" if bad else "")
            text.append("*" if bad else " ", "red bold") if starred else None
    return text


def cell(number: Tensor) -> str:
    value = number.item()
    if isinstance(value, bool):
        return "T" if value else "·"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def heat_map(tensor: Tensor, *scale: Tensor) -> Text:
    """Shades from the smallest to the largest finite number of `scale`; `?` for NaN and infinities."""
    numbers = torch.cat([t.double().flatten() for t in scale])
    numbers = numbers[numbers.isfinite()]
    low, high = (float(numbers.min()), float(numbers.max())) if len(numbers) else (0.0, 0.0)
    text = Text()
    for y, row in enumerate(tensor.double()):
        text.append("\n" if y else "")
        for value in row.tolist():
            if value != value or abs(value) == float("inf"):
                text.append("??", "red")
            else:
                text.append(2 * SHADES[round((value - low) / (high - low or 1.0) * (len(SHADES) - 1))])
    text.stylize("on grey15")
    return text


def printed(output: str) -> Panel:
    lines = output.rstrip().splitlines()
    more = f"\n… {len(lines) - PRINTED_LINES} lines more" if len(lines) > PRINTED_LINES else ""
    return Panel(Text("\n".join(lines[:PRINTED_LINES]) + more), title="your code printed", title_align="left", border_style="dim")


def next_step(verdict: Verdict, topic: Topic, hints_left: int, hidden: int) -> Text:
    """What to do now."""
    if verdict.passed:
        return Text(f" All of {topic.title} is right. `make list` shows what comes next.\n", "green")
    failure = verdict.first_failure
    if failure and failure.status == "not_written":
        lead = f" Write the function in {verdict.file}, then run this again."
    else:
        lead = " Mend this, then run it again." + (f" {hidden} more failed; they are shown with --all." if hidden else "")
    hint = f" Stuck? `make hint TOPIC={topic.name}` ({hints_left} left)." if hints_left else ""
    read = f"\n To read: {topic.papers[0]}." if topic.papers else ""
    return Text(f"{lead}{hint}{read}\n")
