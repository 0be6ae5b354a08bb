"""Grades an answer: runs each check on the reference and on the answer, and compares.

The judge holds what the learner may not know, the reference, the mistakes and
the seed, and never runs the learner's code.
"""

from __future__ import annotations

import ast
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from kata.checks import Check, load_checks
from kata.compare import Difference, Outcome, Raised, compare
from kata.curriculum import Topic
from kata.diagnosis import name_mistakes
from kata.host import Local
from kata.implementation import Implementation, ImplementationRaised
from kata.inputs import Rung, smaller
from kata.learner import Learner
from kata.loading import load
from kata.mistakes import Mistake, load_mistakes
from kata.offlimits import scan
from kata.processes import WALL_SECONDS, RunnerLost, Starter
from kata.stubs import public_names
from kata.verdict import Counterexample, NamedMistake, Result, Status, Verdict
from kata.wire import Malformed

MAX_SOURCE = 256 * 1024  # bytes of an answer's file
SHRINKS = 80  # smaller inputs tried for a counterexample

OUTSIDE = ("NotImplementedError", "Missing", "OffLimits")  # raised about an answer, not by its computation


@dataclass(frozen=True)
class Room:
    """All that the judge knows of a topic."""

    topic: Topic

    @cached_property
    def solution(self) -> str:
        return self.topic.solution.read_text(encoding="utf-8")

    @cached_property
    def reference(self) -> Implementation:
        return Implementation(Local(load(self.solution, self.topic.solution, f"kata_reference_{self.topic.name}")))

    @cached_property
    def checks(self) -> list[Check]:
        return load_checks(self.topic.grader)

    @cached_property
    def mistakes(self) -> list[Mistake]:
        return load_mistakes(self.topic.mistakes, self.solution)


@dataclass(frozen=True)
class Failure:
    """An input on which the answer differs from the reference."""

    rung: Rung
    inputs: dict[str, Any]
    wanted: Outcome
    got: Outcome
    difference: Difference


class Unreadable(Exception):
    """The answer's file cannot be graded at all; the text says why."""


def grade(room: Room, file: Path, starter: Starter, seed: int = 0, wall: float = WALL_SECONDS) -> Verdict:
    """The verdict on one file. Whatever the file does, this returns.

    Args:
        seed: fresh inputs for each; the same inputs for the same.
        wall: seconds that a check, or loading the file, may take.
    """
    shown = str(file)
    try:
        source = read_answer(file)
        refuse_off_limits(room, file, source)
    except Unreadable as error:
        return nothing_graded(room, shown, "error", str(error))
    learner = Learner(starter, source, str(file.resolve()), room.topic.off_limits, wall)
    results: dict[str, Result] = {}
    try:
        for check in room.checks:
            unmet = [name for name in check.after if results[name].status != "passed"]
            if unmet:
                missing = ", ".join(f"`{name}`" for name in unmet)
                results[check.name] = result_of(check, "not_reached", f"first make {missing} pass")
            else:
                results[check.name] = grade_check(room, check, learner, seed)
    except CannotLoad as error:
        return nothing_graded(room, shown, error.status, error.message, error.traceback, printed=learner)
    finally:
        learner.stop()
    return Verdict(room.topic.name, shown, tuple(results.values()), "".join(learner.printed))


class CannotLoad(Exception):
    """The file does not even load."""

    def __init__(self, status: Status, message: str, traceback: str = ""):
        super().__init__(message)
        self.status, self.message, self.traceback = status, message, traceback


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


def refuse_off_limits(room: Room, file: Path, source: str) -> None:
    """Tell syntax errors and off-limits calls before anything runs.

    Raises:
        Unreadable: there are some.
    """
    try:
        tree = ast.parse(source, str(file))
        found = scan(tree, room.topic.off_limits, public_names(room.solution))
    except SyntaxError as error:
        line = (error.text or "").rstrip()
        pointer = " " * max((error.offset or 1) - 1, 0) + "^"
        raise Unreadable(f"syntax error in line {error.lineno} of {file.name}: {error.msg}\n    {line}\n    {pointer}") from error
    except (ValueError, RecursionError, MemoryError) as error:
        raise Unreadable(f"{file} is no Python source: {error}") from error
    if found:
        calls = "\n".join(f"    line {use.line}: {use.call} — {use.why}" for use in found)
        raise Unreadable(f"off limits in this topic ({file.name}):\n{calls}")


def nothing_graded(room: Room, file: str, status: Status, message: str, traceback: str = "", printed: Learner | None = None) -> Verdict:
    """A verdict for a file whose checks could not run."""
    if printed:
        printed.stop()
    first, *rest = room.checks
    results = [result_of(first, status, message, traceback=traceback)]
    results += [result_of(check, "not_reached", "the file could not be graded") for check in rest]
    return Verdict(room.topic.name, file, tuple(results), "".join(printed.printed) if printed else "")


