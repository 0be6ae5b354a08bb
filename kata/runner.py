"""Runs a learner's file and answers the judge's questions about it.

A runner knows no answer: it has PyTorch, the learner's source and the inputs
that the judge sends. It writes values to the wire and decides nothing.
"""

from __future__ import annotations

import os
import sys
import traceback
from typing import Any, BinaryIO

import torch

from kata.guard import Guard
from kata.host import Host
from kata.loading import load
from kata.sandbox import confine
from kata.wire import Received, Written, receive, send

RESERVE = 1 << 20  # bytes, to say that no others are left


def serve(reader: BinaryIO, writer: BinaryIO, readable: list[str]) -> None:
    """Load the file that the first message brings, then answer until the stream ends."""
    first = receive(reader)
    if first is None:
        return
    order = first.header
    guard = Guard([(name, why) for name, why in order["off_limits"]], order["path"])
    protections = confine(readable, order["folder"])
    torch.compile = not_compiled
    try:
        with guard():
            namespace = load(order["source"], order["path"], order["name"])
    except BaseException as error:
        empty = type(sys)(order["name"])
        empty.__file__ = order["path"]
        send(writer, Written({"raised": Host(empty).describe(error, {})}))
        return
    active = [protection.name for protection in protections if protection.active]
    send(writer, Written({"active": active}))
    host = Host(namespace, guard, order["folder"])
    reserve = [bytearray(RESERVE)]

    def call_back(message: Written) -> Received:
        send(writer, message)
        while True:
            reply = receive(reader)
            if reply is None:
                os._exit(0)
            if "do" not in reply.header:
                return reply
            answer(reply)

    def answer(message: Received) -> None:
        reply = host.answer(message, call_back)
        try:
            send(writer, reply)
        except MemoryError:  # the answer has taken all
            reserve.clear()
            send(writer, reply)
        except Exception as error:  # too large to pass on
            send(writer, Written({"raised": host.describe(error, {})}))

    while (message := receive(reader)) is not None:
        answer(message)


def not_compiled(model: Any = None, **options: Any) -> Any:
    """What `torch.compile` does here: nothing, for a compiler needs files and processes."""
    return model if model is not None else not_compiled


def quiet_streams(output: int) -> None:
    """Standard input is empty; both outputs go to one descriptor."""
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.dup2(output, 1)
    os.dup2(output, 2)
    sys.stdout = sys.stderr = os.fdopen(1, "w", buffering=1, encoding="utf-8", errors="replace", closefd=False)


def run(reader: BinaryIO, writer: BinaryIO, readable: list[str]) -> None:
    """Serve and end the process."""
    try:
        serve(reader, writer, readable)
        sys.stdout.flush()
    except BaseException:  # none is expected; what it was stands in the output
        traceback.print_exc()
        os._exit(70)
    os._exit(0)


def main() -> None:
    """A fresh interpreter as a runner: the wire is standard input and output, prints go to standard error."""
    from kata.sandbox import readable_paths

    reader = os.fdopen(os.dup(0), "rb")
    writer = os.fdopen(os.dup(1), "wb")
    quiet_streams(2)
    writer.write(b"!")  # PyTorch is imported: the judge's clock may start
    writer.flush()
    run(reader, writer, readable_paths())


if __name__ == "__main__":
    main()
