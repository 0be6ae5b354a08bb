"""Oracles of the losses: PyTorch's own, finite differences, the loss of Hugging Face's models, and losses known in closed form."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from rooms import solution
from torch import Tensor

losses = solution("losses")
sizes = st.integers(1, 5)
seeds = st.integers(0, 999)
smoothings = st.sampled_from([0.0, 0.1, 0.5, 1.0])


def normal(*shape: int, seed: int, scale: float = 1.0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * scale


def drawn(shape: tuple[int, ...], V: int, seed: int, ignore_index: int, share: float) -> Tensor:
    """Targets of which about this share is ignored."""
    generator = torch.Generator().manual_seed(seed)
    ignored = torch.rand(shape, generator=generator) < share
    return torch.randint(V, shape, generator=generator).masked_fill(ignored, ignore_index)


@given(shape=st.lists(sizes, min_size=1, max_size=4), place=st.integers(-4, 3), scale=st.sampled_from([1.0, 100.0, 1e4]), seed=seeds)
@settings(max_examples=60, deadline=None)
def test_log_softmax_equals_pytorchs_in_value_and_gradient(shape: list[int], place: int, scale: float, seed: int) -> None:
    assume(-len(shape) <= place < len(shape))
    x = normal(*shape, seed=seed, scale=scale).requires_grad_()
    outs = losses.log_softmax(x, place), F.log_softmax(x, place)
    torch.testing.assert_close(*outs)
    upstream = normal(*shape, seed=seed + 1)
    torch.testing.assert_close(*(torch.autograd.grad((out * upstream).sum(), x)[0] for out in outs))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_log_softmax_keeps_dtype_and_digits_at_extremes(dtype: torch.dtype) -> None:
    x = torch.tensor([[1e4, 1e4, -1e4], [-1e4, -1e4 + 1, -1e4]], dtype=dtype)
    out = losses.log_softmax(x, 1)
    assert out.dtype == dtype
    torch.testing.assert_close(out, F.log_softmax(x, 1))
    torch.testing.assert_close(out.exp().sum(1), torch.ones(2, dtype=dtype))


@given(
    shape=st.lists(sizes, max_size=3),
    V=sizes,
    ignore_index=st.sampled_from([-100, -1, 0]),
    share=st.sampled_from([0.0, 0.4]),
    epsilon=smoothings,
    scale=st.sampled_from([1.0, 1e4]),
    seed=seeds,
)
@settings(max_examples=120, deadline=None)
def test_cross_entropy_equals_pytorchs_in_value_and_gradient(
    shape: list[int], V: int, ignore_index: int, share: float, epsilon: float, scale: float, seed: int
) -> None:
    logits = normal(*shape, V, seed=seed, scale=scale).requires_grad_()
    targets = drawn(tuple(shape), V, seed, ignore_index, share)
    assume((targets != ignore_index).any())
    ours = losses.cross_entropy(logits, targets, ignore_index, epsilon)
    theirs = F.cross_entropy(logits.reshape(-1, V), targets.reshape(-1), ignore_index=ignore_index, label_smoothing=epsilon)
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(*(torch.autograd.grad(3.0 * loss, logits)[0] for loss in (ours, theirs)))
    if V > 1:
        assert losses.cross_entropy(logits.float(), targets, ignore_index, epsilon).dtype == torch.float32


@pytest.mark.parametrize("epsilon", [0.0, 0.1])
@pytest.mark.parametrize("ignore_index", [-100, 2])
def test_without_targets_the_loss_is_zero_and_can_be_backpropagated(epsilon: float, ignore_index: int) -> None:
    logits = normal(2, 3, 4, seed=0).requires_grad_()
    loss = losses.cross_entropy(logits, torch.full((2, 3), ignore_index), ignore_index, epsilon)
    loss.backward()
    assert loss.item() == 0.0
    assert torch.equal(logits.grad, torch.zeros(2, 3, 4, dtype=torch.float64))


def test_a_softmax_before_cross_entropy_keeps_the_loss_above_its_floor() -> None:
    V = 10
    sure = 1e4 * torch.eye(V, dtype=torch.float64)
    assert losses.cross_entropy(sure, torch.arange(V)).item() == 0.0
    floor = losses.cross_entropy(sure.softmax(-1), torch.arange(V)).item()
    assert floor == pytest.approx(math.log(math.e + V - 1) - 1)


def test_smoothed_loss_is_least_where_the_softmax_is_what_is_wanted() -> None:
    V, epsilon = 5, 0.2
    wanted = torch.full((V,), epsilon / V, dtype=torch.float64)
    wanted[3] += 1 - epsilon
    logits = wanted.log().requires_grad_()
    loss = losses.cross_entropy(logits, torch.tensor(3), label_smoothing=epsilon)
    torch.testing.assert_close(loss, -(wanted * wanted.log()).sum())
    torch.testing.assert_close(torch.autograd.grad(loss, logits)[0], torch.zeros(V, dtype=torch.float64), atol=1e-12, rtol=0)


@given(N=sizes, V=sizes, ignore_index=st.sampled_from([-100, 0]), share=st.sampled_from([0.0, 0.4, 1.0]), seed=seeds)
@settings(max_examples=60, deadline=None)
def test_backward_agrees_with_finite_differences(N: int, V: int, ignore_index: int, share: float, seed: int) -> None:
    logits, targets = normal(N, V, seed=seed), drawn((N,), V, seed, ignore_index, share)
    step = 1e-6
    slopes = torch.zeros(N, V, dtype=torch.float64)
    if (targets != ignore_index).any():
        for n in range(N):
            for v in range(V):
                nudge = torch.zeros(N, V, dtype=torch.float64)
                nudge[n, v] = step
                pair = (F.cross_entropy(logits + sign * nudge, targets, ignore_index=ignore_index).item() for sign in (1, -1))
                slopes[n, v] = (next(pair) - next(pair)) / (2 * step)
    torch.testing.assert_close(losses.cross_entropy_backward(logits, targets, ignore_index), slopes, atol=1e-7, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_backward_equals_pytorchs_gradient_at_extremes(dtype: torch.dtype) -> None:
    logits = torch.tensor([[1e4, -1e4, 1e4], [0.0, 1e4, 9999.0], [5.0, 6.0, 7.0]], dtype=dtype, requires_grad=True)
    targets = torch.tensor([1, 2, -100])
    F.cross_entropy(logits, targets).backward()
    torch.testing.assert_close(losses.cross_entropy_backward(logits.detach(), targets), logits.grad)


@given(B=sizes, L=st.integers(2, 6), seed=seeds)
@settings(max_examples=30, deadline=None)
def test_pairs_give_the_loss_that_transformers_computes_from_labels(B: int, L: int, seed: int) -> None:
    from transformers.loss.loss_utils import ForCausalLMLoss

    V = 7
    ids, logits = torch.randint(V, (B, L), generator=torch.Generator().manual_seed(seed)), normal(B, L, V, seed=seed).float()
    inputs, targets = losses.next_token_pairs(ids)
    assert inputs.shape == targets.shape == (B, L - 1)
    assert torch.equal(torch.cat([inputs, targets[:, -1:]], dim=1), ids)
    torch.testing.assert_close(losses.cross_entropy(logits[:, :-1], targets), ForCausalLMLoss(logits, ids, V))


@given(B=sizes, L=sizes, bos_id=st.integers(0, 9), seed=seeds)
@settings(max_examples=30, deadline=None)
def test_shift_right_equals_a_shift_of_lists(B: int, L: int, bos_id: int, seed: int) -> None:
    targets = torch.randint(10, 99, (B, L), generator=torch.Generator().manual_seed(seed))
    before = targets.tolist()
    assert losses.shift_right(targets, bos_id).tolist() == [[bos_id, *row[:-1]] for row in before]
    assert targets.tolist() == before


@given(counts=st.lists(st.integers(0, 9), min_size=1, max_size=5), seed=seeds)
@settings(max_examples=40, deadline=None)
def test_perplexity_is_that_of_all_tokens_at_once(counts: list[int], seed: int) -> None:
    assume(sum(counts) > 0)
    logits, targets = normal(sum(counts), 6, seed=seed), drawn((sum(counts),), 6, seed, -100, 0.0)
    sums = [F.cross_entropy(x, y, reduction="sum").item() for x, y in zip(logits.split(counts), targets.split(counts))]
    found = losses.perplexity(sums, counts)
    assert type(found) is float
    assert found == pytest.approx(F.cross_entropy(logits, targets).exp().item())


def test_perplexity_of_a_fair_die_is_six() -> None:
    assert losses.perplexity([4 * math.log(6), 9 * math.log(6)], [4, 9]) == pytest.approx(6.0)


@pytest.mark.parametrize("sums, counts", [([], []), ([0.0, 0.0], [0, 0])])
def test_perplexity_of_nothing_is_refused(sums: list[float], counts: list[int]) -> None:
    with pytest.raises(ValueError):
        losses.perplexity(sums, counts)
