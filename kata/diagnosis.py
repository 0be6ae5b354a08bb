"""Names the known mistake that an answer makes.

Learners write in every style, so only behaviour counts: a mistake is named when
it does what the answer does on the input that failed and on fresh ones. Where
what a check sees says little, such as a number or an exception, the mistake
must also do what the answer does in every other check.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from kata.checks import Check, Failure
from kata.compare import Outcome, Raised, Value, compare, same_kind_of_failure
from kata.implementation import Implementation
from kata.inputs import Rung
from kata.mistakes import Mistake
from kata.room import Room

FRESH = 4  # fresh inputs for the failing check
TELLING = 4  # different numbers that an outcome must hold to tell mistakes apart by itself
TELLING_BOOLEANS = 16  # or so many booleans, of both kinds: a pattern


def name_mistakes(
    room: Room, check: Check, answer: Implementation, seed: int, first: Failure, smallest: Failure, passed: Sequence[Check]
) -> list[Mistake]:
    """The mistakes that behave like the answer, best first; more than one if nothing tells them apart.

    Args:
        first: the first failure of the check on the answer.
        smallest: what it was shrunk to.
        passed: the checks that the answer passes, as the mistake must too.
    """

    if check.slow:
        return []

    def alike(mistake: Mistake, rung: Rung, key: Any, seen: Outcome) -> bool:
        return same_kind_of_failure(seen, room.outcome_of(mistake, check, rung, key), check.comparison)

    graded = ("check", seed, check.name)
    fitting = [m for m in room.mistakes if gets_there(room, check, m, seed) and alike(m, first.rung, graded, first.got)]
    fitting = [m for m in fitting if alike(m, smallest.rung, graded, smallest.got)]
    seen = [first.got]
    fresh = ("fresh", seed, check.name)
    for rung in spread(check.rungs(), FRESH):
        if not fitting:
            return []
        seen.append(check.run(answer, room.wanted(check, rung, fresh)[0]))
        fitting = [m for m in fitting if alike(m, rung, fresh, seen[-1])]
    fitting = [m for m in fitting if not any(trips(room, earlier, m, seed, earlier.rungs()) for earlier in passed if not earlier.slow)]
    if len(fitting) > 1 or not any(map(telling, seen)):
        fitting = agree_elsewhere(room, check, answer, seed, fitting, strict=not any(map(telling, seen)))
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
    return not any(trips(room, check, mistake, seed, spread(check.rungs(), 2)) for check in before)


def trips(room: Room, check: Check, mistake: Mistake, seed: int, rungs: list[Rung]) -> bool:
    """Whether the check fails on the mistake, on the very inputs that the answer was graded on."""
    key = ("check", seed, check.name)
    for rung in rungs:
        _, wanted = room.wanted(check, rung, key)
        if compare(wanted, room.outcome_of(mistake, check, rung, key), check.comparison):
            return True
    return False


def agree_elsewhere(room: Room, failed: Check, answer: Implementation, seed: int, fitting: list[Mistake], strict: bool) -> list[Mistake]:
    """Of the mistakes that fit, those that do most of what the answer does in the other checks.

    Args:
        strict: they must do all of it.
    """
    agreements = dict.fromkeys((mistake.id for mistake in fitting), 0)
    asked = 0
    for check in room.checks:
        if check.name == failed.name or check.slow or not fitting:
            continue
        key = ("elsewhere", seed, check.name)
        for rung in spread(check.rungs(), 2):
            inputs, wanted = room.wanted(check, rung, key)
            seen = check.run(answer, inputs)
            if isinstance(seen, Raised) and seen.name == "NotImplementedError":
                continue
            asked += 1
            right = compare(wanted, seen, check.comparison) is None
            for mistake in fitting:
                done = room.outcome_of(mistake, check, rung, key)
                if right:  # then so must the mistake be; an exception's words may differ
                    agreements[mistake.id] += compare(wanted, done, check.comparison) is None
                else:
                    agreements[mistake.id] += same_kind_of_failure(seen, done, check.comparison)
            if strict:  # one disagreement is enough
                fitting = [mistake for mistake in fitting if agreements[mistake.id] == asked]
    most = max(agreements.values(), default=0)
    if strict and most < asked:
        return []
    return [mistake for mistake in fitting if agreements[mistake.id] == most]


def spread(rungs: list[Rung], number: int) -> list[Rung]:
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
