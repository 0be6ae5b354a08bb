"""A verdict as HTML, for a notebook or an instructor's feedback; made from the verdict for machines."""

from __future__ import annotations

import math
from typing import Any

from jinja2 import Environment
from markupsafe import Markup

MARKS = {"passed": "✓", "not_written": "○", "not_reached": "·"}  # everything else: ✗
NOTES = {"not_written": "not written yet", "not_reached": "not reached", "timeout": "too slow"}
LARGEST = 16  # rows and columns of a matrix that is shown

PAGE = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string(
    """\
<div style="max-width: 46em; line-height: 1.45">
{% if title %}<p><b>{{ title }}</b> — {{ verdict.points }} of {{ verdict.max_points }} points,
{{ passed }} of {{ verdict.checks | length }} checks</p>{% endif %}
<table style="margin-left: 0; border-collapse: collapse">
{% for check in verdict.checks %}
<tr style="background: none{{ '; opacity: 0.6' if check.status == 'not_reached' }}">
<td style="text-align: center"><b>{{ marks.get(check.status, '✗') }}</b></td>
<td style="text-align: left">{{ check.name.replace('_', ' ') }}</td>
<td>{{ check.points }}/{{ check.max_points }}</td>
<td style="text-align: left"><i>{{ notes.get(check.status, '') }}</i></td></tr>
{% endfor %}
</table>
{% for check in shown %}
<div style="border-left: 4px solid gray; padding-left: 1em; margin-top: 1em">
<p><b>{{ check.name.replace('_', ' ') }}</b><br><i>{{ check.says }}</i></p>
{% if check.status == 'not_written' %}
<p>Not written yet.</p>
{% else %}
<p>{{ check.message }}</p>
{% endif %}
{% set example = check.counterexample %}
{% if example %}
{% if example.inputs %}
<p>On the smallest input found:</p>
<table style="margin-left: 0">
{% for name, value in example.inputs.items() %}
<tr style="background: none"><td style="vertical-align: top"><b>{{ name }}</b></td>
<td style="text-align: left">{{ drawn(value) }}</td></tr>
{% endfor %}
</table>
{% endif %}
<table style="margin-left: 0">
<tr style="background: none"><td style="text-align: left"><b>wanted</b> {{ example.where }}</td>
<td style="text-align: left"><b>got</b> {{ example.where }}</td></tr>
<tr style="background: none"><td style="vertical-align: top; text-align: left">{{ drawn(example.wanted, example.got) }}</td>
<td style="vertical-align: top; text-align: left">{{ drawn(example.got, example.wanted, framed=True) }}</td></tr>
</table>
{% endif %}
{% if check.mistake %}
<p><b>This is what it does when:</b> {{ check.mistake.says }}</p>
{% endif %}
</div>
{% endfor %}
{% if step %}<p>{{ step }}</p>{% endif %}
</div>
"""
)


def page(verdict: dict[str, Any], title: str = "", step: str = "") -> str:
    """A table of all checks, and the first failure in full.

    Args:
        verdict: as `--json` prints it, or with fewer checks.
        title: stands above the table with the points.
        step: the next step, below everything.
    """
    checks = verdict["checks"]
    failures = [check for check in checks if check["status"] not in ("passed", "not_reached")]
    return PAGE.render(
        verdict=verdict,
        title=title,
        step=step,
        shown=failures[:1],
        passed=sum(check["status"] == "passed" for check in checks),
        marks=MARKS,
        notes=NOTES,
        drawn=drawn,
    )


def drawn(value: Any, beside: Any = None, framed: bool = False) -> Markup:
    """A matrix as a table in shades of grey; anything else as text.

    Args:
        beside: what it is compared with; shades are common to both.
        framed: whether numbers that differ get a frame.
    """
    place, rows, others = first_matrix(value, beside)
    if rows is None:
        return Markup("<code>{}</code>").format(spelled(value))
    numbers = [n for row in rows + (others or []) for n in row if isinstance(n, (int, float)) and math.isfinite(n)]
    low, high = min(numbers, default=0.0), max(numbers, default=0.0)
    lines = []
    for i, row in enumerate(rows):
        cells = []
        for j, number in enumerate(row):
            other = others[i][j] if others and framed else number
            cells.append(Markup('<td style="{}">{}</td>').format(shade(number, low, high) + frame(number, other), spelled(number)))
        lines.append(Markup('<tr style="background: none">{}</tr>').format(Markup("").join(cells)))
    at = Markup("at {}").format(place) if place else ""
    return Markup('{}<table style="margin: 0">{}</table>').format(at, Markup("").join(lines))


def first_matrix(value: Any, beside: Any) -> tuple[list[int], list[list[Any]] | None, list[list[Any]] | None]:
    """The first matrix in nested lists in which two differ, its place, and the same of the other; None if there is none."""
    place: list[int] = []
    while depth(value) > 2:
        alike = depth(beside) == depth(value) and len(beside) == len(value)
        at = next((i for i in range(len(value)) if alike and not same(value[i], beside[i])), 0)
        place.append(at)
        value, beside = value[at], beside[at] if alike else None
    if depth(value) == 1:
        value, beside = [value], [beside] if depth(beside) == 1 else None
    fits = depth(value) == 2 and len({len(row) for row in value}) == 1 and 0 < len(value[0]) <= LARGEST and len(value) <= LARGEST
    if not fits:
        return place, None, None
    alike = depth(beside) == 2 and [len(row) for row in beside] == [len(row) for row in value]
    return place, value, beside if alike else None


def depth(value: Any) -> int:
    """How deep lists of numbers are nested; 0 for anything else."""
    if not isinstance(value, list) or not value:
        return 0
    inner = {depth(item) for item in value}
    numbers = all(isinstance(item, (bool, int, float)) or item in ("nan", "inf", "-inf") for item in value)
    return 1 if numbers else 1 + inner.pop() if len(inner) == 1 and 0 not in inner else 0


def same(one: Any, other: Any) -> bool:
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, float) and isinstance(other, float):
        return math.isclose(one, other, rel_tol=1e-4, abs_tol=1e-5)
    return bool(one == other)


def shade(number: Any, low: float, high: float) -> str:
    if isinstance(number, str):
        return "text-align: right; background: #ffffff; color: #000000"
    darkness = (number - low) / (high - low) if high > low else 0.0
    grey = round(255 - 175 * darkness)
    ink = "#000000" if grey > 140 else "#ffffff"
    return f"text-align: right; background: rgb({grey}, {grey}, {grey}); color: {ink}"


def frame(number: Any, other: Any) -> str:
    return "" if same(number, other) else "; outline: 2px solid crimson; outline-offset: -2px; font-weight: bold"


def spelled(value: Any) -> str:
    if isinstance(value, bool):
        return "T" if value else "·"
    if isinstance(value, float):
        return f"{value:.4g}"
    return value if isinstance(value, str) else repr(value)
