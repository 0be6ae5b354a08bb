"""Oracles of the training loop: PyTorch's optimizers in a plain loop, the entropy of a source, other processes, and killed ones."""

from __future__ import annotations

import copy
import inspect
import json
import math
import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from rooms import ROOMS, solution
from torch import Tensor, nn

training_loop = solution("training_loop")
SOLUTION = ROOMS["training_loop"].topic.solution
VOCABULARY = 6


def token_losses(model: nn.Module, ids: Tensor) -> tuple[Tensor, int]:
    """Next-token losses; -1 is padding."""
    logits, targets = model(ids[:, :-1].clamp(min=0)), ids[:, 1:]
    losses = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=-1, reduction="sum")
    return losses, int((targets != -1).sum())


def language_model(seed: int, p: float = 0.3) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Embedding(VOCABULARY, 8), nn.Linear(8, 16), nn.ReLU(), nn.Dropout(p), nn.Linear(16, VOCABULARY))


def padded(number: int, length: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(VOCABULARY, (number, length), generator=generator)
    ends = torch.randint(2, length + 1, (number, 1), generator=generator)
    return ids.masked_fill(torch.arange(length) >= ends, -1)


def schedule(step: int) -> float:
    return 0.02 * min((step + 1) / 5, 1.0) * 0.99**step


@given(number=st.integers(1, 7), length=st.integers(2, 6), size=st.integers(1, 7), training=st.booleans(), seed=st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_evaluation_equals_cross_entropy_on_everything(number: int, length: int, size: int, training: bool, seed: int) -> None:
    model, ids = language_model(seed).train(training), padded(number, length, seed)
    told = training_loop.evaluate(model, ids.split(size), token_losses)
    assert model.training is training and model[3].training is training
    model.eval()
    wanted = F.cross_entropy(model(ids[:, :-1].clamp(min=0)).flatten(0, 1), ids[:, 1:].flatten(), ignore_index=-1)
    assert type(told) is float and told == pytest.approx(wanted.item(), rel=1e-5)


@pytest.mark.parametrize("max_norm", [0.3, 1e6])
@pytest.mark.parametrize("shuffled", [False, True])
def test_training_equals_pytorchs_parts_in_a_plain_loop(max_norm: float, shuffled: bool) -> None:
    """The same losses and weights, to the last bit, as AdamW, LambdaLR, clip_grad_norm_ and a random sampler give."""
    ours, batches, steps = language_model(3), padded(20, 5, seed=1).split(4), 12
    theirs = copy.deepcopy(ours)
    optimizers = [torch.optim.AdamW(training_loop_groups(model), lr=1.0) for model in (ours, theirs)]
    torch.manual_seed(7)
    generator = torch.Generator().manual_seed(5) if shuffled else None
    losses = training_loop.train(ours, optimizers[0], schedule, batches, token_losses, steps, max_norm, generator)
    torch.manual_seed(7)
    rates = torch.optim.lr_scheduler.LambdaLR(optimizers[1], schedule)
    places = range(len(batches))
    data = torch.utils.data.SubsetRandomSampler(places, generator=torch.Generator().manual_seed(5)) if shuffled else places
    wanted: list[float] = []
    while len(wanted) < steps:
        for i in list(data)[: steps - len(wanted)]:
            loss_sum, tokens = token_losses(theirs, batches[i])
            loss = loss_sum / tokens
            optimizers[1].zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(theirs.parameters(), max_norm)
            optimizers[1].step()
            rates.step()
            wanted.append(loss.item())
    assert losses == wanted
    assert all(map(torch.equal, ours.parameters(), theirs.parameters()))


def training_loop_groups(model: nn.Module) -> list[dict[str, object]]:
    """Two groups, as with decay on matrices alone."""
    params = list(model.parameters())
    return [
        {"params": [p for p in params if p.ndim > 1], "weight_decay": 0.1},
        {"params": [p for p in params if p.ndim < 2], "weight_decay": 0.0},
    ]


def test_no_steps_change_nothing() -> None:
    model = language_model(0)
    before = copy.deepcopy(model.state_dict())
    assert training_loop.train(model, torch.optim.SGD(model.parameters(), lr=1.0), schedule, [padded(2, 3, 0)], token_losses, 0) == []
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_training_reaches_the_entropy_of_its_source_and_stays_above() -> None:
    """A Markov chain whose entropy is known; evaluated exactly, over all transitions, so that no luck is left."""
    generator = torch.Generator().manual_seed(0)
    transitions = (torch.randn(VOCABULARY, VOCABULARY, generator=generator) * 1.5).softmax(-1).double()
    stationary = torch.linalg.matrix_power(transitions, 1000)[0]
    floor = -(stationary[:, None] * transitions * transitions.log()).sum().item()
    ids = torch.randint(VOCABULARY, (4000, 9), generator=generator)
    for t in range(1, 9):
        ids[:, t] = torch.multinomial(transitions[ids[:, t - 1]], 1, generator=generator)[:, 0]
    model = language_model(1, p=0.0)

    def expected(model: nn.Module) -> float:
        with torch.no_grad():
            logs = model(torch.arange(VOCABULARY)).double().log_softmax(-1)
        return -(stationary[:, None] * transitions * logs).sum().item()

    assert expected(model) > floor + 0.3
    for _ in range(3):
        training_loop.train(model, torch.optim.AdamW(model.parameters()), schedule, ids.split(40), token_losses, 200, 1.0, generator)
        assert expected(model) >= floor
    assert expected(model) < floor + 0.02
    assert training_loop.evaluate(model, ids.split(500), token_losses) == pytest.approx(floor, abs=0.03)


def test_checkpoints_bring_back_what_pytorchs_objects_hold(tmp_path: Path) -> None:
    def made(seed: int) -> tuple[nn.Module, torch.optim.Optimizer, torch.Generator]:
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 1))
        return model, torch.optim.AdamW(training_loop_groups(model), lr=seed + 1.0), torch.Generator().manual_seed(seed)

    def squares(model: nn.Module, x: Tensor) -> tuple[Tensor, int]:
        return model(x).square().sum(), len(x)

    batches = torch.randn(5, 8, 3, generator=torch.Generator().manual_seed(9))
    model, optimizer, generator = made(0)
    training_loop.train(model, optimizer, schedule, batches, squares, 7, 1.0, generator)
    path = str(tmp_path / "last.pt")
    training_loop.save_checkpoint(path, model, optimizer, 7, generator)
    saved = copy.deepcopy((model.state_dict(), optimizer.state_dict(), generator.get_state(), torch.get_rng_state()))
    losses = training_loop.train(model, optimizer, schedule, batches, squares, 7, 1.0, generator)
    again, optimizer, generator = made(1)
    assert training_loop.load_checkpoint(path, again, optimizer, generator) == 7
    torch.testing.assert_close(
        (again.state_dict(), optimizer.state_dict(), generator.get_state(), torch.get_rng_state()), saved, rtol=0, atol=0
    )
    assert training_loop.train(again, optimizer, schedule, batches, squares, 7, 1.0, generator) == losses
    torch.testing.assert_close(again.state_dict(), model.state_dict(), rtol=0, atol=0)


