"""What is asked of whoever grades."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import Any

from kata.curriculum import Topic

ABOUT_COLORS = ("TERM", "COLORTERM", "NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE")


def request_for(topic: Topic, file: Path, shown: Path, seed: int, hints_left: int = 0, everything: bool = False) -> dict[str, Any]:
    """What to grade, and what the asker's terminal is like."""
    return {
        "topic": topic.name,
        "file": str(file.absolute()),
        "shown": str(shown),
        "seed": seed,
        "hints_left": hints_left,
        "everything": everything,
        "width": width(),
        "terminal": sys.stdout.isatty(),
        "environment": {name: os.environ[name] for name in ABOUT_COLORS if name in os.environ},
    }


def width() -> int:
    """Columns of the terminal, also where only the output goes elsewhere: into a pager, for example."""
    columns = shutil.get_terminal_size((0, 0)).columns
    for stream in (sys.__stdin__, sys.__stderr__):
        if not columns and stream is not None:
            try:
                columns = os.get_terminal_size(stream.fileno()).columns
            except (OSError, ValueError):
                continue
    return columns or 80
