"""The README's table of topics, generated from the curriculum."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import quote

from kata.curriculum import Curriculum, Topic

BEGIN, END = "<!-- topics: written by `make stubs` -->", "<!-- end of topics -->"


def table(curriculum: Curriculum) -> str:
    """A Markdown table, a line a lesson."""
    lines = ["| | topic | what you will write | minutes |", "|---|---|---|---|"]
    for lesson in curriculum.lessons:
        if isinstance(lesson, Topic):
            topic = f"[`{lesson.name}`](exercises/{lesson.path}.py) {lesson.title}"
        else:
            topic = f"[{lesson.title}]({quote(lesson.notebook.relative_to(lesson.root).as_posix())}), to read"
        lines.append(f"| {lesson.number} | {topic} | {lesson.summary} | {lesson.minutes} |")
    return "\n".join(lines)


def with_table(text: str, curriculum: Curriculum) -> str:
    """The README's text with a fresh table between its two marks.

    Raises:
        ValueError: the marks are not there.
    """
    before, _, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not end:
        raise ValueError(f"README.md must hold the lines {BEGIN} and {END}")
    return f"{before}{BEGIN}\n{table(curriculum)}\n{END}{after}"


def refresh(root: Path, curriculum: Curriculum) -> None:
    file = root / "README.md"
    file.write_text(with_table(file.read_text(encoding="utf-8"), curriculum), encoding="utf-8", newline="\n")
