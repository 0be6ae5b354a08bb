"""Known mistakes: edits of a reference, each with an id and a sentence."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import tomli

from kata.implementation import Implementation
from kata.loading import load

KEYS = {"id", "says", "old", "new", "twins"}


class MistakesError(Exception):
    """A mistakes file is not legal; the text says where and why."""


@dataclass(frozen=True)
class Mistake:
    """One way of getting a topic wrong."""

    id: str
    says: str  # what is wrong, and why it matters
    source: str  # the reference with the mistake in it
    twins: tuple[str, ...]  # ids of mistakes that behave exactly alike
    topic: str

    @cached_property
    def implementation(self) -> Implementation:
        from kata.host import Local

        return Implementation(Local(load(self.source, f"<{self.id}>", f"kata_mistake_{self.topic}_{self.id}")))


def load_mistakes(path: Path, reference: str) -> list[Mistake]:
    """The mistakes of a topic, applied to its reference.

    Raises:
        MistakesError: an entry is incomplete, or its `old` does not occur exactly once.
    """
    try:
        entries = tomli.loads(path.read_text(encoding="utf-8"))["mistake"]
    except (OSError, tomli.TOMLDecodeError, KeyError) as error:
        raise MistakesError(f"{path.name}: no legal [[mistake]] table: {error}") from error
    mistakes: list[Mistake] = []
    for entry in entries:
        where = f"{path.name}: mistake {entry.get('id', len(mistakes) + 1)!r}"
        wrong = (KEYS - {"twins"} - entry.keys()) | (entry.keys() - KEYS)
        if wrong:
            raise MistakesError(f"{where}: missing or unknown {', '.join(sorted(wrong))}; legal: {', '.join(sorted(KEYS))}")
        if entry["id"] in {mistake.id for mistake in mistakes}:
            raise MistakesError(f"{where}: the id stands twice")
        times = reference.count(entry["old"])
        if times != 1:
            raise MistakesError(f"{where}: `old` occurs {times} times in the solution; it must occur once")
        source = reference.replace(entry["old"], entry["new"])
        mistakes.append(Mistake(entry["id"], entry["says"], source, tuple(entry.get("twins", ())), path.name.split(".")[0]))
    return mistakes