class Momentum:
    """An optimizer in a few lines: those of PyTorch import its compiler, which takes a new process seconds."""

    def __init__(self, params: Iterable[nn.Parameter]):
        self.params = list(params)
        self.param_groups = [{"params": self.params, "lr": 0.0}]
        self.velocities = [torch.zeros_like(param) for param in self.params]

    def zero_grad(self) -> None:
        for param in self.params:
            param.grad = None

    @torch.no_grad()
    def step(self) -> None:
        for param, velocity in zip(self.params, self.velocities):
            velocity.mul_(0.9).add_(param.grad)
            param.sub_(self.param_groups[0]["lr"] * velocity)

    def state_dict(self) -> dict[str, Any]:
        return {"velocities": self.velocities}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.velocities = [velocity.clone() for velocity in state["velocities"]]


def six_steps(loop: Any, path: str, resume: bool, seed: int) -> dict[str, Any]:
    """Six steps and six more, with a checkpoint between; or only the six after it, on objects of another seed."""

    def squares(model: nn.Module, x: Tensor) -> tuple[Tensor, int]:
        return model(x).square().sum(), len(x)

    def rate(step: int) -> float:
        return 0.01 / (1 + step)

    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(3, 8), nn.Dropout(0.5), nn.Linear(8, 1))
    optimizer, generator = Momentum(model.parameters()), torch.Generator().manual_seed(seed)
    batches = torch.randn(4, 8, 3, generator=torch.Generator().manual_seed(9))
    done = 6
    if resume:
        done = loop.load_checkpoint(path, model, optimizer, generator)
    else:
        loop.train(model, optimizer, rate, batches, squares, done, 1.0, generator)
        loop.save_checkpoint(path, model, optimizer, done, generator)
    losses = loop.train(model, optimizer, lambda step: rate(done + step), batches, squares, 6, 1.0, generator)
    weights = [number.hex() for param in model.parameters() for number in param.flatten().tolist()]
    return {"done": done, "losses": [loss.hex() for loss in losses], "weights": weights}


