"""The commands. Nothing here imports PyTorch before it is needed, nor Rich, which takes as long as all else together."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import shutil
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from kata import progress
from kata.asking import Misuse, grading, grading_here, runners
from kata.curriculum import Curriculum, CurriculumError, Topic, load_curriculum
from kata.request import request_for

if TYPE_CHECKING:
    from rich.console import Console

TOPIC = click.argument("topic")
ANY_TOPIC = click.argument("topic", required=False)
PATH = click.Path(path_type=Path)


class AsWritten(click.Group):
    """Commands in the order of this file, what learners need most first."""

    def list_commands(self, context: click.Context) -> list[str]:
        return list(self.commands)


@click.group(cls=AsWritten)
def app() -> None:
    """Practise building Transformers, and find out whether you can."""


@functools.cache
def out(stderr: bool = False) -> Console:
    from rich.console import Console

    return Console(stderr=stderr, highlight=False, markup=False, emoji=False)


def err() -> Console:
    return out(stderr=True)


def run(arguments: list[str]) -> int:
    """Carry out one command; its exit status: 0 right, 1 not right yet, 2 misused."""
    try:
        status = int(app.main(arguments, prog_name="kata", standalone_mode=False) or 0)
    except (CurriculumError, Misuse) as error:
        err().print(str(error))
        return 2
    except (click.Abort, KeyboardInterrupt):
        status = 130
    except click.ClickException as error:  # options and arguments
        error.show()
        return 2
    if status == 130:
        err().print("stopped")
    return status


@app.command()
@ANY_TOPIC
@click.option("--file", type=PATH, help="Grade this file instead of the exercise.")
@click.option("--json", "as_json", is_flag=True, help="Print the verdict for machines.")
@click.option("--seed", default=0, show_default=True, help="Other numbers in the inputs.")
@click.option("--all", "everything", is_flag=True, help="Every failure in full; without TOPIC, every topic.")
@click.option("--notebook", is_flag=True, help="Grade the cells of the topic's notebook, or of FILE.")
def check(topic: str | None, file: Path | None, as_json: bool, seed: int, everything: bool, notebook: bool) -> int:
    """Grade an answer and say what is right, what is not, and why.

    Without TOPIC, every topic you have started.
    """
    curriculum = load_curriculum()
    if topic is None:
        if file is not None or notebook:
            raise Misuse("--file and --notebook need a TOPIC: which one is it an answer to?")
        chosen = [t for t in curriculum.topics if everything or progress.started(t)]
        if not chosen:
            first = curriculum.topics[0]
            out().print(f"Nothing is started yet. Open {relative(first.exercise)}, then `make check TOPIC={first.name}`.")
            return 0
        return check_many(chosen, seed, as_json)
    return check_one(curriculum.find(topic), file, seed, as_json, everything, notebook)


def check_one(topic: Topic, file: Path | None, seed: int, as_json: bool, everything: bool, notebook: bool) -> int:
    if file is not None and not file.exists():
        raise Misuse(f"there is no file {file}")
    answer = shown = file or (topic.notebook if notebook else topic.exercise)
    if notebook:
        from kata.cells import code_of, written

        answer = written(topic, code_of(shown))
    hints_left = len(topic.hints)
    if file is None:
        hints_left -= progress.read(topic.root).get(topic.name, progress.Record()).hints
    with grading(notice) as grade:
        reply = grade(request_for(topic, answer, relative(shown), seed, hints_left, everything))
    if file is None:
        progress.remember(topic, reply["verdict"])
    if as_json:
        print(json.dumps(reply["verdict"], indent=1))
    else:
        sys.stdout.write(reply["text"])
    return 0 if reply["verdict"]["passed"] else 1


def check_many(topics: list[Topic], seed: int, as_json: bool) -> int:
    from concurrent.futures import ThreadPoolExecutor

    requests = [request_for(topic, topic.exercise, relative(topic.exercise), seed) for topic in topics]
    pool = ThreadPoolExecutor(os.cpu_count())
    with grading(notice) as grade, progress_bar(len(topics)) as advance:
        try:
            graded = [pool.submit(grade, request) for request in requests]
            for future in graded:
                future.add_done_callback(lambda _: advance())
            verdicts = [future.result()["verdict"] for future in graded]
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
    for topic, verdict in zip(topics, verdicts, strict=True):
        progress.remember(topic, verdict)
    if as_json:
        print(json.dumps(verdicts, indent=1))
    else:
        from rich.table import Table
        from rich.text import Text

        table = Table(box=None, header_style="dim")
        for column in ("", "topic", "points", "checks", "first to mend"):
            table.add_column(column, justify="right" if column in ("points", "checks") else "left")
        for topic, verdict in zip(topics, verdicts, strict=True):
            checks = verdict["checks"]
            right = sum(check["status"] == "passed" for check in checks)
            mend = next((c["name"].replace("_", " ") for c in checks if c["status"] not in ("passed", "not_reached")), "")
            mark = Text("✓", "green") if verdict["passed"] else Text("✗", "red")
            table.add_row(
                mark, f"{topic.number} {topic.name}", f"{verdict['points']}/{verdict['max_points']}", f"{right}/{len(checks)}", mend
            )
        out().print(table)
    return 0 if all(verdict["passed"] for verdict in verdicts) else 1


@contextlib.contextmanager
def progress_bar(total: int) -> Iterator[Callable[[], None]]:
    """A bar on the terminal where it lasts longer than a second, gone at the end."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    columns = TextColumn("checking"), BarColumn(), MofNCompleteColumn()
    bar = Progress(*columns, console=err(), transient=True, disable=not err().is_terminal)
    task = bar.add_task("", total=total)
    patience = threading.Timer(1.0, bar.start)
    patience.daemon = True
    patience.start()
    try:
        yield lambda: bar.advance(task)
    finally:
        patience.cancel()
        patience.join()
        bar.stop()


