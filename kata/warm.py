"""Asks the resident process to grade, and starts it where none lives. Imports nothing heavy: this is the fast path."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

from kata.processes import ROOT, interpreter

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]  # Windows has none

FOLDER = ROOT / ".kata"
SOCKET = FOLDER / "resident.sock"
START_SECONDS = 10.0  # until a resident listens, which it does before it imports PyTorch


class Cold(Exception):
    """No resident can answer; the text says why."""


def wanted() -> bool:
    """Whether a resident is to be asked at all: not with KATA_COLD=1, nor with a way of starting of one's own."""
    return os.environ.get("KATA_COLD") != "1" and "KATA_START" not in os.environ and fcntl is not None and hasattr(socket, "AF_UNIX")


def grade(request: dict[str, Any], connected: Callable[[socket.socket], None] = lambda peer: None) -> dict[str, Any]:
    """The resident's reply to a `request_for`.

    Args:
        connected: is told the connection, which may be shut down to stop the grading.

    Raises:
        Cold: grade without it.
    """
    order = {"do": "grade", "fingerprint": fingerprint(), "grade": request}
    for _ in range(2):
        peer = connection()
        connected(peer)
        reply = ask(peer, order)
        if "error" in reply:
            raise Cold(reply["error"])
        if "gone" not in reply:
            return reply
        deadline = time.monotonic() + START_SECONDS
        while SOCKET.exists() and time.monotonic() < deadline:  # it was another version, and is leaving
            time.sleep(0.01)
    raise Cold("the files of kata change while it runs")


def stop() -> bool:
    """End the resident; whether there was one."""
    try:
        ask(connect(), {"do": "stop"})
    except (OSError, Cold):
        return False
    return True


def connection() -> socket.socket:
    """A connection to the resident, started if need be."""
    deadline = time.monotonic() + START_SECONDS
    process: subprocess.Popen[bytes] | None = None
    while True:
        try:
            return connect()
        except PermissionError as error:
            raise Cold(f"{SOCKET.relative_to(ROOT)}: {error.strerror}") from error
        except OSError as error:
            if process is None:
                process = launch()
            elif time.monotonic() > deadline:
                raise Cold(f"it does not begin to listen ({error.strerror or error})") from error
            elif process.poll():
                raise Cold("it ended as it started") from error
        time.sleep(0.01)


def connect() -> socket.socket:
    """
    Raises:
        OSError: nobody listens.
        Cold: it is somebody else's.
    """
    if SOCKET.lstat().st_uid != os.getuid():
        raise Cold(f"{SOCKET.relative_to(ROOT)} belongs to somebody else")
    asking = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        asking.connect(str(SOCKET))
        if owner_of(asking) != os.getuid():
            raise Cold("somebody else listens there")
    except BaseException:
        asking.close()
        raise
    return asking


def launch() -> subprocess.Popen[bytes]:
    try:
        FOLDER.mkdir(exist_ok=True)
        probe = FOLDER / f"writable-{os.getpid()}"
        probe.write_bytes(b"1")
        probe.unlink(missing_ok=True)  # another thread may be here too
    except OSError as error:
        raise Cold(f"{FOLDER.relative_to(ROOT)}/ cannot be written: {error.strerror}") from error
    nothing = subprocess.DEVNULL
    return subprocess.Popen(interpreter("kata.resident"), cwd=ROOT, stdin=nothing, stdout=nothing, stderr=nothing, start_new_session=True)


def lock() -> int | None:
    """The right to be the resident, as a descriptor that is never closed; None if another one has it."""
    descriptor = os.open(FOLDER / "resident.lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return None
    return descriptor


def owner_of(peer: socket.socket) -> int:
    """The user at the other end; ourselves where the system does not tell, for the socket's mode keeps others out."""
    if hasattr(socket, "SO_PEERCRED"):
        credentials = peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
        return int.from_bytes(credentials[4:8], sys.byteorder)
    return os.getuid()


def fingerprint() -> str:
    """The interpreter, the files of this package and the pins: a resident that began with others is not asked."""
    digest = hashlib.sha256(f"{sys.executable} {sys.version}".encode())
    for file in sorted((*Path(__file__).parent.glob("**/*.py"), ROOT / "pyproject.toml", ROOT / "constraints.txt")):
        with contextlib.suppress(OSError):
            status = file.stat()
            digest.update(f"{file} {status.st_mtime_ns} {status.st_size}".encode())
    return digest.hexdigest()


def ask(peer: socket.socket, order: dict[str, Any]) -> dict[str, Any]:
    """Send one order and wait for its reply.

    Raises:
        Cold: none came.
    """
    try:
        with peer, peer.makefile("rb") as reader:
            send(peer, order)
            reply = receive(reader)
    except OSError as error:
        raise Cold(f"it does not answer ({error.strerror or error})") from error
    if reply is None:
        raise Cold("it ended in the middle")
    return reply


def send(peer: socket.socket, content: dict[str, Any]) -> None:
    peer.sendall(json.dumps(content).encode() + b"\n")


def receive(reader: BinaryIO) -> dict[str, Any] | None:
    line = reader.readline()
    if not line.endswith(b"\n"):
        return None
    content: dict[str, Any] = json.loads(line)
    return content
