"""Oracles of the mixture of experts: loops, exact fractions, all experts on all tokens, gradients by hand."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rooms import solution
from torch import Tensor

from kata.costs import CostMode

moe = solution("moe")
sizes = st.integers(1, 6)
seeds = st.integers(0, 999)


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def choices(T: int, E: int, k: int, seed: int) -> Tensor:
    """k different experts for each token."""
    return normal(T, E, seed=seed).argsort(-1)[:, :k]


def layer_of(M: int, E: int, k: int, factor: float | None, seed: int) -> torch.nn.Module:
    layer = moe.MoELayer(M, 5, E, k, factor).double()
    for i, parameter in enumerate(layer.parameters()):
        parameter.data = normal(*parameter.shape, seed=seed + i)
    return layer


@given(T=sizes, E=sizes, k=sizes, seed=seeds, shift=st.sampled_from([0.0, 900.0, -900.0]))
@settings(max_examples=50, deadline=None)
def test_routing_equals_softmax_then_top_k_then_renormalised(T: int, E: int, k: int, seed: int, shift: float) -> None:
    k = min(k, E)
    logits = normal(T, E, seed=seed) + shift
    weights, experts = moe.top_k_routing(logits, k)
    for row, chosen, given_weights in zip(logits.tolist(), experts.tolist(), weights.tolist()):
        assert chosen == sorted(range(E), key=lambda e: -row[e])[:k]
        powers = [math.exp(row[e] - shift) for e in chosen]
        assert given_weights == pytest.approx([power / sum(powers) for power in powers])


@pytest.mark.parametrize("k", [-1, 0, 4, 10])
def test_k_out_of_range_is_refused(k: int) -> None:
    with pytest.raises(ValueError, match=str(k)):
        moe.top_k_routing(torch.zeros(2, 3), k)


@given(T=sizes, E=sizes, k=sizes, seed=seeds)
@settings(max_examples=50, deadline=None)
def test_balance_equals_a_loop_in_value_and_gradient(T: int, E: int, k: int, seed: int) -> None:
    k = min(k, E)
    logits = normal(T, E, seed=seed).requires_grad_()
    experts = choices(T, E, k, seed + 1)
    loss = moe.load_balancing_loss(logits, experts)
    powers = logits.detach().exp()
    p = powers / powers.sum(1, keepdim=True)
    f = torch.tensor([sum(row.count(e) for row in experts.tolist()) / (T * k) for e in range(E)], dtype=torch.float64)
    assert loss.item() == pytest.approx(sum(float(E * f[e] * p[t, e] / T) for e in range(E) for t in range(T)))
    by_hand = E / T * p * (f - (p * f).sum(1, keepdim=True))  # through the softmax alone
    torch.testing.assert_close(torch.autograd.grad(loss, logits)[0], by_hand)


@given(T=sizes, E=sizes, k=sizes, seed=seeds)
@settings(max_examples=30, deadline=None)
def test_uniform_router_has_the_loss_one(T: int, E: int, k: int, seed: int) -> None:
    logits = torch.full((T, E), 3.0, dtype=torch.float64)
    assert float(moe.load_balancing_loss(logits, choices(T, E, min(k, E), seed))) == pytest.approx(1)


def test_collapsed_router_has_the_loss_e() -> None:
    logits = torch.tensor([[60.0, 0.0, 0.0, 0.0]] * 3)
    assert float(moe.load_balancing_loss(logits, torch.zeros(3, 1, dtype=torch.long))) == pytest.approx(4)


@given(T=sizes, E=sizes, seed=seeds)
@settings(max_examples=50, deadline=None)
def test_z_loss_equals_a_loop_in_value_and_gradient(T: int, E: int, seed: int) -> None:
    logits = normal(T, E, seed=seed).requires_grad_()
    z = [math.log(sum(map(math.exp, row))) for row in logits.tolist()]
    loss = moe.router_z_loss(logits)
    assert loss.item() == pytest.approx(sum(value**2 for value in z) / T)
    by_hand = 2 / T * torch.tensor(z, dtype=torch.float64)[:, None] * logits.detach().softmax(-1)
    torch.testing.assert_close(torch.autograd.grad(loss, logits)[0], by_hand)


@given(T=st.integers(0, 5000), E=st.sampled_from([1, 2, 8, 64]), k=st.integers(1, 8), quarters=st.integers(1, 12))
@settings(max_examples=100, deadline=None)
def test_capacity_is_the_least_number_that_is_enough(T: int, E: int, k: int, quarters: int) -> None:
    capacity = moe.expert_capacity(T, E, k, quarters / 4)
    needed = Fraction(quarters, 4) * T * k / E
    assert type(capacity) is int
    assert capacity - 1 < needed <= capacity


@given(T=sizes, E=sizes, k=sizes, capacity=st.integers(0, 7), seed=seeds)
@settings(max_examples=100, deadline=None)
def test_dispatch_equals_a_queue(T: int, E: int, k: int, capacity: int, seed: int) -> None:
    experts = choices(T, E, min(k, E), seed)
    room = [capacity] * E
    wanted = torch.zeros(experts.shape, dtype=torch.bool)
    for slot in range(experts.shape[1]):
        for token in range(T):
            expert = int(experts[token, slot])
            wanted[token, slot] = room[expert] > 0
            room[expert] -= 1
    kept = moe.dispatch_mask(experts, E, capacity)
    assert kept.dtype is torch.bool
    assert kept.equal(wanted)


def test_expert_equals_its_formula() -> None:
    expert = moe.Expert(3, 4).double()
    x = normal(2, 5, 3, seed=0)
    gate, up, down = (getattr(expert, name).weight.T for name in ("gate", "up", "down"))
    torch.testing.assert_close(expert(x), (x @ gate / (1 + (-x @ gate).exp()) * (x @ up)) @ down)


@given(B=sizes, L=sizes, E=sizes, k=sizes, factor=st.sampled_from([None, 0.25, 0.5, 1.0, 2.0]), seed=seeds)
@settings(max_examples=50, deadline=None)
def test_layer_equals_all_experts_on_all_tokens(B: int, L: int, E: int, k: int, factor: float | None, seed: int) -> None:
    k = min(k, E)
    layer = layer_of(3, E, k, factor, seed)
    x = normal(B, L, 3, seed=seed + 50).requires_grad_()
    y, logits, experts = layer(x)
    assert y.shape == x.shape and logits.shape == (B * L, E) and experts.shape == (B * L, k)

    everything = torch.stack([expert(x) for expert in layer.experts], dim=-1)  # (B, L, M, E)
    scores = layer.router(x)
    best = scores.topk(k).indices
    allowed = torch.zeros_like(scores, dtype=torch.bool).scatter(-1, best, True)
    gates = scores.masked_fill(~allowed, -math.inf).softmax(-1)
    kept = torch.ones(B * L, k, dtype=torch.bool)
    if factor is not None:
        kept = moe.dispatch_mask(best.view(B * L, k), E, math.ceil(Fraction(factor) * B * L * k / E))
    gates = gates * torch.zeros_like(gates).scatter(-1, best, kept.view(B, L, k).double())
    wanted = (everything * gates[..., None, :]).sum(-1)

    torch.testing.assert_close(y, wanted)
    torch.testing.assert_close(logits, scores.view(B * L, E))
    assert experts.equal(best.view(B * L, k))
    upstream = normal(B, L, 3, seed=seed + 51)
    leaves = [x, *layer.parameters()]
    for ours, theirs in zip(*(torch.autograd.grad((out * upstream).sum(), leaves, materialize_grads=True) for out in (y, wanted))):
        torch.testing.assert_close(ours, theirs)


def test_equal_experts_are_one_expert() -> None:
    layer = layer_of(3, 4, 2, None, seed=7)
    for expert in layer.experts:
        expert.load_state_dict(layer.experts[0].state_dict())
    x = normal(2, 5, 3, seed=8)
    torch.testing.assert_close(layer(x)[0], layer.experts[0](x))


@pytest.mark.parametrize("factor, kept_share", [(None, 1.0), (1.0, 0.5), (0.5, 0.25)])
def test_cost_is_that_of_the_kept_assignments(factor: float | None, kept_share: float) -> None:
    """All tokens want the same two of four experts, so that with factor 1 half of the assignments find room."""
    layer = layer_of(3, 4, 2, factor, seed=7)
    x = normal(1, 1, 3, seed=8).expand(2, 4, 3)
    with CostMode() as mode:
        layer(x)
    assert mode.flops == 2 * 8 * 3 * 4 + kept_share * 8 * 2 * 3 * 2 * 3 * 5
