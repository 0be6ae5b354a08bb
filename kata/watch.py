"""`kata watch`: every save shows its verdict at once, with what has changed since the one before."""

from __future__ import annotations

import contextlib
import os
import queue
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text
from watchfiles import Change, watch

from kata import progress, warm
from kata.curriculum import Curriculum, Topic
from kata.request import request_for

Event = tuple[str, Any]  # "saved" with a path, "key" with a letter, "graded" with a Run, "failed" with a text
STEP_MS, DEBOUNCE_MS = 20, 100  # a save is over when nothing has happened for a step
KEYS = "h hint   n next topic   r run again   q quit"


@dataclass
class Run:
    """One grading, which a newer save may stop."""

    topic: Topic
    stopped: bool = False
    peers: list[socket.socket] = field(default_factory=list)
    reply: dict[str, Any] = field(default_factory=dict)

    def stop(self) -> None:
        self.stopped = True
        for peer in self.peers:
            with contextlib.suppress(OSError):
                peer.shutdown(socket.SHUT_RDWR)  # the resident sees it, and ends the runner


Grade = Callable[[dict[str, Any], Run], dict[str, Any]]


class Watch:
    """Turns events into verdicts on the screen."""

    def __init__(self, console: Console, curriculum: Curriculum, topic: Topic | None, grade: Grade):
        self.console, self.curriculum, self.grade = console, curriculum, grade
        self.only = topic
        self.events: queue.Queue[Event] = queue.Queue()
        self.run: Run | None = None
        self.before: dict[str, dict[str, str]] = {}  # by topic: the status of each check
        self.topic = topic or self.where_to_begin()

    def where_to_begin(self) -> Topic:
        """The first topic that is started and not right yet, or else the first that is not."""
        records = progress.read(self.curriculum.topics[0].root)
        open_ones = [t for t in self.curriculum.topics if not records.get(t.name, progress.Record()).passed]
        return next((t for t in open_ones if progress.started(t)), (open_ones or self.curriculum.topics)[0])

    def loop(self) -> int:
        """Until `q`."""
        self.begin()
        while True:
            kind, content = self.events.get()
            if kind == "key" and content in ("q", "\x03"):
                if self.run:
                    self.run.stop()
                return 0
            self.handle(kind, content)

    def handle(self, kind: str, content: Any) -> None:
        if kind == "saved":
            topic = next((t for t in self.curriculum.topics if t.exercise.resolve() == content), None)
            if topic and (self.only is None or topic == self.only):
                self.topic = topic
                self.begin()
        elif kind == "key":
            self.pressed(content)
        elif kind == "graded" and self.run is not None and content is self.run:
            self.run = None
            self.show(content)
        elif kind == "failed" and content[0] is self.run:
            self.console.print(Text(content[1], "red"))

    def pressed(self, key: str) -> None:
        if key == "r":
            self.begin()
        elif key == "n":
            place = self.curriculum.topics.index(self.topic)
            self.topic = self.curriculum.topics[(place + 1) % len(self.curriculum.topics)]
            self.only = self.only and self.topic
            self.begin()
        elif key == "h":
            self.console.print(progress.next_hint(self.topic))
            self.footer()

    def begin(self) -> None:
        """Grade the topic; what is still being graded is out of date."""
        if self.run:
            self.run.stop()
        self.run = run = Run(self.topic)
        if not self.topic.exercise.exists():
            self.console.print(f"{self.topic.exercise.name} is not there; `make reset TOPIC={self.topic.name}` brings the stub.")
            return
        hints_left = len(self.topic.hints) - progress.read(self.topic.root).get(self.topic.name, progress.Record()).hints
        file = self.topic.exercise
        shown = file.relative_to(self.topic.root)
        request = request_for(self.topic, file, shown, 0, hints_left)
        threading.Thread(target=self.work, args=(run, request), daemon=True).start()

    def work(self, run: Run, request: dict[str, Any]) -> None:
        try:
            run.reply = self.grade(request, run)
        except BaseException as error:
            self.events.put(("failed", (run, str(error) or type(error).__name__)))
        else:
            self.events.put(("graded", run))

    def show(self, run: Run) -> None:
        verdict = run.reply["verdict"]
        progress.remember(run.topic, verdict)
        if self.console.is_terminal:
            self.console.clear()
        self.console.file.write(run.reply["text"])
        now = {check["name"]: check["status"] for check in verdict["checks"]}
        change = changes(self.before.get(run.topic.name, {}), now)
        if change:
            self.console.print(Text(f" Since the last run: {change}.\n", "bold"))
        self.before[run.topic.name] = now
        self.footer()

    def footer(self) -> None:
        self.console.print(Text(f" {KEYS}", "dim"))


def changes(before: dict[str, str], now: dict[str, str]) -> str:
    """In words which checks are newly right, and which newly wrong."""
    right = [name for name, status in now.items() if status == "passed" and before.get(name, "passed") != "passed"]
    wrong = [name for name, status in now.items() if status not in ("passed", "not_reached") and before.get(name) == "passed"]
    parts = []
    for names, word in ((right, "right"), (wrong, "wrong")):
        if names:
            listed = ", ".join(name.replace("_", " ") for name in names[:3]) + (", …" if len(names) > 3 else "")
            parts.append(f"{len(names)} newly {word} ({listed})")
    return "; ".join(parts)


def through_the_resident(cold: Callable[[dict[str, Any]], dict[str, Any]]) -> Grade:
    """Grading that can be stopped: the resident ends a runner for which nobody waits."""

    def grade(request: dict[str, Any], run: Run) -> dict[str, Any]:
        if not warm.wanted():
            return cold(request)
        try:
            return warm.grade(request, run.peers.append)
        except warm.Cold:
            if run.stopped:
                raise
            return cold(request)

    return grade


def saves(folder: Path, events: queue.Queue[Event], stop: threading.Event) -> None:
    """Tell of each save below a folder, also where editors put a new file in the old one's place."""
    for changed in watch(folder, step=STEP_MS, debounce=DEBOUNCE_MS, stop_event=stop):
        for path in {Path(path).resolve() for change, path in changed if change != Change.deleted}:
            events.put(("saved", path))


@contextlib.contextmanager
def keys(events: queue.Queue[Event]) -> Iterator[None]:
    """Tell of each key that is pressed, if somebody is there to press one."""
    if not sys.stdin.isatty() or os.name != "posix":
        yield
        return
    import termios
    import tty

    terminal = sys.stdin.fileno()
    before = termios.tcgetattr(terminal)

    def read() -> None:
        while key := os.read(terminal, 1):
            events.put(("key", key.decode(errors="replace").lower()))

    try:
        tty.setcbreak(terminal)
        threading.Thread(target=read, daemon=True).start()
        yield
    finally:
        termios.tcsetattr(terminal, termios.TCSADRAIN, before)


def start(console: Console, curriculum: Curriculum, topic: Topic | None, cold: Callable[[dict[str, Any]], dict[str, Any]]) -> int:
    """Watch until `q`; exit status."""
    watching = Watch(console, curriculum, topic, through_the_resident(cold))
    stop = threading.Event()
    folder = curriculum.topics[0].root / "exercises"
    threading.Thread(target=saves, args=(folder, watching.events, stop), daemon=True).start()
    with keys(watching.events):
        try:
            return watching.loop()
        finally:
            stop.set()
