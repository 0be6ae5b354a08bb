"""What is asked of whoever grades."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from kata.curriculum import Topic

if TYPE_CHECKING:
    from rich.console import Console


def request_for(
    console: Console, topic: Topic, file: Path, shown: Path, seed: int, hints_left: int = 0, everything: bool = False
) -> dict[str, Any]:
    """What to grade, and how the asker's terminal shows it."""
    return {
        "topic": topic.name,
        "file": str(file.absolute()),
        "shown": str(shown),
        "seed": seed,
        "hints_left": hints_left,
        "everything": everything,
        "width": console.width,
        "color": console.color_system if console.is_terminal else None,
    }
