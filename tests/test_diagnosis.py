"""Naming a mistake that is made in another style than the reference's."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from rooms import ANSWERS, ROOMS

from kata.diagnosis import gets_there
from kata.verdict import Verdict

OTHER_STYLE = (ANSWERS / "masking" / "tril_and_triu.py").read_text(encoding="utf-8")

# A pattern of booleans tells by itself: here all other masks stay right, where
# the reference's would go wrong with the causal one that they are built on.
PATTERN = """
def causal_mask(L, S=None):
    return torch.ones(L, S or L).triu(diagonal=(S or L) - L) == 1
"""

# A single zero gradient tells little, so all else must agree, errors included;
# these have words of their own.
ZEROS = """
def apply_mask(scores, mask):
    with torch.no_grad():
        return torch.where(mask, scores, -torch.inf)
"""


@pytest.mark.parametrize("mistake, named", [(PATTERN, "causal-upside-down"), (ZEROS, "apply-cuts-the-graph")])
def test_mistake_in_another_style_is_named(mistake: str, named: str, verdict_on: Callable[..., Verdict]) -> None:
    failure = verdict_on("masking", OTHER_STYLE + mistake).first_failure
    assert failure is not None
    assert [found.id for found in failure.mistakes] == [named]


def test_mistakes_that_fail_what_the_answer_has_passed_are_not_considered() -> None:
    room = ROOMS["tokenization"]
    checks = {check.name: check for check in room.checks}
    slow = "work-grows-with-the-square"  # it would not come to an end on a long text

    def considered(check: str) -> set[str]:
        return {m.id for m in room.mistakes if gets_there(room, checks[check], m, seed=0)}

    assert slow in considered("work_does_not_grow_with_the_square")
    assert not {slow, "code-points-as-ids"} & considered("long_texts_are_encoded")
    assert "overlaps-counted" in considered("long_texts_are_encoded")  # of this the checks before say nothing
