"""The exam of the graders: what is right passes, what is wrong does not, and is named."""

from __future__ import annotations

import ast
from collections.abc import Callable

import pytest
from rooms import ANSWERS, ROOMS, TOPICS

from kata.curriculum import Topic
from kata.judge import grade_answer
from kata.mistakes import Mistake
from kata.offlimits import scan
from kata.rehearsal import Rehearsal
from kata.stubs import cut, public_names
from kata.verdict import Verdict

Grade = Callable[..., Verdict]


def case(topic: Topic, *values: object, id: str = "", apart: str = ""):
    """A test's parameters; one process takes all of a topic, for it remembers what it has computed, but for what stands `apart`."""
    return pytest.param(topic.name, *values, id=f"{topic.name}{id}", marks=pytest.mark.xdist_group(topic.name + apart))


EACH = [case(topic) for topic in TOPICS]
MISTAKES = [case(topic, mistake, id=f"-{mistake.id}") for topic in TOPICS for mistake in ROOMS[topic.name].mistakes]
RIGHT = [  # each under the seed that learners meet, and under one of its own: several for each check
    case(topic, file, seed, id=f"-{file.stem}-{seed}", apart=f"-{file.stem}")
    for topic in TOPICS
    for place, file in enumerate(sorted((ANSWERS / topic.name).glob("*.py")))
    for seed in (0, place + 1)
]


@pytest.mark.parametrize("topic", EACH)
def test_reference_gets_full_marks(topic: str, verdict_on: Grade) -> None:
    verdict = verdict_on(topic, ROOMS[topic].solution)
    assert verdict.passed, verdict.first_failure


@pytest.mark.parametrize("topic", EACH)
def test_stub_is_told_as_not_written(topic: str, verdict_on: Grade) -> None:
    verdict = verdict_on(topic, cut(ROOMS[topic].solution))
    assert verdict.points == 0
    assert {result.status for result in verdict.results} <= {"not_written", "not_reached"}
    assert verdict.results[0].status == "not_written"


@pytest.mark.parametrize("topic, file, seed", RIGHT)
def test_right_answer_in_another_style_gets_full_marks(topic: str, file, seed: int, verdict_on: Grade) -> None:
    verdict = verdict_on(topic, file.read_text(), seed)
    assert verdict.passed, verdict.first_failure


@pytest.mark.parametrize("topic", EACH)
def test_there_are_enough_answers_and_mistakes(topic: str) -> None:
    assert len(list((ANSWERS / topic).glob("*.py"))) >= 3
    assert len(ROOMS[topic].mistakes) >= 10


@pytest.mark.parametrize("topic, mistake", MISTAKES)
def test_mistake_loses_points_and_is_named(topic: str, mistake: Mistake) -> None:
    loses_points_and_is_named(topic, mistake, grade_answer(ROOMS[topic], Rehearsal(mistake), mistake.id, to_the_end=False))


@pytest.mark.parametrize("topic, mistake", MISTAKES[::16])
def test_mistake_in_a_learners_file_is_named_too(topic: str, mistake: Mistake, verdict_on: Grade) -> None:
    loses_points_and_is_named(topic, mistake, verdict_on(topic, mistake.source))


@pytest.mark.parametrize("topic", EACH)
def test_mistakes_use_nothing_off_limits(topic: str) -> None:
    room = ROOMS[topic]
    for mistake in room.mistakes:
        assert scan(ast.parse(mistake.source), room.topic.off_limits, public_names(room.solution)) == []


def loses_points_and_is_named(topic: str, mistake: Mistake, verdict: Verdict) -> None:
    assert verdict.points < verdict.max_points
    failure = verdict.first_failure
    assert failure is not None
    named = {found.id for found in failure.mistakes}
    assert named, f"{failure.name} failed without a name: {failure.message}"
    twins = {mistake.id, *mistake.twins} | {m.id for m in ROOMS[topic].mistakes if mistake.id in m.twins}
    assert named <= twins, f"{failure.name} was taken for {named}"


@pytest.mark.parametrize("topic", EACH)
def test_no_check_is_idle(topic: str) -> None:
    """Each check is tripped by some mistake, judged without the checks that it comes after."""
    room = ROOMS[topic]

    def tripped(check) -> bool:
        key = ("check", 0, check.name)
        return any(room.fails(mistake, check, rung, key) for mistake in room.mistakes for rung in check.rungs)

    assert [check.name for check in room.checks if not tripped(check)] == []
