"""The exam of the graders: what is right passes, what is wrong does not, and is named."""

from __future__ import annotations

import ast
import functools
from collections.abc import Callable

import pytest
from rooms import ANSWERS, ROOMS, TOPICS

from kata.checks import Check
from kata.compare import compare
from kata.curriculum import Topic
from kata.diagnosis import known_to_trip
from kata.host import Local
from kata.implementation import Implementation
from kata.judge import grade_answer
from kata.loading import load
from kata.mistakes import Mistake
from kata.offlimits import scan
from kata.rehearsal import Rehearsal
from kata.stubs import cut
from kata.verdict import Verdict

Grade = Callable[..., Verdict]


def case(topic: Topic, *values: object, id: str = "", apart: str = ""):
    """A test's parameters; one process takes all of a topic, for it remembers what it has computed, but for what stands `apart`."""
    return pytest.param(topic.name, *values, id=f"{topic.name}{id}", marks=pytest.mark.xdist_group(topic.name + apart))


EACH = [case(topic) for topic in TOPICS]
MISTAKES = [case(topic, mistake, id=f"-{mistake.id}") for topic in TOPICS for mistake in ROOMS[topic.name].mistakes]
RIGHT = [  # each under the seed that learners meet, the first of a topic under two others too
    case(topic, file, seed, id=f"-{file.stem}-{seed}", apart=f"-{file.stem}")
    for topic in TOPICS
    for place, file in enumerate(sorted((ANSWERS / topic.name).glob("*.py")))
    for seed in ((0,) if place else (0, 1, 2))
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


IDLE = {
    "nothing": "return None",
    "a refusal": "raise ValueError",
    "its first argument": "return first",
    "its last argument": "return [first, *args, *kwargs.values()][-1]",
    "zeros": "return first * 0",
}


@pytest.mark.parametrize("body", IDLE.values(), ids=IDLE)
@pytest.mark.parametrize("topic", EACH)
def test_an_answer_that_gives_only_this_gains_nothing(topic: str, body: str) -> None:
    room = ROOMS[topic]
    source = "\n".join(f"def {name}(first=None, *args, **kwargs):\n    {body}\n" for name in room.names)
    answer = Implementation(Local(load(source, "answer.py", f"kata_idle_{topic}")))
    passed: set[str] = set()
    for check in room.checks:
        inputs = [room.wanted(check, rung, ("check", 0, check.name)) for rung in check.rungs]
        if passed.issuperset(check.after) and all(compare(wanted, check.run(answer, i), check.comparison) is None for i, wanted in inputs):
            passed.add(check.name)
    assert passed == set()


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
    """At its first failure already, or else when all checks have run: more of them can only take wrong names away."""
    room = ROOMS[topic]
    run_until_they_fail(topic)
    verdict = grade_answer(room, Rehearsal(mistake), mistake.id, to_the_end=False)
    if not names(verdict) <= twins(topic, mistake):
        verdict = grade_answer(room, Rehearsal(mistake), mistake.id)
    loses_points_and_is_named(topic, mistake, verdict)


@functools.cache
def run_until_they_fail(topic: str) -> None:
    """The room remembers where each mistake fails first; whoever fails later cannot be taken for it."""
    room = ROOMS[topic]
    for mistake in room.mistakes:
        next((check for check in room.checks if fails(topic, mistake, check)), None)


def fails(topic: str, mistake: Mistake, check: Check) -> bool:
    return any(ROOMS[topic].fails(mistake, check, rung, ("check", 0, check.name)) for rung in check.rungs)


@pytest.mark.parametrize("topic, mistake", MISTAKES[::32])
def test_mistake_in_a_learners_file_is_named_too(topic: str, mistake: Mistake, verdict_on: Grade) -> None:
    loses_points_and_is_named(topic, mistake, verdict_on(topic, mistake.source))


@pytest.mark.parametrize("topic", EACH)
def test_mistakes_use_nothing_off_limits(topic: str) -> None:
    room = ROOMS[topic]
    for mistake in room.mistakes:
        assert scan(ast.parse(mistake.source), room.topic.off_limits, room.names) == []


def loses_points_and_is_named(topic: str, mistake: Mistake, verdict: Verdict) -> None:
    assert verdict.points < verdict.max_points
    failure = verdict.first_failure
    assert failure is not None
    assert names(verdict), f"{failure.name} failed without a name: {failure.message}"
    assert names(verdict) <= twins(topic, mistake), f"{failure.name} was taken for {names(verdict)}"


def names(verdict: Verdict) -> set[str]:
    """Of the mistakes that its first failure was taken for."""
    return {found.id for found in verdict.first_failure.mistakes} if verdict.first_failure else set()


def twins(topic: str, mistake: Mistake) -> set[str]:
    return {mistake.id, *mistake.twins} | {m.id for m in ROOMS[topic].mistakes if mistake.id in m.twins}


@pytest.mark.parametrize("topic", EACH)
def test_no_check_is_idle(topic: str) -> None:
    """Each check is tripped by some mistake, judged without the checks that it comes after."""
    room = ROOMS[topic]
    run_until_they_fail(topic)
    known = {check.name for check in room.checks if any(known_to_trip(room, [check], mistake, 0) for mistake in room.mistakes)}
    idle = [check for check in room.checks if check.name not in known and not any(fails(topic, m, check) for m in room.mistakes)]
    assert [check.name for check in idle] == []
