"""The README's table of topics, generated from the curriculum."""

from __future__ import annotations

from pathlib import Path

from kata.curriculum import Curriculum

BEGIN, END = "<!-- topics: written by `make stubs` -->", "<!-- end of topics -->"


def table(curriculum: Curriculum) -> str:
    """A Markdown table, a line a topic."""
    lines = ["| | topic | what you will write | minutes |", "|---|---|---|---|"]
    for topic in curriculum.topics:
        lines.append(f"| {topic.number} | [`{topic.name}`](exercises/{topic.path}.py) {topic.title} | {topic.summary} | {topic.minutes} |")
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
