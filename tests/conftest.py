"""One way of starting runners for all tests, and a shortcut to a verdict."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from rooms import ROOMS

from kata.judge import grade
from kata.processes import Starter, starter
from kata.verdict import Verdict

torch.set_num_threads(1)
os.environ["KATA_COLD"] = "1"  # the resident process has tests of its own
gc.freeze()  # the exam makes and drops modules by the thousand: a tenth of its time went into looking for cycles
gc.set_threshold(20_000, 20, 50)


@pytest.fixture(scope="session")
def runners() -> Iterator[Starter]:
    started = starter()
    yield started
    started.close()


@pytest.fixture
def verdict_on(runners: Starter, tmp_path: Path) -> Callable[..., Verdict]:
    """verdict_on("attention", source) grades a source as a learner's file."""

    def verdict(topic: str, source: str | bytes, seed: int = 0, wall: float = 10.0) -> Verdict:
        file = tmp_path / f"{topic}.py"
        file.write_bytes(source.encode() if isinstance(source, str) else source)
        return grade(ROOMS[topic], file, runners, seed, wall)

    return verdict
