"""Grades an answer: runs each check on the reference and on the answer, and compares.

The judge holds what the learner may not know, the reference, the mistakes and
the seed, and never runs the learner's code.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from kata.answer import Unreadable, read_answer, refuse_off_limits
from kata.checks import Check, Failure
from kata.compare import Raised, compare
from kata.diagnosis import Case, Seen, name_mistakes
from kata.implementation import ImplementationRaised
from kata.inputs import Rung, smaller
from kata.learner import Learner
from kata.processes import WALL_SECONDS, RunnerLost, Starter
from kata.rehearsal import Rehearsal
from kata.room import Room
from kata.verdict import Counterexample, NamedMistake, Result, Status, Verdict
from kata.wire import Malformed

torch.set_num_threads(1)  # the tensors are tiny: a second thread only keeps the runner from its core

NAMING = 6.0  # times the time of a check, for running all known mistakes beside the answer
SHRINKS = 48  # smaller inputs tried for a counterexample

Answer = Learner | Rehearsal

OUTSIDE = ("NotImplementedError", "Missing", "OffLimits")  # raised about an answer, not by its computation


class CannotLoad(Exception):
    """The file does not even load."""

    def __init__(self, status: Status, message: str, traceback: str = ""):
        super().__init__(message)
        self.status, self.message, self.traceback = status, message, traceback


def grade(room: Room, file: Path, starter: Starter, seed: int = 0, wall: float = WALL_SECONDS, shown: str = "") -> Verdict:
    """The verdict on one file. Whatever the file does, this returns.

    Args:
        seed: fresh inputs for each; the same inputs for the same.
        wall: seconds that a check, or loading the file, may take.
        shown: how the verdict calls the file.
    """
    shown = shown or str(file)
    try:
        source = read_answer(file)
        refuse_off_limits(file, source, room.topic.off_limits, room.names)
    except Unreadable as error:
        return nothing_graded(room, shown, "error", str(error))
    return grade_answer(room, Learner(starter, source, str(file.resolve()), room.topic.off_limits, wall, room.topic.files), shown, seed)


def grade_answer(room: Room, learner: Answer, shown: str, seed: int = 0, to_the_end: bool = True) -> Verdict:
    """The verdict on an answer that is called `shown`: all checks in order, then the names of mistakes.

    Args:
        to_the_end: go on after the first failure; else the rest is not reached, and not asked for names either: they may be too many.
    """
    results: dict[str, Result] = {}
    failures: dict[str, tuple[Failure, Failure]] = {}
    try:
        for check in room.checks:
            unmet = [name for name in (check.after if to_the_end else results) if results[name].status != "passed"]
            if unmet:
                missing = ", ".join(f"`{name}`" for name in unmet)
                results[check.name] = result_of(check, "not_reached", f"first make {missing} pass")
                continue
            try:
                found = grade_check(room, check, learner, seed)
                if isinstance(found, Result):
                    results[check.name] = found
                else:
                    failures[check.name] = found
                    results[check.name] = explain_failure(check, found[1])
            except CannotLoad as error:
                if not results:
                    return nothing_graded(room, shown, error.status, error.message, error.traceback, printed=learner)
                results[check.name] = result_of(check, error.status, error.message, traceback=error.traceback)
        name_all(room, learner, seed, results, failures, to_the_end)
    finally:
        learner.stop()
    return Verdict(room.topic.name, shown, tuple(results.values()), "".join(learner.printed))


def nothing_graded(room: Room, file: str, status: Status, message: str, traceback: str = "", printed: Answer | None = None) -> Verdict:
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


def grade_check(room: Room, check: Check, learner: Answer, seed: int) -> Result | tuple[Failure, Failure]:
    """One check on the learner's implementation: its result, or the first failure and the smallest."""
    key = ("check", seed, check.name)
    seen = partial(learner.outcome, room)
    try:
        if learner.process is None:
            start(learner)
        with learner.limited():
            first = first_failure(room, check, seen, key)
            if first is None:
                return result_of(check, "passed")
            return first, shrink(room, check, seen, key, first)
    except RunnerLost as lost:
        return result_of(check, lost.status, f"your code {lost.message}")  # type: ignore[arg-type]  # a Status
    except Malformed as error:
        return result_of(check, "error", f"your code {learner.lost(f'wrote an answer that is none: {error}').message}")


def start(learner: Answer) -> None:
    """Load the file in a new runner.

    Raises:
        CannotLoad: it ends in an exception, or takes its runner with it.
    """
    try:
        learner.start()
    except RunnerLost as lost:
        raise CannotLoad(lost.status, f"while the file was loaded, it {lost.message}") from None  # type: ignore[arg-type]  # a Status
    except Malformed as error:
        raise CannotLoad("error", f"while the file was loaded, it wrote an answer that is none: {error}") from None
    except ImplementationRaised as error:
        name = error.types[0].removeprefix("builtins.").removeprefix("kata.guard.")
        legal = "; PyTorch, NumPy and Python's own library are there" if name == "ModuleNotFoundError" else ""
        raise CannotLoad("error", f"the file cannot be loaded: {name}: {error.message}{legal}", error.traceback) from None


def attempt(room: Room, check: Check, seen: Seen, key: Any, rung: Rung) -> Failure | None:
    """Run a check on one rung, on reference and answer."""
    inputs, wanted = room.wanted(check, rung, key)
    got = seen(check, rung, key)
    difference = compare(wanted, got, check.comparison)
    return Failure(rung, inputs, wanted, got, difference) if difference else None


def first_failure(room: Room, check: Check, seen: Seen, key: Any) -> Failure | None:
    for rung in check.rungs:
        failure = attempt(room, check, seen, key, rung)
        if failure:
            return failure
    return None


def shrink(room: Room, check: Check, seen: Seen, key: Any, failure: Failure) -> Failure:
    """The same kind of failure on the smallest input found; counted tries, so the same each time."""
    if isinstance(failure.got, Raised) and kind(failure.got) in OUTSIDE:
        return failure
    tries = 0
    shrinking = True
    while shrinking:
        shrinking = False
        for rung in smaller(failure.rung, check.sizes):
            if not room.knows(check, rung):
                continue
            if (tries := tries + 1) > SHRINKS:
                return failure
            less = attempt(room, check, seen, key, rung)
            if less and type(less.got) is type(failure.got) and type(less.wanted) is type(failure.wanted):
                failure, shrinking = less, True
                break
    return failure


def name_all(
    room: Room,
    learner: Answer,
    seed: int,
    results: dict[str, Result],
    failures: dict[str, tuple[Failure, Failure]],
    unreached_too: bool,
) -> None:
    """Add to the results of failed checks the mistakes that explain them."""

    def those(status: Status) -> list[Check]:
        return [check for check in room.checks if results[check.name].status == status]

    case = Case(room, partial(learner.outcome, room), seed, those("passed"), failures, those("not_reached") if unreached_too else [])
    for check in room.checks:
        if results[check.name].counterexample is None:
            continue
        try:
            with learner.limited(NAMING):
                named = name_mistakes(case, check)
        except (RunnerLost, Malformed, ImplementationRaised):
            continue  # the failure stands; it only stays without a name
        mistakes = tuple(NamedMistake(mistake.id, mistake.says) for mistake in named)
        results[check.name] = replace(results[check.name], mistakes=mistakes)


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
