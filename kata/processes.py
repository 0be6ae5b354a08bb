"""Starts runners, keeps their limits, and says how they ended.

On Linux a zygote forks them; elsewhere, and with KATA_START=spawn, each is a
fresh interpreter. Either way the judge holds the only other end of the wire
and a deadline: when it passes, the runner is killed and the wire runs dry.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, Protocol

ROOT = Path(__file__).resolve().parent.parent
WALL_SECONDS = 10.0  # for one check, or for loading the file
OUTPUT_KEPT = 8_192  # bytes of prints that are shown
START_SECONDS = 120.0  # for importing PyTorch on a slow disk

# What an interpreter and PyTorch look at; the rest of a user's environment may hold keys and tokens.
INHERITED = (
    *("PATH", "HOME", "USER", "LOGNAME", "LANG", "LANGUAGE", "TZ", "TMPDIR", "TEMP", "TMP", "PATHEXT", "COMSPEC"),
    *("SYSTEMROOT", "SYSTEMDRIVE", "WINDIR", "USERPROFILE", "APPDATA", "LOCALAPPDATA", "NUMBER_OF_PROCESSORS"),
)
INHERITED_KINDS = ("LC_", "LD_", "DYLD_", "PYTHON", "OMP_", "GOMP_", "KMP_", "MKL_", "OPENBLAS_", "TORCH", "ATEN_")


class RunnerLost(BaseException):
    """The runner is gone; no check may catch this as if the answer had raised it."""

    def __init__(self, status: str, message: str):
        super().__init__(message)
        self.status, self.message = status, message


class CannotStart(Exception):
    """No runner could be started; the text says why."""


class Process(Protocol):
    """A runner as the judge holds it."""

    reader: BinaryIO
    writer: BinaryIO
    output: BinaryIO

    def kill(self) -> None: ...
    def ended(self) -> int:
        """Wait for the end, killing what is left; negative signal number, or exit status."""
        ...


class Starter(Protocol):
    warm: bool  # whether runners are forked

    def start(self) -> Process: ...
    def close(self) -> None: ...


def starter() -> Starter:
    """The way of starting runners that this system has."""
    wanted = os.environ.get("KATA_START") or ("fork" if sys.platform == "linux" else "spawn")
    if wanted not in ("fork", "spawn"):
        raise CannotStart(f"KATA_START is {wanted!r}; legal: fork, spawn")
    return Zygote() if wanted == "fork" else Spawner()


def environment() -> dict[str, str]:
    """One thread, and nothing about the judge and its user."""
    inherited = {name: value for name, value in os.environ.items() if name in INHERITED or name.startswith(INHERITED_KINDS)}
    single = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    return inherited | single | {"PYTHONDONTWRITEBYTECODE": "1", "PYTHONSAFEPATH": ""}


def interpreter(module: str, *arguments: str) -> list[str]:
    """A command that runs `main` of a module; a torch.py lying about in this folder is not imported."""
    code = f"import sys; sys.path.append(sys.path.pop(0)); from {module} import main; main()"
    return [sys.executable, "-c", code, *arguments]


class Zygote:
    """A process that forks runners; started at once, waited for when first used."""

    warm = True

    def __init__(self) -> None:
        self.control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self.process = subprocess.Popen(
                interpreter("kata.zygote", str(theirs.fileno())),
                cwd=ROOT,
                env=environment(),
                stdin=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )
        self.ready = False
        self.asking = threading.Lock()

    def ask(self, order: dict[str, Any], fds: tuple[int, ...] = ()) -> dict[str, Any]:
        with self.asking:
            return self.exchange(order, fds)

    def exchange(self, order: dict[str, Any], fds: tuple[int, ...]) -> dict[str, Any]:
        try:
            if not self.ready:
                self.control.settimeout(START_SECONDS)
                self.receive()
                self.ready = True
            socket.send_fds(self.control, [json.dumps(order).encode()], fds)
            return self.receive()
        except OSError as error:
            raise CannotStart(f"the process that starts runners does not answer ({error}){self.last_words()}") from error

    def receive(self) -> dict[str, Any]:
        reply = self.control.recv(4096)
        if not reply:
            raise ConnectionError("it has ended")
        answer: dict[str, Any] = json.loads(reply)
        return answer

    def last_words(self) -> str:
        self.process.kill()
        text = self.process.stderr.read().decode(errors="replace").strip() if self.process.stderr else ""
        return f": {text.splitlines()[-1]}" if text else ""

    def start(self) -> Process:
        ours, theirs = socket.socketpair()
        read, write = os.pipe()
        try:
            pid = self.ask({"do": "fork"}, (theirs.fileno(), write))["pid"]
        finally:
            theirs.close()
            os.close(write)
        return Forked(self, pid, ours, read)

    def close(self) -> None:
        self.control.close()
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        if self.process.stderr:
            self.process.stderr.close()


class Forked:
    """A runner forked by the zygote."""

    def __init__(self, zygote: Zygote, pid: int, wire: socket.socket, output: int):
        self.zygote, self.pid, self.wire = zygote, pid, wire
        self.reader: BinaryIO = wire.makefile("rb")
        self.writer: BinaryIO = wire.makefile("wb")
        self.output: BinaryIO = os.fdopen(output, "rb", buffering=0)
        self.over = False

    def kill(self) -> None:
        if not self.over:  # afterwards the number may be another's
            os.kill(self.pid, signal.SIGKILL)

    def ended(self) -> int:
        self.over = True
        for stream in (self.reader, self.writer, self.wire):
            with contextlib.suppress(OSError):
                stream.close()
        return os.waitstatus_to_exitcode(self.zygote.ask({"do": "reap", "pid": self.pid})["status"])


class Spawner:
    """Starts each runner as a fresh interpreter."""

    warm = False

    def start(self) -> Process:
        process = Spawned()
        with deadline(START_SECONDS, process.kill):
            ready = process.reader.read(1)
        if not ready:
            words = process.output.read().decode(errors="replace").strip().splitlines()[-1:]
            raise CannotStart(f"a fresh interpreter does not start: {' '.join(words) or how_it_ended(process.ended())}")
        return process

    def close(self) -> None:
        pass


class Spawned:
    """A runner in an interpreter of its own."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            interpreter("kata.runner"),
            cwd=ROOT,
            env=environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        assert self.process.stdin and self.process.stdout and self.process.stderr
        self.reader: BinaryIO = self.process.stdout  # type: ignore[assignment]  # no None: these are pipes
        self.writer: BinaryIO = self.process.stdin  # type: ignore[assignment]  # a pipe
        self.output: BinaryIO = self.process.stderr  # type: ignore[assignment]  # a pipe

    def kill(self) -> None:
        if os.name == "posix":
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
        self.process.kill()

    def ended(self) -> int:
        with contextlib.suppress(OSError):
            self.writer.close()
        try:
            status = self.process.wait(0.25)
        except subprocess.TimeoutExpired:
            self.kill()
            status = self.process.wait()
        self.reader.close()
        return status


