"""Oracles of the schedules: closed forms, PyTorch's and Hugging Face's schedulers, and what an optimizer then does."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rooms import solution
from torch.optim.lr_scheduler import CosineAnnealingLR, LambdaLR, LinearLR, LRScheduler, SequentialLR

schedules = solution("schedules")
durations = st.integers(1, 12)
rates = st.sampled_from([1.0, 3e-4])


def logged(make: Callable[[torch.optim.Optimizer], LRScheduler], max_lr: float, steps: int) -> list[float]:
    """The rates that a PyTorch scheduler gives to so many updates."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # no gradients here, so the optimizer's own step is left out; and SequentialLR steps by epoch
        scheduler = make(torch.optim.SGD([torch.zeros(1)], lr=max_lr))
        found = []
        for _ in range(steps):
            found.append(scheduler.get_last_lr()[0])
            scheduler.step()
    return found


@given(d_model=st.integers(1, 2048), warmup=st.integers(1, 5000), step=st.integers(0, 100_000))
@settings(max_examples=100, deadline=None)
def test_noam_is_the_papers_formula(d_model: int, warmup: int, step: int) -> None:
    s = step + 1  # in the form without powers of -1.5: one of two straight lines in the logarithm
    wanted = 1 / math.sqrt(d_model * s) if s >= warmup else s / (warmup * math.sqrt(d_model * warmup))
    assert schedules.noam(step, d_model, warmup) == pytest.approx(wanted)


def test_noam_gives_the_base_models_rates() -> None:
    found = [schedules.noam(step, 512, 4000) for step in range(12_000)]
    assert max(range(12_000), key=found.__getitem__) == 3999
    assert found[3999] == pytest.approx(6.9877e-4, rel=1e-4)
    assert found[0] == pytest.approx(found[3999] / 4000)
    assert found[1] == pytest.approx(2 * found[0])


def test_noam_falls_as_transformers_inverse_root() -> None:
    from transformers import get_inverse_sqrt_schedule

    theirs = logged(lambda optimizer: get_inverse_sqrt_schedule(optimizer, num_warmup_steps=10), 1.0, 60)
    ours = [schedules.noam(step - 1, 1, 10) * math.sqrt(10) for step in range(1, 60)]  # their first rate is 0, our first is their second
    assert ours == pytest.approx(theirs[1:])


@given(max_lr=rates, share=st.sampled_from([0.0, 0.1, 1.0]), warmup=st.integers(2, 12), rest=durations)
@settings(max_examples=40, deadline=None)
def test_warmup_cosine_equals_pytorchs_sequence(max_lr: float, share: float, warmup: int, rest: int) -> None:
    def sequence(optimizer: torch.optim.Optimizer) -> SequentialLR:
        climb = LinearLR(optimizer, start_factor=1 / warmup, total_iters=warmup - 1)
        return SequentialLR(optimizer, [climb, CosineAnnealingLR(optimizer, rest, share * max_lr)], milestones=[warmup])

    steps = warmup + rest + 1  # theirs climbs again after that
    ours = [schedules.warmup_cosine(step, max_lr, share * max_lr, warmup, warmup + rest) for step in range(steps)]
    assert ours == pytest.approx(logged(sequence, max_lr, steps), abs=1e-12)


@given(warmup=st.integers(0, 9), rest=durations, beyond=st.integers(1, 1000))
@settings(max_examples=60, deadline=None)
def test_warmup_cosine_is_symmetric_and_ends(warmup: int, rest: int, beyond: int) -> None:
    def rate(step: int) -> float:
        return schedules.warmup_cosine(step, 1.0, 0.2, warmup, warmup + rest)

    for i in range(rest + 1):
        assert rate(warmup + i) + rate(warmup + rest - i) == pytest.approx(1.2)
    falling = [rate(warmup + i) for i in range(rest + 1)]
    assert falling == sorted(falling, reverse=True)
    assert rate(warmup + rest + beyond) == pytest.approx(0.2)


@given(max_lr=rates, warmup=st.integers(0, 9), stable=st.integers(0, 9), decay=durations)
@settings(max_examples=40, deadline=None)
def test_stable_and_decay_equal_transformers(max_lr: float, warmup: int, stable: int, decay: int) -> None:
    from transformers import get_wsd_schedule

    steps = warmup + stable + decay + 5
    theirs = logged(
        lambda optimizer: get_wsd_schedule(optimizer, warmup, decay, num_stable_steps=stable, decay_type="linear"), max_lr, steps
    )
    ours = [schedules.warmup_stable_decay(step, max_lr, warmup, stable, decay) for step in range(steps)]
    assert ours[warmup:] == pytest.approx(theirs[warmup:])
    assert ours[:warmup] == pytest.approx([max_lr * (step + 1) / warmup for step in range(warmup)])  # theirs begins with 0


def test_nothing_but_a_drop_without_decay() -> None:
    assert [schedules.warmup_stable_decay(step, 1.0, 1, 2, 0) for step in range(5)] == [1.0, 1.0, 1.0, 0.0, 0.0]


@pytest.mark.parametrize("make", [torch.optim.SGD, torch.optim.AdamW])
def test_set_lr_does_what_a_lambda_does_that_returns_factors(make: type[torch.optim.Optimizer]) -> None:
    def groups() -> list[dict[str, object]]:
        weights = torch.arange(6.0, dtype=torch.float64).split(3)
        return [{"params": [w.clone().requires_grad_()], "weight_decay": 0.1 * i} for i, w in enumerate(weights)]

    def rate(step: int) -> float:
        return schedules.warmup_cosine(step, 0.5, 0.05, 3, 8)

    ours, theirs = make(groups(), lr=0.5), make(groups(), lr=0.5)
    held = list(ours.param_groups)
    scheduler = LambdaLR(theirs, lambda step: rate(step) / 0.5)
    for step in range(10):
        schedules.set_lr(ours, rate(step))
        assert {group["lr"] for group in ours.param_groups} == {rate(step)}
        for optimizer in (ours, theirs):
            for group in optimizer.param_groups:
                group["params"][0].grad = group["params"][0].detach() - 1
            optimizer.step()
        scheduler.step()
    assert all(group is old for group, old in zip(ours.param_groups, held, strict=True))
    for mine, other in zip(ours.param_groups, theirs.param_groups, strict=True):
        torch.testing.assert_close(mine["params"][0], other["params"][0])


@pytest.mark.parametrize(
    "name, args",
    [
        ("noam", (-1, 8, 4)),
        ("noam", (0, 0, 4)),
        ("noam", (0, -8, 4)),
        ("noam", (0, 8, 0)),
        ("warmup_cosine", (-1, 1.0, 0.1, 3, 9)),
        ("warmup_cosine", (0, 1.0, 0.1, -3, 9)),
        ("warmup_cosine", (0, 1.0, 0.1, 9, 9)),
        ("warmup_cosine", (0, 1.0, 0.1, 9, 3)),
        ("warmup_stable_decay", (-1, 1.0, 3, 4, 5)),
        ("warmup_stable_decay", (0, 1.0, -3, 4, 5)),
        ("warmup_stable_decay", (0, 1.0, 3, -4, 5)),
        ("warmup_stable_decay", (0, 1.0, 3, 4, -5)),
    ],
)
def test_nonsense_is_refused(name: str, args: tuple[float, ...]) -> None:
    with pytest.raises(ValueError):
        getattr(schedules, name)(*args)
