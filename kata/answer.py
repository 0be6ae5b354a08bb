"""A learner's file before it runs: is it Python, and does it keep within the limits of its topic?"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from kata.loading import parsed
from kata.offlimits import scan
from kata.wire import harmless

MAX_SOURCE = 256 * 1024  # bytes
EXCERPT = 72  # characters of a line that are shown


class Unreadable(Exception):
    """The answer's file cannot be graded at all; the text says why, and may quote the file."""

    def __init__(self, why: str):
        super().__init__(harmless(why))


def read_answer(file: Path) -> str:
    """The text of an answer.

    Raises:
        Unreadable: it is no readable Python source.
    """
    try:
        if file.is_dir():
            raise Unreadable(f"{file} is a directory; a Python file is wanted")
        if file.exists() and not file.is_file():
            raise Unreadable(f"{file} is no regular file; a Python file is wanted")
        size = file.stat().st_size
        if size > MAX_SOURCE:
            raise Unreadable(f"{file} has {size:,} bytes; at most {MAX_SOURCE:,} are graded")
        source = file.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise Unreadable(f"{file} is no text: byte {error.start} is not UTF-8") from error
    except FileNotFoundError as error:
        raise Unreadable(f"{file} is not there; `make reset` brings the stub back") from error
    except OSError as error:
        raise Unreadable(f"{file} cannot be read: {error.strerror}") from error
    if not source.strip():
        raise Unreadable(f"{file} is empty; `make reset` brings the stub back")
    return source


def refuse_off_limits(file: Path, source: str, rules: Sequence[tuple[str, str]], contract: Sequence[str]) -> None:
    """Tell syntax errors and off-limits calls before anything runs.

    Args:
        rules: (name, why) pairs of what is off limits.
        contract: the names that the answer is to define.

    Raises:
        Unreadable: there are some.
    """
    try:
        found = scan(parsed(source, file), rules, contract)
    except SyntaxError as error:
        line, column = excerpt((error.text or "").rstrip(), max((error.offset or 1) - 1, 0))
        pointer = " " * column + "^"
        raise Unreadable(f"syntax error in line {error.lineno} of {file.name}: {error.msg}\n    {line}\n    {pointer}") from error
    except (ValueError, RecursionError, MemoryError) as error:
        raise Unreadable(f"{file} is no Python source: {error}") from error
    if found:
        calls = "\n".join(f"    line {use.line}: {use.call} — {use.why}" for use in found)
        raise Unreadable(f"off limits in this topic ({file.name}):\n{calls}")


def excerpt(line: str, column: int) -> tuple[str, int]:
    """What lies around a column of a line, short enough for a narrow terminal, and where in it the column is."""
    if (hidden := column - EXCERPT * 2 // 3) > 0:
        line, column = "…" + line[hidden + 1 :], column - hidden
    return (line if len(line) <= EXCERPT else line[: EXCERPT - 1] + "…"), column