class Output:
    """Reads what a runner prints, keeps the beginning, throws the rest away."""

    def __init__(self, stream: BinaryIO):
        self.kept = bytearray()
        self.thrown = 0
        self.stream = stream
        self.thread = threading.Thread(target=self.drain, daemon=True)
        self.thread.start()

    def drain(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            while piece := os.read(self.stream.fileno(), 65_536):
                room = OUTPUT_KEPT - len(self.kept)
                self.kept += piece[: max(room, 0)]
                self.thrown += max(len(piece) - max(room, 0), 0)

    def text(self) -> str:
        """What was printed, once the runner has ended."""
        self.thread.join(1)
        text = self.kept.decode(errors="replace")
        return text + (f"\n… and {self.thrown:,} bytes more" if self.thrown else "")


@contextlib.contextmanager
def deadline(seconds: float, passed: Callable[[], None]) -> Iterator[None]:
    """Call `passed`, from another thread, unless the block ends in time."""
    timer = threading.Timer(seconds, passed)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def how_it_ended(status: int) -> str:
    """In words: exit status, or the signal of a crash."""
    if status >= 0:
        return f"exited by itself (status {status})"
    try:
        name = signal.Signals(-status).name
    except ValueError:
        name = f"signal {-status}"
    if name == "SIGXCPU":
        return "used more CPU time than allowed"
    return f"crashed: {name}"
