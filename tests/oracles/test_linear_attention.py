"""Oracles of linear attention: explicit L × L weights, softmax attention in the limit, exact expectations and laws."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from rooms import solution
from torch import Tensor

linear = solution("linear_attention")
sizes = st.integers(1, 4)
seeds = st.integers(0, 999)


def normal(*shape: int, seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def attended(weights: Tensor, v: Tensor, eps: float, causal: bool) -> Tensor:
    """With the matrix of all weights, (B, H, L, S)."""
    if causal:
        weights = weights * torch.ones(weights.shape[-2:], dtype=weights.dtype).tril()
    return weights @ v / (weights.sum(-1, keepdim=True) + eps)


def elu_weights(q: Tensor, k: Tensor) -> Tensor:
    phi_q, phi_k = (torch.where(x > 0, x + 1, x.clamp(max=0).exp()) for x in (q, k))
    return (phi_q[..., :, None, :] * phi_k[..., None, :, :]).sum(-1)


def performer_weights(q: Tensor, k: Tensor, w: Tensor) -> Tensor:
    """The estimate of exp(q·k / √D), feature by feature, in logarithms: nothing under- or overflows."""
    q, k = (x / q.shape[-1] ** 0.25 for x in (q, k))
    logs = (q @ w.mT - (q**2).sum(-1, keepdim=True) / 2)[..., :, None, :] + (k @ w.mT - (k**2).sum(-1, keepdim=True) / 2)[..., None, :, :]
    log_weights = logs.logsumexp(-1) - math.log(len(w))
    return (log_weights - log_weights.amax(-1, keepdim=True).detach()).exp()


def same_with_gradients(ours, theirs, *inputs: Tensor) -> None:
    inputs = tuple(x.requires_grad_() for x in inputs)
    one, other = ours(*inputs), theirs(*inputs)
    torch.testing.assert_close(one, other)
    upstream = normal(*one.shape, seed=99)
    for a, b in zip(
        torch.autograd.grad((one * upstream).sum(), inputs), torch.autograd.grad((other * upstream).sum(), inputs), strict=True
    ):
        torch.testing.assert_close(a, b)


@given(B=sizes, H=sizes, L=sizes, S=sizes, D=sizes, V=sizes, eps=st.sampled_from([1e-6, 0.5]), seed=seeds)
@settings(max_examples=30, deadline=None)
def test_linear_attention_is_that_with_all_weights(B, H, L, S, D, V, eps, seed) -> None:
    q, k, v = normal(B, H, L, D, seed=seed), normal(B, H, S, D, seed=seed + 1), normal(B, H, S, V, seed=seed + 2)
    same_with_gradients(
        lambda *x: linear.linear_attention(*x, eps), lambda q, k, v: attended(elu_weights(q, k), v, eps, causal=False), q, k, v
    )


@pytest.mark.parametrize("L", [1, 5, 63, 64, 65, 128, 200])
def test_causal_form_and_state_are_that_with_the_lower_triangle(L: int) -> None:
    q, k, v = normal(2, 3, L, 4, seed=L), normal(2, 3, L, 4, seed=L + 1), normal(2, 3, L, 2, seed=L + 2)
    wanted = attended(elu_weights(q, k), v, 0.1, causal=True)
    same_with_gradients(
        lambda *x: linear.causal_linear_attention(*x, 0.1), lambda q, k, v: attended(elu_weights(q, k), v, 0.1, causal=True), q, k, v
    )
    state = linear.LinearState(2, 3, 4, 2, torch.float64, eps=0.1)
    steps = [state.step(q[:, :, t], k[:, :, t], v[:, :, t]) for t in range(L)]
    torch.testing.assert_close(torch.stack(steps, 2), wanted.detach())
    assert not any(step.requires_grad for step in steps[1:])


def test_state_in_bfloat16_remembers_in_float32() -> None:
    x = normal(1, 2, 600, 4, seed=1).bfloat16()
    state = linear.LinearState(1, 2, 4, 4)
    for t in range(600):
        out = state.step(x[:, :, t], x[:, :, t], x[:, :, t])
    assert out.dtype == torch.bfloat16
    exact = linear.causal_linear_attention(*3 * (x.double(),))[:, :, -1]
    torch.testing.assert_close(out.double(), exact, rtol=1e-2, atol=1e-2)


@given(B=sizes, L=sizes, S=sizes, D=sizes, V=sizes, R=sizes, causal=st.booleans(), scale=st.sampled_from([1.0, 30.0]), seed=seeds)
@settings(max_examples=40, deadline=None)
def test_performer_is_that_with_all_weights_in_logarithms(B, L, S, D, V, R, causal, scale, seed) -> None:
    S, scale = (L, 1.0) if causal else (S, scale)
    q, k, v = normal(B, 2, L, D, seed=seed) * scale, normal(B, 2, S, D, seed=seed + 1) * scale, normal(B, 2, S, V, seed=seed + 2)
    w = normal(R, D, seed=seed + 3)
    if scale > 1 and D < 3:
        w = w / 4  # else the sum over features can underflow, whatever one factor does
    ours, theirs = linear.performer_attention(q, k, v, w, causal), attended(performer_weights(q, k, w), v, 0.0, causal)
    torch.testing.assert_close(ours, theirs)


def test_performer_nears_softmax_attention() -> None:
    """Within 0.02 with 65,536 features; errors fall about with the root of their number."""
    q, k, v = (normal(1, 2, 6, 4, seed=i, dtype=torch.float32) for i in range(3))
    q, k = q / 2, k / 2
    soft, errors = F.scaled_dot_product_attention(q, k, v), []
    for number in (64, 1024, 65536):
        tries = [linear.orthogonal_features(4, number, torch.Generator().manual_seed(seed)) for seed in range(4)]
        errors.append(torch.stack([linear.performer_attention(q, k, v, w) - soft for w in tries]).square().mean().sqrt().item())
    assert errors[0] > 2 * errors[1] > 6 * errors[2]
    assert errors[2] < 0.02


@pytest.mark.parametrize("D, R", [(1, 3), (3, 2), (3, 9), (5, 12), (16, 40)])
def test_blocks_are_orthogonal(D: int, R: int) -> None:
    w = linear.orthogonal_features(D, R, torch.Generator().manual_seed(R)).double()
    assert w.shape == (R, D)
    for block in w.split(D):
        gram = block @ block.mT
        torch.testing.assert_close(gram, torch.diag(gram.diagonal()), rtol=0, atol=1e-4)


def kolmogorov(samples: Tensor, distribution) -> float:
    """√n times the largest gap between the samples' distribution and the law: above 1.95 with probability 0.001."""
    n, law = len(samples), distribution(samples.sort().values.double())
    steps = torch.arange(n + 1) / n
    return math.sqrt(n) * max((law - steps[:-1]).max().item(), (steps[1:] - law).max().item())


