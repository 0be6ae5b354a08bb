"""The learner's implementation, in a runner that is replaced when it is lost."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kata.host import empty
from kata.implementation import Implementation, exception_from
from kata.processes import OUTPUT_KEPT, WALL_SECONDS, Output, Process, RunnerLost, Starter, deadline, how_it_ended
from kata.wire import Malformed, Received, Written, harmless, receive, send

if TYPE_CHECKING:
    from kata.checks import Check
    from kata.compare import Outcome
    from kata.inputs import Rung
    from kata.room import Room


class Learner:
    """A channel to a learner's file; an answer that kills its runner costs that check only.

    Args:
        source: the file's text, the very one that was scanned.
        path: how tracebacks name it.
        off_limits: (name, why) pairs for the guard.
        files: whether it gets a folder of its own to write to, as long as its runner lives.
    """

    def __init__(
        self,
        starter: Starter,
        source: str,
        path: str,
        off_limits: Sequence[tuple[str, str]],
        wall: float = WALL_SECONDS,
        files: bool = False,
    ):
        self.starter, self.source, self.path, self.off_limits, self.wall, self.files = starter, source, path, off_limits, wall, files
        self.folder: str | None = None
        self.process: Process | None = None
        self.output: Output | None = None
        self.late = False
        self.last: Any = None
        self.begins: int | None = None
        self.printed: list[str] = []
        self.protections: list[str] = []
        self.implementation = Implementation(self)

    @contextlib.contextmanager
    def limited(self, times: float = 1.0) -> Iterator[None]:
        """A block that may use the implementation for `times` · `wall` seconds; a runner is there when it begins.

        Raises:
            RunnerLost: the runner ended, ran too long, or wrote nonsense.
            ImplementationRaised: the file could not be loaded.
        """
        if self.process is None:
            self.start()
        with deadline(times * self.wall, self.too_late):
            yield

    def outcome(self, room: Room, check: Check, rung: Rung, key: Any) -> Outcome:
        """What a check sees of the answer."""
        return check.run(self.implementation, room.wanted(check, rung, key)[0])

    def start(self) -> None:
        self.process = self.starter.start()
        self.output = Output(self.process.output)
        self.late = False
        if self.files:
            self.folder = tempfile.mkdtemp(prefix="kata-")
        order = {
            "path": self.path,
            "source": self.source,
            "name": "answer",
            "off_limits": list(self.off_limits),
            "folder": self.folder,
        }
        with deadline(self.wall, self.too_late):
            header = self.exchange(Written(order), nothing_to_call).header
        if "raised" in header:
            self.stop()
            raise exception_from(header["raised"])
        active = header.get("active")
        if not isinstance(active, list):
            raise self.lost("wrote an answer of its own while it was loaded")
        self.protections = [harmless(name, 100) for name in active]

    def too_late(self) -> None:
        self.late = True
        if self.process:
            self.process.kill()

    def exchange(self, message: Written, call_back: Callable[[Received], Written]) -> Received:
        """One request and its reply; in between the answer may call back.

        Raises:
            RunnerLost: no legal reply came.
        """
        process = self.process
        if process is None:
            raise RunnerLost("error", "the runner has ended")
        try:
            send(process.writer, message)
            while True:
                reply = receive(process.reader)
                if reply is None:
                    raise self.lost()
                if "callback" not in reply.header:
                    return reply
                send(process.writer, call_back(reply))
        except Malformed as error:
            raise self.lost(f"wrote an answer that is none: {error}") from error
        except (OSError, ValueError) as error:
            raise self.lost() from error

    def lost(self, why: str | None = None) -> RunnerLost:
        """Put an end to the runner and say what happened."""
        if why:
            if self.process:
                self.process.kill()
            self.stop()
            return RunnerLost("error", why)
        status = self.stop()
        if self.late:
            return RunnerLost("timeout", f"ran longer than {self.wall:g} s")
        return RunnerLost("error", how_it_ended(status))

    def stop(self) -> int:
        """End the runner; its exit status."""
        if self.process is None:
            return 0
        process, self.process = self.process, None
        status = process.ended()
        if self.output:
            self.printed.append(harmless(self.output.text(), 2 * OUTPUT_KEPT))
            process.output.close()
        if self.folder:
            remove(self.folder)
            self.folder = None
        return status


def remove(folder: str) -> None:
    """Remove a folder that an answer wrote to: its links are not followed, and nothing in it can hinder that."""
    with contextlib.suppress(OSError):
        os.chmod(folder, 0o700)
        empty(Path(folder))
        os.rmdir(folder)


def nothing_to_call(message: Received) -> Written:
    raise Malformed("it called back while it was loaded")
