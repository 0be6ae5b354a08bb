"""Oracles of normalisation: PyTorch's own operators and modules, autograd, finite differences, and numbers worked out by hand."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from rooms import solution
from torch import nn

normalization = solution("normalization")
sizes = st.integers(1, 6)
shapes = st.lists(sizes, min_size=1, max_size=4)
epsilons = st.sampled_from([1e-6, 1e-5, 0.1])


def normal(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def with_gradients(operator, *tensors: torch.Tensor, seed: int) -> list[torch.Tensor]:
    """The operator's result and the gradients of its arguments under a random upstream gradient."""
    leaves = [tensor.clone().requires_grad_() for tensor in tensors]
    out = operator(*leaves)
    return [out, *torch.autograd.grad((out * normal(*out.shape, seed=seed)).sum(), leaves)]


@given(shape=shapes, eps=epsilons, scale=st.sampled_from([1e-3, 1.0, 1e3]), mean=st.sampled_from([0.0, 100.0]), seed=st.integers(0, 999))
@settings(max_examples=60, deadline=None)
def test_layer_norm_equals_pytorchs_in_value_and_gradient(shape: list[int], eps: float, scale: float, mean: float, seed: int) -> None:
    x, weight, bias = normal(*shape, seed=seed) * scale + mean, normal(shape[-1], seed=seed + 1), normal(shape[-1], seed=seed + 2)
    ours = with_gradients(lambda x, w, b: normalization.layer_norm(x, w, b, eps), x, weight, bias, seed=seed)
    theirs = with_gradients(lambda x, w, b: F.layer_norm(x, shape[-1:], w, b, eps), x, weight, bias, seed=seed)
    for our, their in zip(ours, theirs):
        torch.testing.assert_close(our, their, rtol=1e-6, atol=1e-8)


@given(shape=shapes, eps=epsilons, scale=st.sampled_from([1e-3, 1.0, 1e3]), seed=st.integers(0, 999))
@settings(max_examples=60, deadline=None)
def test_rms_norm_equals_pytorchs_in_value_and_gradient(shape: list[int], eps: float, scale: float, seed: int) -> None:
    x, weight = normal(*shape, seed=seed) * scale, normal(shape[-1], seed=seed + 1)
    ours = with_gradients(lambda x, w: normalization.rms_norm(x, w, eps), x, weight, seed=seed)
    theirs = with_gradients(lambda x, w: F.rms_norm(x, shape[-1:], w, eps), x, weight, seed=seed)
    for our, their in zip(ours, theirs):
        torch.testing.assert_close(our, their)