@pytest.mark.parametrize("D", [1, 2, 4, 7])
def test_rows_have_the_law_of_normal_vectors(D: int) -> None:
    """Norms: chi-squared, by the incomplete gamma function. Coordinates: normal, for each row of the blocks; w as likely as -w."""
    w = linear.orthogonal_features(D, 4000 * D, torch.Generator().manual_seed(D)).view(4000, D, D)
    for row in range(D):
        assert kolmogorov(w[:, row].square().sum(-1), lambda x: torch.special.gammainc(torch.tensor(D / 2).double(), x / 2)) < 1.95
        for channel in (0, D - 1):
            assert kolmogorov(w[:, row, channel], torch.special.ndtr) < 1.95
    if D > 1:
        norms = w.norm(dim=-1)
        assert abs(torch.corrcoef(norms[:, :2].T)[0, 1].item()) < 5 / math.sqrt(4000)  # of rows of a block: independent


def test_orthogonal_features_err_less_than_independent_ones() -> None:
    """The variance of the estimate of exp(x·y), averaged over 300 draws, falls (Choromanski et al., theorem 2)."""
    x, y = normal(4, seed=1) / 2, normal(4, seed=2) / 2

    def error(features: Tensor) -> float:  # (draws, R, D)
        estimate = ((features @ (x + y)) - (x @ x + y @ y) / 2).exp().mean(-1)
        return (estimate - (x @ y).exp()).square().mean().item()

    generator = torch.Generator().manual_seed(0)
    ours = torch.stack([linear.orthogonal_features(4, 4, generator) for _ in range(2000)]).double()
    independent = torch.randn(2000, 4, 4, generator=generator).double()
    assert error(ours) < 0.9 * error(independent)
