"""Graders as pytest items: `pytest graders -k attention`, -x, --lf, --junitxml, --submission.

Each check is an item; a topic is graded once, when its first item runs, by the
same function that `kata check` asks.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from kata import judge, terminal
from kata.checks import Check
from kata.curriculum import Topic, load_curriculum
from kata.processes import Starter, starter
from kata.room import Room
from kata.verdict import Result, Verdict

STARTER = pytest.StashKey[Starter]()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("kata")
    group.addoption("--submission", metavar="PATH", help="grade this file instead of the exercise")
    group.addoption("--seed", type=int, default=0, help="other numbers in the inputs of graders")


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> pytest.Collector | None:
    topic = next((t for t in load_curriculum().topics if t.grader == file_path), None)
    if topic is None:
        return None
    collector: Grader = Grader.from_parent(parent, path=file_path)
    collector.topic = topic
    return collector


@pytest.hookimpl(trylast=True)  # after -k and --lf have made their choice
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """A submission is an answer to one topic: the only one selected, or the one that it or -k is named after."""
    submission = config.getoption("--submission")
    topics = {item.grader.topic.name for item in items if isinstance(item, CheckItem)}
    if not submission or len(topics) < 2:
        return
    named = next((name for name in (config.getoption("keyword"), Path(submission).stem) if name in topics), None)
    if named is None:
        raise pytest.UsageError(
            f"--submission answers one topic, {len(topics)} are selected; name one with -k: {', '.join(sorted(topics))}"
        )
    others = [item for item in items if isinstance(item, CheckItem) and item.grader.topic.name != named]
    config.hook.pytest_deselected(items=others)
    items[:] = [item for item in items if item not in others]


def pytest_unconfigure(config: pytest.Config) -> None:
    started = config.stash.get(STARTER, None)
    if started:
        started.close()


class Grader(pytest.File):
    """A grader's file."""

    topic: Topic
    verdict: Verdict | None = None

    def collect(self) -> Iterator[pytest.Item]:
        self.room = Room(self.topic)
        for check in self.room.checks:
            item: CheckItem = CheckItem.from_parent(self, name=check.name)
            item.grader, item.check = self, check
            yield item

    def result(self, name: str) -> Result:
        """What the verdict on this session's answer says of one check."""
        if self.verdict is None:
            if STARTER not in self.config.stash:
                self.config.stash[STARTER] = starter()
            answer = Path(self.config.getoption("--submission") or self.topic.exercise)
            seed = int(self.config.getoption("--seed"))
            self.verdict = judge.grade(self.room, answer, self.config.stash[STARTER], seed)
        return next(result for result in self.verdict.results if result.name == name)

    def fails_in(self, session: pytest.Session) -> bool:
        """Whether a check that failed by itself is among the selected: else nothing would be red."""
        names = {item.name for item in session.items if isinstance(item, CheckItem) and item.grader is self}
        results = self.verdict.results if self.verdict else ()
        return any(r.name in names and r.status not in ("passed", "not_reached") for r in results)


class CheckItem(pytest.Item):
    """One check."""

    grader: Grader
    check: Check

    def runtest(self) -> None:
        result = self.grader.result(self.name)
        self.user_properties += [("points", result.points), ("max_points", result.max_points), ("status", result.status)]
        if result.status == "not_reached" and self.grader.fails_in(self.session):
            pytest.skip(f"not reached: {result.message}")
        if result.status != "passed":
            raise NotPassed(result)

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        if not isinstance(excinfo.value, NotPassed):
            return super().repr_failure(excinfo, style)
        text = io.StringIO()
        Console(file=text, width=100).print(terminal.details(excinfo.value.result))
        return text.getvalue()

    def reportinfo(self) -> tuple[Path, int, str]:
        line = self.check.function.__code__.co_firstlineno - 1
        return self.path, line, f"{self.grader.topic.name}: {self.name}"


class NotPassed(Exception):
    """A check that the answer does not pass."""

    def __init__(self, result: Result):
        super().__init__(result.message)
        self.result = result
