"""The notebook's door: `%check TOPIC` and `%hint TOPIC`.

    %load_ext kata.notebook

The cells' source is graded, not what the kernel holds: it goes to the same
judge as a file, and runs in a process that knows no answer.
"""

from __future__ import annotations

import argparse
from typing import Any

from IPython import get_ipython
from IPython.core.error import UsageError
from IPython.core.interactiveshell import InteractiveShell
from IPython.core.magic import Magics, line_magic, magics_class
from IPython.display import HTML, display

from kata import progress
from kata.asking import Misuse, grading
from kata.cells import written
from kata.curriculum import CurriculumError, Topic, load_curriculum
from kata.page import page
from kata.request import request_for


class Asked(argparse.ArgumentParser):
    """Arguments of a magic; what is wrong with them is said in one sentence."""

    def error(self, message: str) -> Any:
        raise UsageError(f"{message}; legal: {self.format_usage().removeprefix('usage: ').strip()}")


@magics_class
class KataMagics(Magics):
    """Checks and hints."""

    @line_magic
    def check(self, line: str) -> None:
        """Grade this notebook's cells: %check TOPIC [CHECK] [--file] [--seed N]"""
        asked = Asked(prog="%check", add_help=False)
        asked.add_argument("topic", metavar="TOPIC")
        asked.add_argument("check", metavar="CHECK", nargs="?")
        asked.add_argument("--file", action="store_true")
        asked.add_argument("--seed", type=int, default=0)
        wish = asked.parse_args(line.split())
        topic = found(wish.topic)
        verdict = graded(topic, wish.seed, wish.file)
        if wish.check:
            display(HTML(page({"checks": [named(topic, verdict, wish.check)]})))
        else:
            display(HTML(page(verdict, f"{topic.number} {topic.title}", next_step(topic, verdict))))

    @line_magic
    def hint(self, line: str) -> None:
        """One more hint each time: %hint TOPIC"""
        asked = Asked(prog="%hint", add_help=False)
        asked.add_argument("topic", metavar="TOPIC")
        print(progress.next_hint(found(asked.parse_args(line.split()).topic)))


def points(topic: str, check: str) -> float:
    """What this notebook's cells gain in one check; the value of a graded cell."""
    known = found(topic)
    return float(named(known, graded(known), check)["points"])


def graded(topic: Topic, seed: int = 0, in_file: bool = False) -> dict[str, Any]:
    """The verdict on this notebook's cells or on the exercise's file; the last one again if nothing has changed.

    Raises:
        UsageError: there is nothing to grade.
    """
    if seed and not topic.solution.exists():
        raise UsageError("only seed 0 can be checked here: what is wanted was recorded for it")
    try:
        file = topic.exercise if in_file else written(topic, get_ipython().user_ns["In"])
        asked = topic, seed, file, file.read_bytes()
        if asked != last.get("asked"):
            with grading(tell=print) as grade:
                last["verdict"] = grade(request_for(topic, file, file.relative_to(topic.root), seed))["verdict"]
            last["asked"] = asked
            progress.remember(topic, last["verdict"])
    except (Misuse, OSError) as error:
        raise UsageError(str(error)) from None
    return dict(last["verdict"])


last: dict[str, Any] = {}  # what was asked last, and the verdict


def named(topic: Topic, verdict: dict[str, Any], name: str) -> dict[str, Any]:
    """One check of a verdict."""
    for check in verdict["checks"]:
        if check["name"] == name:
            return dict(check)
    raise UsageError(f"{topic.name} has no check {name!r}; it has: {', '.join(check['name'] for check in verdict['checks'])}")


def found(name: str) -> Topic:
    try:
        return load_curriculum().find(name)
    except CurriculumError as error:
        raise UsageError(str(error)) from None


def next_step(topic: Topic, verdict: dict[str, Any]) -> str:
    if verdict["passed"]:
        return f"All of {topic.title} is right."
    unwritten = any(check["status"] == "not_written" for check in verdict["checks"])
    todo = "Write what is missing" if unwritten else "Mend the first failure"
    read = f" To read: {topic.papers[0]}." if topic.papers else ""
    return f"{todo}, run its cell, then run this again. Stuck? %hint {topic.name}.{read}"


def load_ipython_extension(shell: InteractiveShell) -> None:
    shell.register_magics(KataMagics)
    try:
        from kata.pictures import look
    except ImportError:
        return  # without matplotlib there is nothing to draw
    look()
