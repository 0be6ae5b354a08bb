"""Oracles of regularization: PyTorch's own dropout, cross-entropy and averaged model, expectations, and enumeration."""

from __future__ import annotations

import copy
from itertools import product

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from rooms import solution
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

regularization = solution("regularization")
seeds = st.integers(0, 999)
rates = st.floats(0.0, 1.0)


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("p", [0.0, 0.2, 0.5, 0.9, 1.0])
def test_dropout_has_the_values_and_the_frequencies_of_pytorchs(p: float) -> None:
    x = torch.full((200_000,), 3.0)
    ours, theirs = regularization.dropout(x, p, True, generator(0)), F.dropout(x, p, training=True)
    assert ours.unique().tolist() == pytest.approx(theirs.unique().tolist())
    assert (ours != 0).double().mean().item() == pytest.approx(1 - p, abs=0.005)
    assert (theirs != 0).double().mean().item() == pytest.approx(1 - p, abs=0.005)


@pytest.mark.parametrize("name", ["dropout", "drop_path"])
@pytest.mark.parametrize("p", [0.1, 0.5, 0.8])
def test_nothing_changes_on_average(name: str, p: float) -> None:
    function, g = getattr(regularization, name), generator(1)
    x = torch.randn(4, 3, generator=g, dtype=torch.float64)
    draws = torch.stack([function(x, p, True, g) for _ in range(6000)])
    error = (p / (1 - p)) ** 0.5 * x.abs() / 6000**0.5  # standard deviation of the mean
    assert ((draws.mean(0) - x).abs() <= 5 * error).all()


def test_numbers_are_dropped_independently() -> None:
    """Each of the 8 patterns of three numbers comes as often as a product of probabilities says."""
    g, n = generator(2), 20_000
    kept = regularization.dropout(torch.ones(n, 3), 0.3, True, g) != 0
    for pattern in product([True, False], repeat=3):
        share = (kept == torch.tensor(pattern)).all(-1).double().mean().item()
        assert share == pytest.approx(0.7 ** sum(pattern) * 0.3 ** (3 - sum(pattern)), abs=0.015)


@given(p=st.floats(0.0, 0.95), seed=seeds)
@settings(max_examples=40, deadline=None)
def test_gradients_are_those_of_finite_differences(p: float, seed: int) -> None:
    x = torch.randn(5, 2, generator=generator(seed), dtype=torch.float64, requires_grad=True)
    for function in (regularization.dropout, regularization.drop_path):
        assert torch.autograd.gradcheck(lambda x, f=function: f(x, p, True, generator(seed)), (x,))


@given(p=rates, seed=seeds, shape=st.lists(st.integers(1, 4), min_size=1, max_size=4))
@settings(max_examples=60, deadline=None)
def test_drop_path_is_a_loop_over_samples(p: float, seed: int, shape: list[int]) -> None:
    x = torch.randn(shape, generator=generator(seed), dtype=torch.float64)
    g = generator(seed)
    numbers = torch.rand(shape[0], generator=g)
    wanted = torch.stack([x[b] / (1 - p) if numbers[b] >= p else torch.zeros_like(x[b]) for b in range(shape[0])])
    g_ours = generator(seed)
    torch.testing.assert_close(regularization.drop_path(x, p, True, g_ours), wanted)
    assert torch.equal(g.get_state(), g_ours.get_state())  # nothing more was drawn


@pytest.mark.parametrize("name", ["dropout", "drop_path"])
@pytest.mark.parametrize("p", [-1e-9, 1 + 1e-9, float("nan"), float("inf")])
def test_what_is_no_probability_is_refused(name: str, p: float) -> None:
    with pytest.raises(ValueError, match="probability"):
        getattr(regularization, name)(torch.ones(2), p, True)


