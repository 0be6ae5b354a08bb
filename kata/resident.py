"""A process that keeps PyTorch, the judge and its zygote warm, and grades over a socket that is its owner's alone.

It ends by itself: after idle minutes, when it is told to, and when the
interpreter, this package or the pins are no longer those that it began with.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from typing import Any

from kata import warm
from kata.warm import receive, send

IDLE_SECONDS = float(os.environ.get("KATA_IDLE_SECONDS", 20 * 60))


def main() -> None:
    began_as = warm.fingerprint()
    lock = warm.lock()
    if lock is None:  # another one lives, or is just starting
        return
    with contextlib.suppress(FileNotFoundError):
        warm.SOCKET.unlink()
    os.umask(0o177)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listening:
        listening.bind(str(warm.SOCKET))
        listening.listen(16)  # askers wait here while PyTorch is imported
        os.umask(0o077)
        Resident(listening, began_as, lock).run()
    os._exit(0)


class Resident:
    """Accepts askers, a thread each."""

    def __init__(self, listening: socket.socket, began_as: str, lock: int):
        from kata.processes import starter

        self.listening, self.began_as, self.lock = listening, began_as, lock
        self.starter = starter()  # begins to import PyTorch, as we do
        from kata.service import Service

        self.service = Service(self.starter)
        self.last_used = time.monotonic()
        self.serving: list[threading.Thread] = []
        self.ended = False
        self.ending = threading.Lock()

    def run(self) -> None:
        self.listening.settimeout(min(IDLE_SECONDS, 1.0))
        while not self.ended and (self.busy() or time.monotonic() - self.last_used < IDLE_SECONDS):
            try:
                asker, _ = self.listening.accept()
            except TimeoutError:
                if not warm.SOCKET.exists():  # nobody can find this one any more
                    self.end()
                continue
            if warm.owner_of(asker) != os.getuid():
                asker.close()
                continue
            self.serving.append(threading.Thread(target=self.serve, args=(asker,), daemon=True))
            self.serving[-1].start()
        self.end()
        for thread in self.serving:
            thread.join()
        self.starter.close()

    def end(self) -> None:
        """Make room for another one at once; what is being graded is finished."""
        with self.ending:
            if not self.ended:
                self.ended = True
                with contextlib.suppress(FileNotFoundError):
                    warm.SOCKET.unlink()
                os.close(self.lock)

    def busy(self) -> bool:
        self.serving = [thread for thread in self.serving if thread.is_alive()]
        return bool(self.serving)

    def serve(self, asker: socket.socket) -> None:
        try:
            with asker, asker.makefile("rb") as reader:
                request = receive(reader)
                if request is not None:
                    send(asker, self.reply(request, asker))
        except OSError:
            pass  # the asker is gone
        finally:
            self.last_used = time.monotonic()

    def reply(self, request: dict[str, Any], asker: socket.socket) -> dict[str, Any]:
        if request["do"] == "stop" or request["fingerprint"] != self.began_as:
            self.end()
            return {"gone": True}
        leased = Leased(self.starter)
        threading.Thread(target=leased.watch, args=(asker,), daemon=True).start()
        try:
            return self.service.grade(request["grade"], leased)
        except Exception as error:  # the next asker finds another one
            self.end()
            return {"error": str(error) or type(error).__name__}
        except Abandoned:
            return {"error": "nobody waits for it any more"}


class Abandoned(BaseException):
    """The asker has gone; there is nobody to grade for."""


class Leased:
    """The starter, for one asker: when it goes away, so does the runner, and no other is started."""

    def __init__(self, starter: Any):
        self.starter, self.warm = starter, starter.warm
        self.abandoned = False
        self.process: Any = None

    def start(self) -> Any:
        if self.abandoned:
            raise Abandoned
        self.process = process = self.starter.start()
        if self.abandoned:  # the asker went while it started: `watch` may not have seen it
            process.kill()
            process.ended()
            process.output.close()
            raise Abandoned
        return process

    def close(self) -> None:
        pass

    def watch(self, asker: socket.socket) -> None:
        """Wait for the asker to hang up."""
        with contextlib.suppress(OSError):
            asker.settimeout(None)
            while asker.recv(1, socket.MSG_PEEK):
                time.sleep(0.05)
        self.abandoned = True
        if self.process:
            with contextlib.suppress(OSError):
                self.process.kill()


if __name__ == "__main__":
    main()
