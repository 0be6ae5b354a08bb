"""Records the two verdicts in the README anew: `python -m tests.record_readme`."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from kata import terminal
from kata.curriculum import ROOT, load_curriculum
from kata.judge import grade
from kata.processes import Starter, starter
from kata.room import Room

WRONG = Path(__file__).parent / "readme_answer.py"
FENCE = "```"
WIDTH = 84


def recorded(text: str, runners: Starter) -> str:
    """The README's text, with the first two blocks of terminal text as they would be shown now."""
    topic = load_curriculum().find("attention")
    shown = str(topic.exercise.relative_to(ROOT))
    parts = text.split(FENCE + "text\n")
    for place, file in ((1, WRONG), (2, topic.solution)):
        verdict = replace(grade(Room(topic), file, runners), file=shown)
        stream = io.StringIO()
        terminal.show(Console(file=stream, width=WIDTH), verdict, topic, len(topic.hints))
        lines = "\n".join(line.rstrip() for line in stream.getvalue().strip("\n").splitlines())
        parts[place] = f"{lines}\n{FENCE}" + parts[place].partition(FENCE)[2]
    return (FENCE + "text\n").join(parts)


def main() -> None:
    readme = ROOT / "README.md"
    runners = starter()
    readme.write_text(recorded(readme.read_text(encoding="utf-8"), runners), encoding="utf-8", newline="\n")
    runners.close()


if __name__ == "__main__":
    main()