@app.command("list")
def list_topics() -> None:
    """The journey, with what is done."""
    curriculum = load_curriculum()
    color = False if os.environ.get("NO_COLOR") else None  # None: on a terminal
    for line in journey(curriculum):
        click.echo(line, color=color)


def journey(curriculum: Curriculum) -> Iterator[str]:
    """A line for each chapter and lesson."""
    records = progress.read(curriculum.topics[0].root)
    titles = {each.name: each.title if isinstance(each, Topic) else f"{each.title}, to read" for each in curriculum.lessons}
    names_end, titles_end = max(map(len, titles)), max(map(len, titles.values()))
    yield click.style(f"       {'topic':<{names_end}} {'':<{titles_end}} minutes points", dim=True)
    chapter = ""
    for lesson in curriculum.lessons:
        if lesson.chapter != chapter:
            yield click.style(f"       {lesson.path.split('_')[0]} {lesson.chapter}", bold=True)
            chapter = lesson.chapter
        record = records.get(lesson.name, progress.Record())
        begun = isinstance(lesson, Topic) and progress.started(lesson)
        mark = click.style("✓", "green") if record.passed else click.style("◐", "yellow") if begun else click.style("·", dim=True)
        title = click.style(f"{titles[lesson.name]:<{titles_end}}", dim=True)
        points = f"{record.points}/{record.max_points}" if record.attempts else ""
        yield f"{mark} {lesson.number:<4} {lesson.name:<{names_end}} {title} {lesson.minutes:>7} {points:>6}".rstrip()


@app.command()
@TOPIC
def hint(topic: str) -> None:
    """One more hint each time."""
    width = shutil.get_terminal_size().columns
    for line in progress.next_hint(load_curriculum().find(topic)).splitlines():
        click.echo(textwrap.fill(line, width))


@app.command()
@TOPIC
@click.option("--force", is_flag=True, help="Without an attempt of your own.")
def reveal(topic: str, force: bool) -> int:
    """The solution, after an honest attempt."""
    found = load_curriculum().find(topic)
    record = progress.read(found.root).get(found.name, progress.Record())
    if not force and not (record.attempts and progress.started(found)):
        err().print(f"Try it first: write something in {relative(found.exercise)} and run `make check TOPIC={found.name}`.")
        err().print(f"`make reveal TOPIC={found.name} FORCE=1` shows the solution all the same.", style="dim")
        return 1
    from rich.syntax import Syntax

    source = found.solution.read_text(encoding="utf-8")
    out().print(Syntax(source, "python", background_color="default") if out().is_terminal else source)
    return 0


@app.command()
@TOPIC
@click.option("--yes", is_flag=True, help="Do not ask.")
def reset(topic: str, yes: bool) -> int:
    """Bring the stub back; what you wrote is kept under .kata/."""
    found = load_curriculum().find(topic)
    if found.exercise.exists() and not progress.started(found):
        out().print(f"{relative(found.exercise)} is the stub already.")
        return 0
    try:
        if found.exercise.exists():
            if not yes and not click.confirm(f"Replace what you wrote in {relative(found.exercise)} by the stub?"):
                out().print("Nothing was changed.")
                return 0
            out().print(f"What you wrote is kept in {relative(progress.back_up(found))}.")
        progress.write_stub(found)
    except OSError as error:
        err().print(f"nothing was replaced: {error.filename or relative(found.exercise)}: {error.strerror}")
        return 1
    out().print(f"{relative(found.exercise)} is the stub again.")
    return 0


