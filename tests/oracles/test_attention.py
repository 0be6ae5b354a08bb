"""Oracles of attention: PyTorch's own operators, and a loop."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from rooms import solution

attention = solution("attention")
sizes = st.integers(1, 6)


def normal(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@given(B=sizes, L=sizes, S=sizes, dim=st.integers(-3, 2), scale=st.sampled_from([1.0, 1e4]), seed=st.integers(0, 999))
@settings(max_examples=50, deadline=None)
def test_softmax_equals_pytorchs(B: int, L: int, S: int, dim: int, scale: float, seed: int) -> None:
    x = normal(B, L, S, seed=seed) * scale
    torch.testing.assert_close(attention.softmax(x, dim), F.softmax(x, dim))
    torch.testing.assert_close(attention.softmax(x.float(), dim), F.softmax(x.float(), dim), atol=1e-5, rtol=0)


@given(B=sizes, L=sizes, S=sizes, D=sizes, seed=st.integers(0, 999), share=st.sampled_from([0.2, 0.5, 0.9]))
@settings(max_examples=50, deadline=None)
def test_attention_equals_pytorchs_in_value_and_gradient(B: int, L: int, S: int, D: int, seed: int, share: float) -> None:
    tensors = [normal(*shape, seed=seed + i) for i, shape in enumerate([(B, 2, L, D), (B, 2, S, D), (B, 2, S, D + 1)])]
    mask = torch.rand(B, 1, L, S, generator=torch.Generator().manual_seed(seed)) < share
    mask[..., 0] |= ~mask.any(-1)  # PyTorch's gradient is only fixed for rows with a key
    outcomes = []
    for operator in (attention.scaled_dot_product_attention, F.scaled_dot_product_attention):
        q, k, v = (t.clone().requires_grad_() for t in tensors)
        out = operator(q, k, v, mask)
        upstream = normal(*out.shape, seed=seed + 9)
        outcomes.append([out, *torch.autograd.grad((out * upstream).sum(), [q, k, v])])
    for ours, theirs in zip(*outcomes, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_weights_equal_a_loop() -> None:
    q, k = normal(3, 4, seed=1), normal(5, 4, seed=2)
    mask = torch.rand(3, 5, generator=torch.Generator().manual_seed(3)) < 0.5
    mask[1] = False
    wanted = torch.zeros(3, 5, dtype=torch.float64)
    for i in range(3):
        powers = [math.exp(float(q[i] @ k[j]) / 2) if mask[i, j] else 0.0 for j in range(5)]
        for j in range(5):
            wanted[i, j] = powers[j] / sum(powers) if sum(powers) else 0.0
    torch.testing.assert_close(attention.attention_weights(q, k, mask), wanted)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_as_good_as_pytorchs(dtype: torch.dtype) -> None:
    q, k, v = (normal(2, 7, 16, seed=seed) for seed in range(3))
    exact = F.scaled_dot_product_attention(q, k, v)
    low = [t.to(dtype) for t in (q, k, v)]
    error = (attention.scaled_dot_product_attention(*low) - exact).abs().max()
    assert error <= 2 * (F.scaled_dot_product_attention(*low) - exact).abs().max() + 1e-3


def test_row_without_keys_has_zero_values_and_finite_gradients() -> None:
    q, k, v = (normal(2, 3, 4, seed=seed).requires_grad_() for seed in range(3))
    mask = torch.tensor([[True, False, True], [False, False, False], [True, True, True]])
    out = attention.scaled_dot_product_attention(q, k, v, mask)
    assert (out[:, 1] == 0).all()
    gradients = torch.autograd.grad((out * normal(2, 3, 4, seed=9)).sum(), [q, k, v])
    assert all(g.isfinite().all() for g in gradients)
    assert (gradients[0][:, 1] == 0).all()