PRELUDE = f"""
import json, os, runpy, signal, sys, time, types
from collections.abc import Iterable
from typing import Any
import torch
from torch import Tensor, nn
torch.set_num_threads(1)
loop = types.SimpleNamespace(**runpy.run_path({str(SOLUTION)!r}))
"""


def in_another_process(script: str, *args: str) -> Any:
    command = [sys.executable, "-c", PRELUDE + script, *args]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True, timeout=120).stdout)


def test_resuming_in_another_process_is_bit_exact(tmp_path: Path) -> None:
    path = str(tmp_path / "last.pt")
    source = inspect.getsource(Momentum) + inspect.getsource(six_steps)
    went_on = in_another_process(source + "print(json.dumps(six_steps(loop, sys.argv[1], False, 1)))", path)
    assert six_steps(training_loop, path, True, 2) == went_on


KILLED = """
def made(step):
    model = nn.Linear(512, 512)
    with torch.no_grad():
        for p in model.parameters():
            p.fill_(step)
    return model, torch.optim.SGD(model.parameters(), lr=0.1)

def there():
    model, optimizer = made(-1)
    step = loop.load_checkpoint(path, model, optimizer)
    return step if all(bool((p == step).all()) for p in model.parameters()) else "a mixture"

def child_that(*does):
    child = os.fork()
    if child == 0:
        for do in does:
            do()
        os._exit(0)
    return child

def save_for_ever():
    step = 0
    while True:
        step += 1
        loop.save_checkpoint(path, *made(step), step)

path, seen = sys.argv[1], {"ends at": {}, "killed": []}
for where in ("fsync", "replace"):
    loop.save_checkpoint(path, *made(1), 1)
    ends_there = lambda: setattr(os, where, lambda *args: os._exit(9))
    child = child_that(ends_there, lambda: loop.save_checkpoint(path, *made(2), 2))
    seen["ends at"][where] = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), there()]
for trial in range(12):
    child = child_that(save_for_ever)
    time.sleep(0.01 + 0.013 * trial)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    seen["killed"].append(there())
seen["files"] = len(os.listdir(os.path.dirname(path)))
print(json.dumps(seen))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="it kills processes that it has forked")
def test_a_process_that_dies_while_it_saves_leaves_a_whole_checkpoint(tmp_path: Path) -> None:
    """One that ends of itself before the new file has its name leaves the old; one that is killed at any time, one of the two."""
    seen = in_another_process(KILLED, str(tmp_path / "last.pt"))
    assert seen["ends at"] == {"fsync": [9, 1], "replace": [9, 1]}
    assert all(type(step) is int for step in seen["killed"])
    assert seen["files"] <= 2  # and at most one that was begun


class Guest:
    def __init__(self, *call: object):
        self.call = call

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return self.call[0], self.call[1:]


@pytest.mark.parametrize("place", ["model", "optimizer", "step", "generator"])
def test_a_file_that_calls_a_function_is_refused(tmp_path: Path, place: str) -> None:
    model, path, sign = nn.Linear(1, 1), str(tmp_path / "last.pt"), str(tmp_path / "sign")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    training_loop.save_checkpoint(path, model, optimizer, 1)
    content = torch.load(path, weights_only=True)
    content[place] = Guest(os.mkdir, sign)
    torch.save(content, path)
    with pytest.raises(Exception, match=r"[Ww]eights.only"):
        training_loop.load_checkpoint(path, model, optimizer)
    assert not os.path.exists(sign)
    torch.load(path, weights_only=False)  # the file would have done it
    assert os.path.exists(sign)


def test_the_rate_of_a_resumed_run_is_for_the_caller_to_shift() -> None:
    """Two calls with a shifted schedule are one call."""
    whole, parts, batches = language_model(2, 0.0), language_model(2, 0.0), padded(8, 4, 0).split(2)
    optimizers = [torch.optim.SGD(model.parameters(), lr=math.nan) for model in (whole, parts)]
    losses = training_loop.train(whole, optimizers[0], schedule, batches, token_losses, 8)
    halves = [training_loop.train(parts, optimizers[1], lambda step: schedule(done + step), batches, token_losses, 4) for done in (0, 4)]  # noqa: B023  # called before the next turn
    assert losses == halves[0] + halves[1]