def result_of(
    check: Check,
    status: Status,
    message: str = "",
    counterexample: Counterexample | None = None,
    mistakes: tuple[NamedMistake, ...] = (),
    traceback: str = "",
) -> Result:
    points = check.points if status == "passed" else 0
    return Result(check.name, check.says, points, check.points, status, message, counterexample, mistakes, traceback)


def grade_check(room: Room, check: Check, learner: Learner, seed: int) -> Result:
    """One check on the learner's implementation."""
    key = ("check", seed, check.name)
    try:
        if learner.process is None:
            start(learner)
        with learner.limited():
            failure = first_failure(room, check, learner.implementation, key)
            if failure is None:
                return result_of(check, "passed")
            failure = shrink(room, check, learner.implementation, key, failure)
    except RunnerLost as lost:
        return result_of(check, lost.status, f"your code {lost.message}")  # type: ignore[arg-type]
    except (Malformed, ImplementationRaised) as error:
        return result_of(check, "error", f"your code answered with something that is no value: {error}")
    return explain(room, check, learner, seed, failure)


def start(learner: Learner) -> None:
    """Load the file in a new runner.

    Raises:
        CannotLoad: it ends in an exception, or takes its runner with it.
    """
    try:
        learner.start()
    except RunnerLost as lost:
        raise CannotLoad(lost.status, f"while the file was loaded, it {lost.message}") from None  # type: ignore[arg-type]
    except Malformed as error:
        raise CannotLoad("error", f"while the file was loaded, it wrote an answer that is none: {error}") from None
    except ImplementationRaised as error:
        name = error.types[0].removeprefix("builtins.").removeprefix("kata.guard.")
        legal = "; PyTorch, NumPy and Python's own library are there" if name == "ModuleNotFoundError" else ""
        raise CannotLoad("error", f"the file cannot be loaded: {name}: {error.message}{legal}", error.traceback) from None


def attempt(room: Room, check: Check, implementation: Implementation, key: Any, rung: Rung) -> Failure | None:
    """Run a check on one rung, on reference and answer."""
    inputs = rung.inputs(check.inputs, key)
    wanted = check.run(room.reference, inputs)
    got = check.run(implementation, inputs)
    difference = compare(wanted, got, check.comparison)
    return Failure(rung, inputs, wanted, got, difference) if difference else None


def first_failure(room: Room, check: Check, implementation: Implementation, key: Any) -> Failure | None:
    for rung in check.rungs():
        failure = attempt(room, check, implementation, key, rung)
        if failure:
            return failure
    return None


def shrink(room: Room, check: Check, implementation: Implementation, key: Any, failure: Failure) -> Failure:
    """The same kind of failure on the smallest input found; counted tries, so the same each time."""
    if isinstance(failure.got, Raised) and kind(failure.got) in OUTSIDE:
        return failure
    tries = 0
    shrinking = True
    while shrinking:
        shrinking = False
        for rung in smaller(failure.rung, check.sizes):
            if (tries := tries + 1) > SHRINKS:
                return failure
            less = attempt(room, check, implementation, key, rung)
            if less and type(less.got) is type(failure.got) and type(less.wanted) is type(failure.wanted):
                failure, shrinking = less, True
                break
    return failure


def explain(room: Room, check: Check, learner: Learner, seed: int, failure: Failure) -> Result:
    """A failure with the name of the mistake, if it is a known one."""
    result = explain_failure(check, failure)
    if result.counterexample is None:
        return result
    try:
        with learner.limited():
            named = name_mistakes(room, check, learner.implementation, seed, failure.inputs, failure.got)
    except (RunnerLost, Malformed, ImplementationRaised):
        return result  # the failure stands; it only stays without a name
    return replace(result, mistakes=tuple(NamedMistake(mistake.id, mistake.says) for mistake in named))


def explain_failure(check: Check, failure: Failure) -> Result:
    """A failure in the learner's words: status, message, counterexample."""
    got, difference = failure.got, failure.difference
    status: Status = "failed"
    traceback = ""
    if isinstance(got, Raised):
        traceback = got.traceback
        if kind(got) == "NotImplementedError":
            return result_of(check, "not_written", "not written yet", traceback=traceback)
        if kind(got) in OUTSIDE:
            return result_of(check, "failed" if kind(got) == "OffLimits" else "error", got.message, traceback=traceback)
        if not isinstance(failure.wanted, Raised):
            status = "error"
    example = Counterexample(failure.inputs, difference.wanted, difference.got, difference.where)
    return result_of(check, status, difference.message, example, traceback=traceback)


def kind(raised: Raised) -> str:
    return raised.name.split(".")[-1]
