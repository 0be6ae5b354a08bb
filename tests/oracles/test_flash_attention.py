"""Oracles of flash attention: PyTorch's fused attention, its logsumexp, autograd, and finite differences."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from rooms import solution
from torch import Tensor

flash = solution("flash_attention")
sizes = st.integers(1, 5)
seeds = st.integers(0, 999)


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def allowed(L: int, S: int, causal: bool) -> Tensor:
    """(L, S): query i sees key j; the last query belongs to the last key."""
    return torch.tensor([[not causal or j <= i + S - L for j in range(S)] for i in range(L)])


def some(B: int, H: int, L: int, S: int, D: int, causal: bool, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    L = min(L, S) if causal else L
    return normal(B, H, L, D, seed=seed), normal(B, H, S, D, seed=seed + 1), normal(B, H, S, D, seed=seed + 2)


shapes = {"B": st.integers(1, 2), "H": st.integers(1, 2), "L": sizes, "S": sizes, "D": st.integers(1, 3)}


@given(**shapes, causal=st.booleans(), block=st.integers(1, 7), seed=seeds)
@settings(max_examples=60, deadline=None)
def test_forward_is_pytorchs_fused_attention(B: int, H: int, L: int, S: int, D: int, causal: bool, block: int, seed: int) -> None:
    q, k, v = some(B, H, L, S, D, causal, seed)
    mask = allowed(q.shape[2], S, causal)
    out, logsumexp = flash.flash_forward(q, k, v, block, causal)
    torch.testing.assert_close(out, F.scaled_dot_product_attention(q, k, v, mask))
    scores = torch.einsum("bhld,bhsd->bhls", q, k) / math.sqrt(D)
    torch.testing.assert_close(logsumexp, torch.logsumexp(scores.masked_fill(~mask, -math.inf), -1))


@given(**shapes, causal=st.booleans(), block=st.integers(1, 7), other=st.integers(1, 7), seed=seeds)
@settings(max_examples=60, deadline=None)
def test_backward_is_autograds_through_fused_attention(
    B: int, H: int, L: int, S: int, D: int, causal: bool, block: int, other: int, seed: int
) -> None:
    q, k, v = (x.requires_grad_() for x in some(B, H, L, S, D, causal, seed))
    theirs = F.scaled_dot_product_attention(q, k, v, allowed(q.shape[2], S, causal))
    dout = normal(*theirs.shape, seed=seed + 3)
    wanted = torch.autograd.grad(theirs, (q, k, v), dout)
    with torch.no_grad():
        found = flash.flash_backward(dout, q, k, v, *flash.flash_forward(q, k, v, block, causal), other, causal)
    torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize("causal", [False, True])
def test_backward_is_the_difference_quotient_of_forward(causal: bool) -> None:
    q, k, v = some(1, 1, 3, 4, 2, causal, 5)
    dout, step = normal(1, 1, 3, 2, seed=8), 1e-5
    found = flash.flash_backward(dout, q, k, v, *flash.flash_forward(q, k, v, 2, causal), 2, causal)
    for x, gradient in zip((q, k, v), found, strict=True):
        for place in torch.cartesian_prod(torch.arange(x.shape[2]), torch.arange(2)):
            at = (0, 0, *place.tolist())
            losses = []
            for move in (step, -step):
                before = x[at].clone()
                x[at] += move
                losses.append(float((flash.flash_forward(q, k, v, 3, causal)[0] * dout).sum()))
                x[at] = before
            assert (losses[0] - losses[1]) / (2 * step) == pytest.approx(float(gradient[at]), rel=1e-5, abs=1e-7)


def state(scores: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The state of these keys, a key at a time, in Python's floats."""
    rows = []
    for row in scores.tolist():
        m = max(row, default=-math.inf)
        p = [math.exp(s - m) for s in row]
        rows.append((m, sum(p), [sum(p_j * v_j for p_j, v_j in zip(p, column, strict=True)) for column in v.T.tolist()]))
    m, l, o = (torch.tensor(x, dtype=torch.float64) for x in zip(*rows, strict=True))
    return m, l, o


@given(cuts=st.lists(st.integers(0, 6), min_size=2, max_size=2), spread=st.sampled_from([1.0, 300.0, 1e4]), seed=seeds)
@settings(max_examples=60, deadline=None)
def test_merging_is_associative_and_commutative_and_sums_all_up(cuts: list[int], spread: float, seed: int) -> None:
    """Six keys are cut into three blocks, of which some may be empty."""
    scores, v = normal(3, 6, seed=seed) * spread, normal(6, 2, seed=seed + 1)
    first, second = sorted(cuts)
    a, b, c = (state(scores[:, part], v[part]) for part in (slice(0, first), slice(first, second), slice(second, 6)))
    merge = flash.merge_blocks
    for found in (merge(merge(a, b), c), merge(a, merge(b, c)), merge(c, merge(b, a)), merge(merge(c, a), b)):
        torch.testing.assert_close(found, state(scores, v))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("level", [280.0, -280.0, 1e4, -1e4])
def test_far_from_zero_nothing_is_lost(level: float, dtype: torch.dtype) -> None:
    """A constant in all scores changes no weight. (Scores in steps of 1/128, so that float32 holds them beside 1e4.)"""
    q, k, v = (normal(1, 2, 6, 4, seed=seed).mul(8).round().div(8).to(dtype) for seed in range(3))
    q[..., 0], k[..., 0] = 2.0, 0.0
    plain, normaliser = flash.flash_forward(q, k, v, 4, True)
    k[..., 0] = level
    out, logsumexp = flash.flash_forward(q, k, v, 4, True)
    torch.testing.assert_close(out, plain)
    torch.testing.assert_close(logsumexp, normaliser + level)


def test_memory_is_linear() -> None:
    """What the passes allocate at most in one tensor does not grow with L · S, and half of the work is spared."""
    from kata.costs import CostMode

    def cost(L: int, causal: bool) -> CostMode:
        q, k, v = some(1, 1, L, L, 2, causal, 0)
        with CostMode() as mode:
            found = flash.flash_forward(q, k, v, 16, causal)
            flash.flash_backward(q, q, k, v, *found, 16, causal)
        return mode

    assert cost(256, True).largest == 2 * cost(128, True).largest == 256 * 2
    assert cost(128, True).flops / cost(128, False).flops == (8 * 9 / 2) / 8**2