@app.command()
def stubs() -> int:
    """Write what is generated, the stubs, their digests and the README's table; for developers."""
    from kata import readme

    curriculum = load_curriculum()
    root = curriculum.topics[0].root
    readme.refresh(root, curriculum)
    for topic in curriculum.topics:
        if topic.exercise.exists() and progress.started(topic):
            out().print(f"{relative(topic.exercise)} differs; a copy is kept in {relative(progress.back_up(topic))}")
        progress.write_stub(topic)
    (root / progress.DIGESTS).write_text(progress.digest_list(curriculum.topics), encoding="utf-8", newline="\n")
    return 0


@app.command()
@TOPIC
def notebook(topic: str) -> int:
    """Open a lesson in JupyterLab."""
    import subprocess

    found = load_curriculum().lesson(topic)
    if not found.notebook.exists():
        raise Misuse(f"{found.name} has no notebook yet; `make lessons TOPIC={found.name}` builds it")
    as_root = ["--allow-root"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []  # as in many containers
    done = subprocess.run([sys.executable, "-m", "jupyterlab", *as_root, str(found.notebook)], cwd=found.root, check=False)
    return done.returncode


@app.command()
@ANY_TOPIC
def lessons(topic: str | None) -> int:
    """Build the notebooks from lessons/, run them, and save them with their outputs; for developers.

    Without TOPIC, all of them.
    """
    curriculum = load_curriculum()
    from kata import lessons as building

    for each in [curriculum.lesson(topic)] if topic else curriculum.lessons:
        try:
            building.write(each, curriculum)
        except building.LessonError as error:
            raise Misuse(str(error)) from error
        out().print(relative(each.notebook))
    return 0


@app.command()
@ANY_TOPIC
@click.option("--folder", type=PATH, default="course", show_default=True, help="Where the course is written.")
def course(topic: str | None, folder: Path) -> int:
    """Write an nbgrader course: sources, configuration, and the release for students.

    Without TOPIC, an assignment for each.
    """
    curriculum = load_curriculum()
    chosen = [curriculum.find(topic)] if topic else curriculum.topics
    from kata import course as writing
    from kata.lessons import LessonError

    try:
        for written in writing.write(curriculum, chosen, folder):
            out().print(relative(written))
    except (writing.CourseError, LessonError) as error:
        raise Misuse(str(error)) from error
    return 0


@app.command()
@TOPIC
@click.argument("name", metavar="CHECK")
def debug(topic: str, name: str) -> int:
    """Run one check in this process, so that breakpoints work."""
    found = load_curriculum().find(topic)
    from kata import debugging

    return debugging.debug(out(), found, name)


@app.command()
@TOPIC
@click.option("--file", type=PATH, help="Train this file's model instead of the exercise's.")
def train(topic: str, file: Path | None) -> int:
    """Train your model on real data and see what it has learnt."""
    found = load_curriculum().find(topic)
    with runners() as starter:
        from kata import train as training

        if found.name not in training.TOPICS:
            raise Misuse(f"{found.name} has no training run; those that have one: {', '.join(training.TOPICS)}")
        return training.train(out(), found, relative(file or found.exercise), starter)


@app.command()
@TOPIC
def matrix(topic: str) -> int:
    """Which check catches which mistake; for those who write graders."""
    found = load_curriculum().find(topic)
    from kata import matrix as matrices

    return matrices.show(out(), found)


@app.command()
@ANY_TOPIC
def watch(topic: str | None) -> int:
    """Grade at every save, until you press q.

    Without TOPIC, whichever you save.
    """
    from kata import watch as watching

    curriculum = load_curriculum()
    with grading_here() as cold:
        return watching.start(out(), curriculum, curriculum.find(topic) if topic else None, cold)


@app.command()
def stop() -> None:
    """End the process that keeps PyTorch warm between checks."""
    from kata import warm

    out().print("stopped" if warm.stop() else "none was running")


@app.command()
def doctor() -> int:
    """What protects this machine from the code that it grades."""
    with runners() as starter:
        from kata import examine

        return examine.doctor(out(), starter)


@app.command()
@click.argument("path", metavar="CHAPTER/TOPIC")
def new(path: str) -> None:
    """Lay out the files of a new topic, such as 2_blocks/swiglu."""
    from kata import layout

    for line in layout.new_topic(path):
        out().print(line)


def notice(text: str) -> None:
    err().print(text, style="dim", soft_wrap=True)


def relative(path: Path) -> Path:
    """As short as it can be said from here."""
    try:
        return path.resolve().relative_to(Path.cwd())
    except (ValueError, OSError):
        return path
