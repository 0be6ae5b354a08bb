"""Examines this machine: what a runner here really cannot do."""

from __future__ import annotations

import platform
import sys

import torch
from rich.console import Console
from rich.table import Table
from rich.text import Text

from kata.learner import Learner
from kata.processes import Starter

ALL = {
    "resource limits": "memory, CPU time, file size and open files are limited",
    "no capabilities": "root inside a runner is an ordinary user",
    "Landlock": "a runner reads Python's own files and no others, and writes none",
    "seccomp": "a runner starts no processes, opens no sockets, looks into no other process",
}


def doctor(console: Console, starter: Starter) -> int:
    """Start a runner and show which protections it has."""
    learner = Learner(starter, "", "nothing.py", [])
    learner.start()
    learner.stop()
    console.print(f"Python {platform.python_version()}, PyTorch {torch.__version__}, {platform.system()} {platform.release()}")
    console.print("runners are " + ("forked from a warm process" if starter.warm else "fresh interpreters"))
    table = Table(box=None, show_header=False)
    for name, note in ALL.items():
        active = name in learner.protections
        table.add_row(Text("✓", "green") if active else Text("–", "yellow"), name, note if active else f"not active here: {why_not(name)}")
    table.add_row(Text("✓", "green"), "separate process", "a runner never holds a reference, and answers with values only")
    console.print(table)
    return 0


def why_not(name: str) -> str:
    if sys.platform != "linux":
        return f"{platform.system()} does not offer it"
    return {"seccomp": "libseccomp is missing", "Landlock": "the kernel is older than 5.13 or does not offer it"}.get(name, "refused")