@given(shape=shapes, eps=epsilons, scale=st.sampled_from([1e-3, 1.0, 1e3]), seed=st.integers(0, 999))
@settings(max_examples=60, deadline=None)
def test_backward_equals_autograd_through_pytorchs_operator(shape: list[int], eps: float, scale: float, seed: int) -> None:
    x, weight, bias = normal(*shape, seed=seed) * scale, normal(shape[-1], seed=seed + 1), normal(shape[-1], seed=seed + 2)
    _, *wanted = with_gradients(lambda x, w, b: F.layer_norm(x, shape[-1:], w, b, eps), x, weight, bias, seed=seed)
    for our, their in zip(normalization.layer_norm_backward(normal(*shape, seed=seed), x, weight, eps), wanted):
        torch.testing.assert_close(our, their, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("shape", [(5,), (3, 4), (2, 1, 3)])
def test_backward_equals_finite_differences(shape: tuple[int, ...]) -> None:
    x, weight, bias, grad_out = normal(*shape, seed=1), normal(shape[-1], seed=2), normal(shape[-1], seed=3), normal(*shape, seed=4)
    arguments = [x, weight, bias]
    step = 1e-6
    for which, gradient in enumerate(normalization.layer_norm_backward(grad_out, x, weight)):
        for place in range(arguments[which].numel()):
            losses = []
            for sign in (1, -1):
                moved = [argument.clone() for argument in arguments]
                moved[which].view(-1)[place] += sign * step
                losses.append((F.layer_norm(moved[0], shape[-1:], moved[1], moved[2]) * grad_out).sum())
            slope = (losses[0] - losses[1]) / (2 * step)
            assert slope.item() == pytest.approx(gradient.reshape(-1)[place].item(), rel=1e-5, abs=1e-7)


def test_numbers_worked_out_by_hand() -> None:
    """Row 2, 4, 4, 6: mean 4, variance 2, mean square 18."""
    x, weight, bias = torch.tensor([2.0, 4.0, 4.0, 6.0]), torch.tensor([1.0, 1.0, 1.0, 3.0]), torch.tensor([0.0, 5.0, 0.0, 0.0])
    root = 2**0.5
    torch.testing.assert_close(normalization.layer_norm(x, weight, bias, 0.0), torch.tensor([-root, 5.0, 0.0, 3 * root]))
    torch.testing.assert_close(normalization.rms_norm(x, weight, 0.0), torch.tensor([2.0, 4.0, 4.0, 18.0]) / 18**0.5)
    torch.testing.assert_close(normalization.layer_norm(torch.full((4,), 7.0), weight, bias), bias)


def test_rms_norm_is_layer_norm_where_the_mean_is_zero() -> None:
    """Zhang and Sennrich, section 4."""
    x = normal(3, 5, seed=1)
    x -= x.mean(-1, keepdim=True)
    weight = normal(5, seed=2)
    torch.testing.assert_close(normalization.rms_norm(x, weight, 1e-5), normalization.layer_norm(x, weight, torch.zeros(5)))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_as_good_as_pytorchs(dtype: torch.dtype) -> None:
    x, weight, bias, grad_out = (normal(7, 16, seed=1) * 300).to(dtype), normal(16, seed=2), normal(16, seed=3), normal(7, 16, seed=4)
    low = [t.to(dtype) for t in (weight, bias, grad_out)]
    exact = F.layer_norm(x.double(), [16], low[0].double(), low[1].double())
    error = (normalization.layer_norm(x, *low[:2]) - exact).abs().max()
    assert error <= 2 * (F.layer_norm(x, [16], *low[:2]) - exact).abs().max()
    wanted = normalization.layer_norm_backward(low[2].double(), x.double(), low[0].double())
    for ours, theirs in zip(normalization.layer_norm_backward(low[2], x, low[0]), wanted):
        torch.testing.assert_close(ours.double(), theirs, rtol=torch.finfo(dtype).eps, atol=1e-6)


def test_modules_equal_pytorchs() -> None:
    x = normal(2, 3, 4, seed=1).float()
    torch.testing.assert_close(normalization.LayerNorm(4)(x), nn.LayerNorm(4)(x))
    torch.testing.assert_close(normalization.RMSNorm(4)(x), nn.RMSNorm(4, eps=1e-6)(x))


@pytest.mark.parametrize("norm_first", [True, False])
def test_residual_equals_the_block_of_pytorchs_encoder_layer(norm_first: bool) -> None:
    """Its feed-forward half, once its attention gives zero and its first norm leaves rows of mean 0 and variance 1 alone."""
    layer = nn.TransformerEncoderLayer(4, 1, 8, dropout=0.0, norm_first=norm_first, batch_first=True, dtype=torch.float64)
    with torch.no_grad():
        layer.self_attn.out_proj.weight.zero_()
        layer.self_attn.out_proj.bias.zero_()
        layer.norm2.weight.copy_(normal(4, seed=5))
    block = normalization.Residual(nn.Sequential(layer.linear1, nn.ReLU(), layer.linear2), 4, norm_first).double()
    block.norm.load_state_dict(layer.norm2.state_dict())
    x = normal(2, 3, 4, seed=1)
    wanted = layer(x)
    torch.testing.assert_close(block(x if norm_first else layer.norm1(x)), wanted)
    block = normalization.Residual(nn.Sequential(block.sublayer, nn.Dropout(1.0)), 4, norm_first).double()
    torch.testing.assert_close(block(x), x if norm_first else nn.LayerNorm(4).double()(x))


def test_dropout_keeps_the_mean() -> None:
    block = normalization.Residual(nn.Identity(), 4, dropout=0.25).double()
    x = normal(4, seed=1)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        mean = block(x.expand(40_000, 4)).mean(0)
    torch.testing.assert_close(mean, block.eval()(x), atol=0.03, rtol=0)
