"""Oracles of the optimizers: PyTorch's own, step by step, a sum written out, and a file on disk."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rooms import solution
from torch import Tensor, nn

optimizers = solution("optimizers")
seeds = st.integers(0, 999)

SGD_OPTIONS = st.one_of(
    st.fixed_dictionaries({"lr": st.floats(0.001, 1.0), "momentum": st.sampled_from([0.0, 0.5, 0.9])}),
    st.fixed_dictionaries({"lr": st.floats(0.001, 1.0), "momentum": st.sampled_from([0.5, 0.99]), "nesterov": st.just(True)}),
)
ADAMW_OPTIONS = st.fixed_dictionaries(
    {},
    optional={
        "lr": st.floats(0.0001, 1.0),
        "betas": st.tuples(st.floats(0.0, 0.99), st.floats(0.0, 0.9999)),
        "eps": st.sampled_from([1e-8, 1e-3, 1.0]),
        "weight_decay": st.floats(0.0, 1.0),
    },
)
KINDS = st.one_of(st.tuples(st.just("SGD"), SGD_OPTIONS), st.tuples(st.just("AdamW"), ADAMW_OPTIONS))


def pair(generator: torch.Generator) -> tuple[list[Tensor], list[Tensor]]:
    """The same three parameters twice, of three shapes."""
    values = [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in ((2, 3), (3,), ())]
    return [nn.Parameter(v.clone()) for v in values], [nn.Parameter(v.clone()) for v in values]


def give_gradients(both: tuple[list[Tensor], list[Tensor]], generator: torch.Generator, missing: float) -> None:
    for one, other in zip(*both):
        if torch.rand((), generator=generator) < missing:
            one.grad = other.grad = None
        else:
            gradient = torch.randn(one.shape, generator=generator, dtype=torch.float64)
            one.grad, other.grad = gradient.clone(), gradient.clone()


def same(both: tuple[list[Tensor], list[Tensor]]) -> None:
    for one, other in zip(*both):
        assert torch.allclose(one, other, rtol=1e-10, atol=1e-12)


@given(kind=KINDS, seed=seeds, rates=st.lists(st.floats(0.0, 1.0), min_size=6, max_size=6), missing=st.sampled_from([0.0, 0.4]))
@settings(max_examples=60, deadline=None)
def test_every_step_is_that_of_pytorch(kind: tuple[str, dict[str, Any]], seed: int, rates: list[float], missing: float) -> None:
    """Whatever the options, with learning rates that change and gradients that are missing."""
    name, options = kind
    generator = torch.Generator().manual_seed(seed)
    both = pair(generator)
    ours, theirs = getattr(optimizers, name)(both[0], **options), getattr(torch.optim, name)(both[1], **options)
    for step, rate in enumerate(rates):
        give_gradients(both, generator, missing)
        ours.step()
        theirs.step()
        same(both)
        if step >= 2:
            ours.param_groups[0]["lr"] = theirs.param_groups[0]["lr"] = rate


@given(options=st.lists(ADAMW_OPTIONS, min_size=3, max_size=3), own=ADAMW_OPTIONS, seed=seeds)
@settings(max_examples=30, deadline=None)
def test_groups_are_those_of_pytorch(options: list[dict[str, Any]], own: dict[str, Any], seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    both = pair(generator)
    ours, theirs = (
        kind(({"params": iter([p]), **o} for p, o in zip(parameters, options)), **own)
        for kind, parameters in zip((optimizers.AdamW, torch.optim.AdamW), both)
    )
    names = {"lr", "betas", "eps", "weight_decay"}
    assert [{n: g[n] for n in names} for g in ours.param_groups] == [{n: g[n] for n in names} for g in theirs.param_groups]
    for _ in range(3):
        give_gradients(both, generator, missing=0.2)
        ours.step()
        theirs.step()
        same(both)


@given(kind=KINDS, seed=seeds, before=st.integers(0, 4))
@settings(max_examples=30, deadline=None)
def test_a_run_that_was_interrupted_ends_where_an_unbroken_one_does(tmp_path_factory, kind, seed: int, before: int) -> None:
    name, options = kind
    generator = torch.Generator().manual_seed(seed)
    both = pair(generator)
    unbroken, broken = (getattr(optimizers, name)(parameters, **options) for parameters in both)
    for step in range(6):
        if step == before:
            file = tmp_path_factory.mktemp("state") / "state.pt"
            torch.save(broken.state_dict(), file)
            broken = getattr(optimizers, name)(both[1], lr=123.0)
            broken.load_state_dict(torch.load(file, weights_only=True))
        give_gradients(both, generator, missing=0.3)
        unbroken.step()
        broken.step()
        assert all(torch.equal(one, other) for one, other in zip(*both))


def test_adamw_is_its_formula_written_as_sums() -> None:
    """No running means: every step from all gradients so far, weighted by hand."""
    b1, b2, lr, eps, decay = 0.8, 0.9, 0.1, 1e-3, 0.3
    gradients = [1.0, -2.0, 0.5, 0.0, 3.0]
    w = nn.Parameter(torch.tensor(2.0, dtype=torch.float64))
    optimizer = optimizers.AdamW([w], lr, (b1, b2), eps, decay)
    value = 2.0
    for t in range(1, len(gradients) + 1):
        w.grad = torch.tensor(gradients[t - 1], dtype=torch.float64)
        optimizer.step()
        shares = [b1 ** (t - i) for i in range(1, t + 1)]
        mean = math.fsum(s * g for s, g in zip(shares, gradients)) / math.fsum(shares)
        shares = [b2 ** (t - i) for i in range(1, t + 1)]
        square = math.fsum(s * g * g for s, g in zip(shares, gradients)) / math.fsum(shares)
        value = value - lr * mean / (square**0.5 + eps) - lr * decay * value
        assert w.item() == pytest.approx(value, rel=1e-12)


@pytest.mark.parametrize("lr", [0.1, 1e-4])
@pytest.mark.parametrize("size", [1e-4, 1.0, 1e6])
def test_the_first_step_of_adam_is_lr(lr: float, size: float) -> None:
    w = nn.Parameter(torch.zeros(2, dtype=torch.float64))
    w.grad = torch.tensor([size, -size], dtype=torch.float64)
    optimizers.AdamW([w], lr=lr).step()
    assert w.tolist() == pytest.approx([-lr, lr], rel=1e-3)


def test_sgd_with_momentum_goes_lr_over_one_minus_momentum_far_in_the_end() -> None:
    w = nn.Parameter(torch.zeros(1, dtype=torch.float64))
    optimizer = optimizers.SGD([w], lr=0.1, momentum=0.9)
    w.grad = torch.ones_like(w)
    for _ in range(300):
        before = w.item()
        optimizer.step()
    assert before - w.item() == pytest.approx(0.1 / (1 - 0.9))


@pytest.mark.parametrize("name", ["SGD", "AdamW"])
def test_a_model_is_trained_by_the_usual_loop(name: str) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(32, 3, generator=generator)
    y = x @ torch.tensor([[1.0], [-2.0], [0.5]]) + 3
    model = nn.Linear(3, 1)
    optimizer = getattr(optimizers, name)(optimizers.decay_groups(model, weight_decay=0.0), lr=0.05)
    for _ in range(600):
        optimizer.zero_grad()
        loss = (model(x) - y).square().mean()
        loss.backward()
        optimizer.step()
    assert loss.item() < 1e-4
    assert model.bias.item() == pytest.approx(3, abs=0.02)


def test_decay_groups_are_those_of_a_real_language_model() -> None:
    """GPT-2 has a tied head, two-axis weights in nn.Linear's place, LayerNorms and biases; counted by its shapes."""
    transformers = pytest.importorskip("transformers")
    config = transformers.GPT2Config(vocab_size=7, n_positions=5, n_embd=4, n_layer=2, n_head=2)
    model = transformers.GPT2LMHeadModel(config)
    assert model.lm_head.weight is model.transformer.wte.weight
    decaying, others = optimizers.decay_groups(model, 0.1)
    assert (decaying["weight_decay"], others["weight_decay"]) == (0.1, 0.0)
    M, V, P = 4, 7, 5
    per_block = 3 * M * M + M * M + 2 * 4 * M * M
    biases = 3 * M + M + 4 * M + M + 2 * 2 * M  # attention, feed-forward, two LayerNorms
    assert sum(p.numel() for p in decaying["params"]) == V * M + P * M + 2 * per_block
    assert sum(p.numel() for p in others["params"]) == 2 * biases + 2 * M
    everyone = [id(p) for group in (decaying, others) for p in group["params"]]
    assert len(everyone) == len(set(everyone)) == len(list(model.parameters()))


def test_decay_groups_leave_out_what_is_frozen() -> None:
    model = nn.Sequential(nn.Embedding(3, 2).requires_grad_(False), nn.Linear(2, 2), nn.Conv2d(1, 1, 2))
    groups = optimizers.decay_groups(model, 0.1)
    assert [[p.ndim for p in group["params"]] for group in groups] == [[2, 4], [1, 1]]
