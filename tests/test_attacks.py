"""Hostile answers gain nothing, leave nothing behind, and do not harm the next one."""

from __future__ import annotations

import ast
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from rooms import ROOMS

from kata.learner import Learner
from kata.processes import ROOT, Starter, Zygote
from kata.verdict import Verdict

ATTACKS = sorted((Path(__file__).parent / "attacks").glob("*.py"))
SAID = {
    "exit_at_import": "SystemExit",
    "hard_exit_at_import": "exited by itself (status 0)",
    "exit_in_a_call": "SystemExit",
    "hard_exit_in_a_call": "exited by itself (status 0)",
    "kills_itself": "crashed: SIGKILL",
    "segfault": "crashed: SIGSEGV",
    "endless_at_import": "ran longer than 1 s",
    "endless_in_a_call": "ran longer than 1 s",
    "sleeps": "ran longer than 1 s",
    "floods_its_outputs": "ran longer than 1 s",
    "exhausts_memory": "memory",
    "hides_what_is_off_limits": "off limits",
    "malformed_replies": "wrote an answer that is none",
    "announces_a_huge_tensor": "wrote an answer that is none",
    "nested_beyond_all_measure": "wrote an answer that is none",
    "nested_in_extensions": "wrote an answer that is none",
}


def processes_below(starter: Starter) -> list[str]:
    assert isinstance(starter, Zygote)
    return Path(f"/proc/{starter.process.pid}/task/{starter.process.pid}/children").read_text().split()


def files_in(*folders: Path) -> set[str]:
    return {str(file) for folder in folders for file in folder.rglob("*") if ".git/" not in str(file) and "__pycache__" not in str(file)}


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda path: path.stem)
def test_attack_gains_nothing_and_leaves_nothing(
    attack: Path, runners: Starter, verdict_on: Callable[..., Verdict], tmp_path: Path
) -> None:
    before = files_in(ROOT / "exercises", ROOT / ".kata", Path("/dev/shm"))
    verdict = verdict_on("attention", attack.read_text(), wall=8.0 if attack.stem == "exhausts_memory" else 1.0)
    assert verdict.points == 0
    failure = verdict.first_failure
    assert failure is not None
    assert SAID.get(attack.stem, "") in failure.message
    assert len(verdict.printed) < 100_000
    assert processes_below(runners) == []
    if "daemon" in attack.read_text():
        time.sleep(1.2)
    assert files_in(tmp_path) == {str(tmp_path / "attention.py")}
    assert files_in(ROOT / "exercises", ROOT / ".kata", Path("/dev/shm")) == before
    assert not os.path.exists("/tmp/kata_attack_was_here")
    assert verdict_on("attention", ROOMS["attention"].solution).passed


def test_a_lost_runner_costs_its_check_only(verdict_on: Callable[..., Verdict]) -> None:
    source = ROOMS["attention"].solution.replace(
        "    scale = q", "    if q.dtype == torch.float16:\n        import os\n\n        os._exit(0)\n    scale = q"
    )
    verdict = verdict_on("attention", source)
    lost = [result.name for result in verdict.results if result.status == "error"]
    assert lost == ["half_precision_stays_half"]
    assert verdict.points == verdict.max_points - 2


def test_runner_holds_no_answer(verdict_on: Callable[..., Verdict]) -> None:
    """Neither a module of ours that knows one, nor the text of the solution."""
    source = """
import gc, sys
print(sorted(name for name in sys.modules if name.startswith("kata")))
def softmax(x, dim):
    print(any("Goodfellow" in text for text in gc.get_objects() if isinstance(text, str)))
    raise NotImplementedError
"""
    modules, found = verdict_on("attention", source).printed.splitlines()
    known = ("costs", "guard", "host", "loading", "runner", "sandbox", "training", "weights", "wire", "zygote")
    assert set(ast.literal_eval(modules)) <= {"kata", *(f"kata.{name}" for name in known)}
    assert found == "False"


def test_runner_has_none_of_its_users_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """A message that an answer raises with may be read by others than the user who grades it."""
    monkeypatch.setenv("SECRET_TOKEN", "tell nobody")
    monkeypatch.setenv("KATA_SECRET", "tell nobody")
    monkeypatch.setenv("LC_TIME", "C")
    started = Zygote()
    try:
        source = "import os\ndef softmax(x, dim):\n    return str(dict(os.environ))\n"
        learner = Learner(started, source, "answer.py", [])
        with learner.limited():
            seen = learner.implementation.softmax(torch.ones(1), 0)
        learner.stop()
    finally:
        started.close()
    assert "tell nobody" not in seen
    assert "LC_TIME" in seen and "PATH" in seen