@given(N=st.integers(1, 5), V=st.integers(1, 6), epsilon=rates, seed=seeds)
@settings(max_examples=60, deadline=None)
def test_smoothed_targets_give_pytorchs_smoothed_loss(N: int, V: int, epsilon: float, seed: int) -> None:
    g = generator(seed)
    logits, targets = torch.randn(N, V, generator=g), torch.randint(V, (N,), generator=g)
    smoothed = regularization.smooth_targets(targets, V, epsilon)
    wanted = F.cross_entropy(logits, targets, label_smoothing=epsilon)
    torch.testing.assert_close(F.cross_entropy(logits, smoothed), wanted)
    torch.testing.assert_close(smoothed.sum(-1), torch.ones(N))


class Small(nn.Module):
    """Tied, frozen, with float, integer and boolean buffers, one of them not saved."""

    def __init__(self, seed: int):
        super().__init__()
        self.embedding = nn.Embedding(4, 3)
        self.norm = nn.BatchNorm1d(3)
        self.head = nn.Linear(3, 4)
        self.head.weight = self.embedding.weight
        self.scale = nn.Parameter(torch.ones(()), requires_grad=False)
        self.register_buffer("mask", torch.zeros(2, dtype=torch.bool), persistent=False)
        self.fill(generator(seed))

    @torch.no_grad()
    def fill(self, g: torch.Generator) -> None:
        for p in self.parameters():
            p.copy_(torch.randn(p.shape, generator=g))
        self.norm.running_mean.copy_(torch.randn(3, generator=g))
        self.norm.num_batches_tracked += 1
        self.mask.logical_not_()


@given(decay=rates, seed=seeds, updates=st.integers(0, 5))
@settings(max_examples=30, deadline=None)
def test_average_is_that_of_pytorch(decay: float, seed: int, updates: int) -> None:
    g, model = generator(seed), Small(seed)
    ours = regularization.EMA(model, decay)
    theirs = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(decay))
    theirs.update_parameters(model)  # its first update takes the weights over, as our constructor does
    for _ in range(updates):
        model.fill(g)
        ours.update(model)
        theirs.update_parameters(model)
    fresh = Small(seed + 1)
    before = list(fresh.parameters())
    ours.copy_to(fresh)
    for p, q, old in zip(fresh.parameters(), theirs.module.parameters(), before):
        torch.testing.assert_close(p, q)
        assert p is old
    for b, c in zip(fresh.buffers(), theirs.module.buffers()):
        assert torch.equal(b, c)  # theirs are copied too unless told otherwise


@given(decay=st.floats(0.0, 1.0), values=st.lists(st.floats(-10, 10), min_size=1, max_size=6))
@settings(max_examples=60, deadline=None)
def test_average_is_a_sum_written_out(decay: float, values: list[float]) -> None:
    model = nn.Linear(1, 1, bias=False, dtype=torch.float64)
    with torch.no_grad():
        model.weight.fill_(values[0])
    ema = regularization.EMA(model, decay)
    for value in values[1:]:
        with torch.no_grad():
            model.weight.fill_(value)
        ema.update(model)
    n = len(values) - 1
    wanted = decay**n * values[0] + sum((1 - decay) * decay ** (n - i) * values[i] for i in range(1, n + 1))
    ema.copy_to(model)
    assert model.weight.item() == pytest.approx(wanted, abs=1e-12)


def test_training_goes_on_as_if_nobody_averaged() -> None:
    def run(average: bool) -> Tensor:
        model, g = Small(0), generator(1)
        ema = regularization.EMA(model, 0.9) if average else None
        for _ in range(5):
            loss = model.head(model.norm(model.embedding(torch.randint(4, (6,), generator=g)))).square().mean()
            model.zero_grad()
            loss.backward()
            with torch.no_grad():
                for p in model.parameters():
                    if p.grad is not None:
                        p.sub_(0.1 * p.grad)
            if ema:
                ema.update(model)
                ema.copy_to(copy.deepcopy(model))
        return torch.cat([p.detach().flatten() for p in model.parameters()])

    assert torch.equal(run(average=True), run(average=False))
