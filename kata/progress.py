"""What a learner has done so far, in `.kata/progress.json`, and copies of what was replaced."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from kata.curriculum import Topic
from kata.stubs import cut

FOLDER = ".kata"
DIGESTS = "exercises/.stubs"  # of the stubs as they were shipped, as `sha256sum` writes them: cutting them again takes longer


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
        written = topic.exercise.read_bytes().replace(b"\r\n", b"\n")  # git on Windows
    except FileNotFoundError:
        return False
    except OSError:
        return True
    shipped = digests(topic.root).get(topic.exercise.relative_to(topic.root).as_posix())
    return sha256(written) != (shipped or sha256(stub_of(topic).encode()))


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@functools.cache
def digests(root: Path) -> dict[str, str]:
    """Of the shipped stubs, by path; none if there is no such list."""
    try:
        lines = (root / DIGESTS).read_text(encoding="utf-8").splitlines()
    except OSError:
        return {}
    return {path: digest for digest, _, path in (line.partition("  ") for line in lines)}


def digest_list(topics: Sequence[Topic]) -> str:
    """The text of that list."""
    return "".join(f"{sha256(stub_of(t).encode())}  {t.exercise.relative_to(t.root).as_posix()}\n" for t in topics)


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


def remember(topic: Topic, verdict: dict[str, Any]) -> None:
    """Note an attempt. A disk that is full costs the note, not the verdict."""
    records = read(topic.root)
    record = records.setdefault(topic.name, Record())
    if any(check["status"] not in ("not_written", "not_reached") for check in verdict["checks"]):
        record.attempts += 1
        record.points, record.max_points = verdict["points"], verdict["max_points"]
        record.passed = record.passed or verdict["passed"]
        note(topic, records)


def next_hint(topic: Topic) -> str:
    """One more hint each time, all of them when there is no other."""
    records = read(topic.root)
    record = records.setdefault(topic.name, Record())
    total = len(topic.hints)
    if record.hints >= total:
        listed = "".join(f"\n{number}. {text}\n" for number, text in enumerate(topic.hints, 1))
        return f"All {total} hints have been given:\n{listed}\n`make reveal TOPIC={topic.name}` shows the solution."
    record.hints += 1
    note(topic, records)
    left = total - record.hints
    then = f"{left} left." if left else "That was the last one."
    return f"Hint {record.hints} of {total}: {topic.hints[record.hints - 1]}\n{then}"


def note(topic: Topic, records: dict[str, Record]) -> None:
    try:
        write(topic.root, records)
    except OSError as error:
        print(f"your progress could not be noted under {FOLDER}/: {error.strerror}", file=sys.stderr)


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
