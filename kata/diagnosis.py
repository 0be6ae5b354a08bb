"""Names the known mistake that an answer makes.

Learners write in every style, so only behaviour counts: a mistake is named when
it does what the answer does on the input that failed and on fresh ones. Where
what a check sees says little, such as a number or an exception, the mistake
must also do what the answer does in every other check.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from kata.checks import Check, Failure
from kata.compare import Outcome, Raised, Value, same_kind_of_failure
from kata.inputs import Rung
from kata.mistakes import Mistake
from kata.room import Room

FRESH = 4  # fresh inputs for the failing check
TELLING = 4  # different numbers that an outcome must hold to tell mistakes apart by itself
TELLING_BOOLEANS = 16  # or so many booleans, of both kinds: a pattern


Seen = Callable[[Check, Rung, Any], Outcome]  # what a check sees of an answer, on the inputs of a rung and a key


@dataclass
class Case:
    """An answer, and what all checks have seen of it."""

    room: Room
    answer: Seen
    seed: int
    passed: Sequence[Check]
    failures: Mapping[str, tuple[Failure, Failure]]  # by check: the first, and the smallest that it was shrunk to
    unreached: Sequence[Check]
    seen_since: dict[str, list[tuple[Rung, Outcome]]] = field(default_factory=dict)

    def seen(self, check: Check) -> list[tuple[Rung, Outcome]]:
        """What a check that was not passed sees of the answer, on some of the inputs of its grading."""
        if check.name not in self.seen_since:
            known = [(failure.rung, failure.got) for failure in self.failures.get(check.name, ())]
            self.seen_since[check.name] = known  # should the rest end the runner, once is enough
            if known or check in self.unreached:
                graded = ("check", self.seed, check.name)
                more = [(rung, self.answer(check, rung, graded)) for rung in spread(check.rungs, 2)]
                self.seen_since[check.name] = known + [pair for pair in more if not unwritten(pair[1])]
        return self.seen_since[check.name]


def name_mistakes(case: Case, check: Check) -> list[Mistake]:
    """The mistakes that behave like the answer, best first; more than one if nothing tells them apart."""
    if check.slow:
        return []
    room = case.room
    first, smallest = case.failures[check.name]
    graded, fresh = ("check", case.seed, check.name), ("fresh", case.seed, check.name)

    def alike(mistake: Mistake, rung: Rung, key: Any, seen: Outcome) -> bool:
        return same_kind_of_failure(seen, room.outcome_of(mistake, check, rung, key), check.comparison)

    earlier = [other for other in room.checks[: room.checks.index(check)] if other in case.passed and not other.slow]
    fitting = [m for m in room.mistakes if not known_to_trip(room, earlier, m, case.seed)]
    fitting = [m for m in fitting if gets_there(room, check, m, case.seed) and alike(m, first.rung, graded, first.got)]
    fitting = [m for m in fitting if alike(m, smallest.rung, graded, smallest.got)]
    seen = [first.got]
    for rung in spread(check.rungs, FRESH):
        if not fitting:
            return []
        seen.append(case.answer(check, rung, fresh))
        fitting = [m for m in fitting if alike(m, rung, fresh, seen[-1])]
    fitting = [m for m in fitting if not any(trips(room, other, m, case.seed, other.rungs) for other in earlier)]
    if len(fitting) > 1 or not any(map(telling, seen)):
        fitting = agree_elsewhere(case, check, fitting, strict=not any(map(telling, seen)))
    return fitting


def gets_there(room: Room, failed: Check, mistake: Mistake, seed: int) -> bool:
    """Whether a mistake seems to pass what the failed check comes after, since the answer has passed it.

    Beside sparing wrong names, this keeps a mistake that is too slow away from
    checks that are meant for answers that are not.
    """
    needed = {failed.name}
    for check in reversed(room.checks):
        if check.name in needed:
            needed |= set(check.after)
    before = [check for check in room.checks if check.name in needed - {failed.name} and not check.slow]
    return not any(trips(room, check, mistake, seed, spread(check.rungs, 2)) for check in before)


def trips(room: Room, check: Check, mistake: Mistake, seed: int, rungs: Sequence[Rung]) -> bool:
    """Whether the check fails on the mistake, on the very inputs that the answer was graded on."""
    return any(room.fails(mistake, check, rung, ("check", seed, check.name)) for rung in rungs)


def known_to_trip(room: Room, checks: Sequence[Check], mistake: Mistake, seed: int) -> bool:
    """Whether one of the checks was seen to fail on the mistake, on such inputs: it need not be run again."""
    return any(room.known_to_fail(mistake, check, rung, ("check", seed, check.name)) for check in checks for rung in check.rungs)


def agree_elsewhere(case: Case, failed: Check, fitting: list[Mistake], strict: bool) -> list[Mistake]:
    """Of the mistakes that fit, those that do most of what the answer does in the other checks.

    Args:
        strict: they must do all of it.
    """
    room = case.room
    agreements = dict.fromkeys((mistake.id for mistake in fitting), 0)
    asked = 0
    for check in room.checks:
        if check.name == failed.name or check.slow or not fitting:
            continue
        if check in case.passed:  # then so must the mistake
            asked += 1
            for mistake in fitting:
                agreements[mistake.id] += not trips(room, check, mistake, case.seed, check.rungs)
        for rung, seen in case.seen(check):
            asked += 1
            for mistake in fitting:
                done = room.outcome_of(mistake, check, rung, ("check", case.seed, check.name))
                agreements[mistake.id] += same_kind_of_failure(seen, done, check.comparison)
        if strict:  # one disagreement is enough
            fitting = [mistake for mistake in fitting if agreements[mistake.id] == asked]
    most = max(agreements.values(), default=0)
    return [mistake for mistake in fitting if agreements[mistake.id] == most]


def unwritten(outcome: Outcome) -> bool:
    return isinstance(outcome, Raised) and outcome.name == "NotImplementedError"


def spread(rungs: Sequence[Rung], number: int) -> Sequence[Rung]:
    """Rungs from all over the ladder, the upper end first."""
    step = max(len(rungs) // number, 1)
    return rungs[::-step][:number]


def telling(outcome: Outcome) -> bool:
    """Whether so much was seen that an accident is out of the question."""
    if not isinstance(outcome, Value):
        return False
    return any(tells(leaf) for leaf in tree_leaves(outcome.value) if isinstance(leaf, Tensor))


def tells(tensor: Tensor) -> bool:
    """Whether it holds many different numbers, or a pattern of booleans."""
    if tensor.dtype == torch.bool:
        return tensor.numel() >= TELLING_BOOLEANS and tensor.unique().numel() == 2
    return tensor.is_floating_point() and tensor.unique().numel() >= TELLING
