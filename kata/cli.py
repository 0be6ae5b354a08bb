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
from typing import TYPE_CHECKING, Annotated

import typer

from kata import progress
from kata.asking import Misuse, grading, grading_here, runners
from kata.curriculum import Curriculum, CurriculumError, Topic, load_curriculum
from kata.request import request_for

if TYPE_CHECKING:
    from rich.console import Console

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Practise building Transformers, and find out whether you can.",
)

TopicName = Annotated[str, typer.Argument(metavar="TOPIC", help="A topic's name, such as attention.")]


@functools.cache
def out(stderr: bool = False) -> Console:
    from rich.console import Console

    return Console(stderr=stderr, highlight=False, markup=False, emoji=False)


def err() -> Console:
    return out(stderr=True)


def run(arguments: list[str]) -> int:
    """Carry out one command; its exit status: 0 right, 1 not right yet, 2 misused."""
    try:
        status = int(app(arguments, standalone_mode=False, prog_name="kata") or 0)
    except (CurriculumError, Misuse) as error:
        err().print(str(error))
        return 2
    except (typer.Abort, KeyboardInterrupt):
        status = 130
    except Exception as error:
        show = getattr(error, "show", None)  # click's own messages about options and arguments
        if show is None:
            raise
        show()
        return 2
    if status == 130:
        err().print("stopped")
    return status


@app.command()
def check(
    topic: Annotated[str | None, typer.Argument(metavar="[TOPIC]", help="One topic; without it, every topic you have started.")] = None,
    file: Annotated[Path | None, typer.Option(help="Grade this file instead of the exercise.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the verdict for machines.")] = False,
    seed: Annotated[int, typer.Option(help="Other numbers in the inputs.")] = 0,
    everything: Annotated[bool, typer.Option("--all", help="Every failure in full; without TOPIC, every topic.")] = False,
    notebook: Annotated[bool, typer.Option("--notebook", help="Grade the cells of the topic's notebook, or of FILE.")] = False,
) -> int:
    """Grade an answer and say what is right, what is not, and why."""
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
        reply = grade(request_for(out(), topic, answer, relative(shown), seed, hints_left, everything))
    if file is None:
        progress.remember(topic, reply["verdict"])
    if as_json:
        print(json.dumps(reply["verdict"], indent=1))
    else:
        out().file.write(reply["text"])
    return 0 if reply["verdict"]["passed"] else 1


def check_many(topics: list[Topic], seed: int, as_json: bool) -> int:
    from concurrent.futures import ThreadPoolExecutor

    requests = [request_for(out(), topic, topic.exercise, relative(topic.exercise), seed) for topic in topics]
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
        typer.echo(line, color=color)


def journey(curriculum: Curriculum) -> Iterator[str]:
    """A line for each chapter and lesson."""
    records = progress.read(curriculum.topics[0].root)
    titles = {each.name: each.title if isinstance(each, Topic) else f"{each.title}, to read" for each in curriculum.lessons}
    names_end, titles_end = max(map(len, titles)), max(map(len, titles.values()))
    yield typer.style(f"       {'topic':<{names_end}} {'':<{titles_end}} minutes points", dim=True)
    chapter = ""
    for lesson in curriculum.lessons:
        if lesson.chapter != chapter:
            yield typer.style(f"       {lesson.path.split('_')[0]} {lesson.chapter}", bold=True)
            chapter = lesson.chapter
        record = records.get(lesson.name, progress.Record())
        begun = isinstance(lesson, Topic) and progress.started(lesson)
        mark = typer.style("✓", "green") if record.passed else typer.style("◐", "yellow") if begun else typer.style("·", dim=True)
        title = typer.style(f"{titles[lesson.name]:<{titles_end}}", dim=True)
        points = f"{record.points}/{record.max_points}" if record.attempts else ""
        yield f"{mark} {lesson.number:<4} {lesson.name:<{names_end}} {title} {lesson.minutes:>7} {points:>6}".rstrip()


@app.command()
def hint(topic: TopicName) -> None:
    """One more hint each time."""
    width = shutil.get_terminal_size().columns
    for line in progress.next_hint(load_curriculum().find(topic)).splitlines():
        typer.echo(textwrap.fill(line, width))


@app.command()
def reveal(topic: TopicName, force: Annotated[bool, typer.Option("--force", help="Without an attempt of your own.")] = False) -> int:
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
def reset(topic: TopicName, yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False) -> int:
    """Bring the stub back; what you wrote is kept under .kata/."""
    found = load_curriculum().find(topic)
    if found.exercise.exists() and not progress.started(found):
        out().print(f"{relative(found.exercise)} is the stub already.")
        return 0
    try:
        if found.exercise.exists():
            if not yes and not typer.confirm(f"Replace what you wrote in {relative(found.exercise)} by the stub?"):
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
def notebook(topic: TopicName) -> int:
    """Open a lesson in JupyterLab."""
    import subprocess

    found = load_curriculum().lesson(topic)
    if not found.notebook.exists():
        raise Misuse(f"{found.name} has no notebook yet; `make lessons TOPIC={found.name}` builds it")
    as_root = ["--allow-root"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []  # as in many containers
    done = subprocess.run([sys.executable, "-m", "jupyterlab", *as_root, str(found.notebook)], cwd=found.root, check=False)
    return done.returncode


@app.command()
def lessons(topic: Annotated[str | None, typer.Argument(metavar="[TOPIC]", help="One lesson; without it, all.")] = None) -> int:
    """Build the notebooks from lessons/, run them, and save them with their outputs; for developers."""
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
def course(
    topic: Annotated[str | None, typer.Argument(metavar="[TOPIC]", help="One assignment; without it, all.")] = None,
    folder: Annotated[Path, typer.Option(help="Where the course is written.")] = Path("course"),
) -> int:
    """Write an nbgrader course: sources, configuration, and the release for students."""
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
def debug(topic: TopicName, name: Annotated[str, typer.Argument(metavar="CHECK", help="A check's name.")]) -> int:
    """Run one check in this process, so that breakpoints work."""
    found = load_curriculum().find(topic)
    from kata import debugging

    return debugging.debug(out(), found, name)


@app.command()
def train(
    topic: TopicName,
    file: Annotated[Path | None, typer.Option(help="Train this file's model instead of the exercise's.")] = None,
) -> int:
    """Train your model on real data and see what it has learnt."""
    found = load_curriculum().find(topic)
    with runners() as starter:
        from kata import train as training

        if found.name not in training.TOPICS:
            raise Misuse(f"{found.name} has no training run; those that have one: {', '.join(training.TOPICS)}")
        return training.train(out(), found, relative(file or found.exercise), starter)


@app.command()
def matrix(topic: TopicName) -> int:
    """Which check catches which mistake; for those who write graders."""
    found = load_curriculum().find(topic)
    from kata import matrix as matrices

    return matrices.show(out(), found)


@app.command()
def watch(
    topic: Annotated[str | None, typer.Argument(metavar="[TOPIC]", help="One topic; without it, whichever you save.")] = None,
) -> int:
    """Grade at every save, until you press q."""
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
def new(path: Annotated[str, typer.Argument(metavar="CHAPTER/TOPIC", help="Such as 2_blocks/swiglu.")]) -> None:
    """Lay out the files of a new topic."""
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
