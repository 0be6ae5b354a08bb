"""What a learner has done so far, in `.kata/progress.json`, and copies of what was replaced."""

from __future__ import annotations

import json
import os
import tempfile
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path

from kata.curriculum import Topic
from kata.stubs import cut

FOLDER = ".kata"


@dataclass
class Record:
    """One topic's past."""

    hints: int = 0  # given
    attempts: int = 0  # graded with something written
    points: int = 0  # in the last attempt
    max_points: int = 0
    passed: bool = False  # in some attempt


def stub_of(topic: Topic) -> str:
    return cut(topic.solution.read_text(encoding="utf-8"))


def started(topic: Topic) -> bool:
    """Whether the learner's file is there and is not the stub any more."""
    try:
        return topic.exercise.read_bytes() != stub_of(topic).encode()
    except FileNotFoundError:
        return False
    except OSError:
        return True


def read(root: Path) -> dict[str, Record]:
    """Records by topic; a file that is missing or broken is an empty past."""
    try:
        data = json.loads((root / FOLDER / "progress.json").read_text(encoding="utf-8"))
        return {name: Record(**record) for name, record in data.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


def write(root: Path, records: dict[str, Record]) -> None:
    """Replace the file in one step.

    Raises:
        OSError: it cannot be written; what was there is still there.
    """
    folder = root / FOLDER
    folder.mkdir(exist_ok=True)
    handle, name = tempfile.mkstemp(dir=folder)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            json.dump({name: asdict(record) for name, record in records.items()}, file, indent=1)
        os.replace(name, folder / "progress.json")
    except OSError:
        Path(name).unlink(missing_ok=True)
        raise


def back_up(topic: Topic) -> Path:
    """Keep a copy of the learner's file; says where.

    Raises:
        OSError: no copy could be made.
    """
    folder = topic.root / FOLDER / "backups"
    folder.mkdir(parents=True, exist_ok=True)
    copy = folder / f"{topic.name}-{datetime.now():%Y%m%d-%H%M%S-%f}.py"
    copy.write_bytes(topic.exercise.read_bytes())
    return copy


def write_stub(topic: Topic) -> None:
    """Put the stub in the learner's place, in one step."""
    topic.exercise.parent.mkdir(parents=True, exist_ok=True)
    fresh = topic.exercise.with_suffix(".py.new")
    fresh.write_text(stub_of(topic), encoding="utf-8", newline="\n")
    os.replace(fresh, topic.exercise)
