"""What a right answer gives, recorded, so that answers can be checked where no solution is.

Values stand in a safetensors file, their structure in a JSON file beside it.
"""

from __future__ import annotations

import json
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from kata.checks import Check
from kata.compare import Outcome, Raised, Value
from kata.inputs import Rung
from kata.mistakes import Mistake
from kata.room import Room
from kata.stubs import names_of
from kata.wire import DTYPES, NAMES, Tree, pack, unpack

SEED = 0  # the recorded one


def record(room: Room, file: Path) -> None:
    """Write inputs and outcomes of all checks of a room, on all rungs of the recorded seed."""
    tensors: list[Tensor] = []
    checks: dict[str, list[Tree]] = {}
    for check in room.checks:
        seen = [room.wanted(check, rung, key(check)) for rung in check.rungs]
        checks[check.name] = [{"inputs": pack(inputs, tensors, wrap), **outcome_tree(outcome, tensors)} for inputs, outcome in seen]
    file.parent.mkdir(parents=True, exist_ok=True)
    save_file({str(place): tensor for place, tensor in enumerate(tensors)}, file)
    file.with_suffix(".json").write_text(json.dumps({"names": names_of(room.topic), "checks": checks}), encoding="utf-8")


def key(check: Check) -> tuple[str, int, str]:
    return "check", SEED, check.name


def outcome_tree(outcome: Outcome, tensors: list[Tensor]) -> dict[str, Tree]:
    if isinstance(outcome, Raised):
        return {"raised": [list(outcome.types), outcome.message]}
    return {"value": pack(outcome.value, tensors, wrap)}


def wrap(value: Any) -> Tree:
    if isinstance(value, torch.dtype):
        return {"dtype": NAMES[value]}
    raise TypeError(f"{value!r} cannot be recorded: a check must return data")


def unwrap(tree: dict[str, Any]) -> Any:
    return DTYPES[tree["dtype"]]


class Recorded(Room):
    """A room without a solution: it knows no mistakes, and the outcomes of one seed."""

    @cached_property
    def names(self) -> list[str]:
        return names_of(self.topic)

    @cached_property
    def mistakes(self) -> list[Mistake]:
        return []

    @cached_property
    def outcomes(self) -> dict[tuple[str, Rung], tuple[dict[str, Any], Outcome]]:
        stored = load_file(self.topic.recorded)
        tensors = [stored[str(place)] for place in range(len(stored))]
        trees = json.loads(self.topic.recorded.with_suffix(".json").read_text(encoding="utf-8"))["checks"]
        found: dict[tuple[str, Rung], tuple[dict[str, Any], Outcome]] = {}
        for check in self.checks:
            for rung, tree in zip(check.rungs, trees[check.name], strict=True):
                inputs = unpack(tree["inputs"], tensors, unwrap)
                if "raised" in tree:
                    types, message = tree["raised"]
                    found[check.name, rung] = inputs, Raised(tuple(types), message)
                else:
                    found[check.name, rung] = inputs, Value(unpack(tree["value"], tensors, unwrap))
        return found

    def knows(self, check: Check, rung: Rung) -> bool:
        return (check.name, rung) in self.outcomes

    def wanted(self, check: Check, rung: Rung, key: Any) -> tuple[dict[str, Any], Outcome]:
        return self.outcomes[check.name, rung]
