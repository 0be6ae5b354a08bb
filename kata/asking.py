"""Who grades: the resident process, or this one. Nothing here imports PyTorch before it is needed."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kata.processes import Starter

Grade = Callable[[dict[str, Any]], dict[str, Any]]


class Misuse(Exception):
    """The command was given something that it cannot use."""


@contextlib.contextmanager
def grading(tell: Callable[[str], None]) -> Iterator[Grade]:
    """A function that grades: the resident process does, or this one, if that cannot be.

    Args:
        tell: is given a line when the resident process cannot be used.
    """
    from kata import warm

    with grading_here() as cold:
        told = threading.Event()

        def grade(request: dict[str, Any]) -> dict[str, Any]:
            if told.is_set() or not warm.wanted():
                return cold(request)
            try:
                return warm.grade(request)
            except warm.Cold as why:
                if not told.is_set():
                    told.set()
                    tell(f"graded without the warm process: {why}")
                return cold(request)

        yield grade


@contextlib.contextmanager
def grading_here() -> Iterator[Grade]:
    """A function that grades in this process, which imports PyTorch when it is first called."""
    with contextlib.ExitStack() as opened:
        here: list[Any] = []
        opening = threading.Lock()

        def grade(request: dict[str, Any]) -> dict[str, Any]:
            with opening:
                if not here:
                    started = opened.enter_context(runners())
                    from kata.service import Service

                    here.append(Service(started))
            return dict(here[0].grade(request))

        yield grade


@contextlib.contextmanager
def runners() -> Iterator[Starter]:
    """Something that starts runners; it begins to import PyTorch while we do."""
    from kata.processes import CannotStart, starter

    try:
        with contextlib.closing(starter()) as started:
            yield started
    except CannotStart as error:
        raise Misuse(str(error)) from error
