"""A fresh interpreter with PyTorch imported that forks runners.

It never loads a solution, a check or a mistake, so there is nothing in its
memory for a runner to find. It computes nothing but the row of random numbers
that weights are cut from, in one thread: threads do not survive a fork. The
judge asks over a socket pair; when the judge is gone, so is this.
"""

from __future__ import annotations

import gc
import json
import os
import signal
import socket
import sys
import time

import torch

from kata import runner, sandbox, weights

GRACE = 0.25  # seconds a runner has to end by itself once its wire is closed


def main() -> None:
    control = socket.socket(fileno=int(sys.argv[1]))
    sandbox.adopt_orphans()
    torch.set_num_threads(1)
    weights.numbers()
    readable = sandbox.readable_paths()
    gc.freeze()
    runners: set[int] = set()
    control.send(b"{}")
    try:
        while True:
            request, fds, _, _ = socket.recv_fds(control, 4096, 2)
            if not request:
                return
            order = json.loads(request)
            if order["do"] == "fork":
                reply = {"pid": fork(control, fds, readable)}
                runners.add(reply["pid"])
            else:
                runners.discard(order["pid"])
                reply = {"status": reap(order["pid"], runners)}
            control.send(json.dumps(reply).encode())
    except (ConnectionError, BrokenPipeError):
        return
    finally:
        kill_children(spared=set())
        os._exit(0)


def fork(control: socket.socket, fds: list[int], readable: list[str]) -> int:
    """Fork a runner whose wire and output are the given descriptors."""
    wire, output = fds
    pid = os.fork()
    if pid == 0:
        try:
            control.close()
            runner.quiet_streams(output)
            os.close(output)
            runner.run(os.fdopen(wire, "rb"), os.fdopen(os.dup(wire), "wb"), readable)
        finally:
            os._exit(1)
    os.close(wire)
    os.close(output)
    return pid


def reap(pid: int, others: set[int]) -> int:
    """Wait status of a runner, which is killed if it does not end by itself; whatever it left goes too, other runners stay."""
    deadline = time.monotonic() + GRACE
    status = 0
    while time.monotonic() < deadline:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            break
        time.sleep(0.001)
    else:
        os.kill(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
    kill_children(spared=others)
    return status


def kill_children(spared: set[int]) -> None:
    """Kill what is left below this process: orphans become its children."""
    while True:
        with open(f"/proc/self/task/{os.getpid()}/children") as file:
            children = [int(pid) for pid in file.read().split() if int(pid) not in spared]
        if not children:
            return
        for pid in children:
            os.kill(pid, signal.SIGKILL)
        for pid in children:
            os.waitpid(pid, 0)


if __name__ == "__main__":
    main()
