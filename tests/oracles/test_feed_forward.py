"""Oracles of feed_forward: PyTorch's own operators and layers, Φ from Python's library, a loop, published sizes."""

from __future__ import annotations

import math
from statistics import NormalDist

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from rooms import solution
from torch import Tensor, nn

feed_forward = solution("feed_forward")
sizes = st.integers(1, 6)
PAIRS = {
    "gelu": (feed_forward.gelu, F.gelu),
    "gelu, tanh": (lambda x: feed_forward.gelu(x, "tanh"), lambda x: F.gelu(x, approximate="tanh")),
    "silu": (feed_forward.silu, F.silu),
}


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("width", [1.0, 4.0, 1e2, 1e4])
def test_activation_equals_pytorchs_in_value_and_gradient(name: str, dtype: torch.dtype, width: float) -> None:
    outcomes = []
    for function in PAIRS[name]:
        x = torch.linspace(-width, width, 401, dtype=dtype).requires_grad_()
        out = function(x)
        outcomes.append([out, *torch.autograd.grad((out * normal(401).to(dtype)).sum(), x)])
    for ours, theirs in zip(*outcomes, strict=True):
        assert ours.dtype == dtype
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_activation_in_half_precision_is_close_to_pytorchs(name: str, dtype: torch.dtype) -> None:
    ours, theirs = (function(torch.linspace(-8, 8, 201).to(dtype)) for function in PAIRS[name])
    assert ours.dtype == dtype
    torch.testing.assert_close(ours, theirs, rtol=2e-2, atol=2e-2)


@given(x=st.floats(-30, 30))
def test_gelu_is_x_times_the_probability_of_being_below_x(x: float) -> None:
    ours = feed_forward.gelu(torch.tensor(x, dtype=torch.float64))
    assert math.isclose(float(ours), x * NormalDist().cdf(x), rel_tol=1e-6, abs_tol=1e-9)


@given(x=st.floats(-30, 30))
def test_gelu_and_silu_of_x_and_minus_x_differ_by_x(x: float) -> None:
    """f(x) - f(-x) = x · (Φ(x) + Φ(-x)) = x, and likewise for σ: an identity of all three."""
    number = torch.tensor(x, dtype=torch.float64)
    for function, _ in PAIRS.values():
        torch.testing.assert_close(function(number) - function(-number), number)


def test_the_two_forms_of_gelu_are_as_far_apart_as_the_docstring_says() -> None:
    x = torch.linspace(-6, 6, 12001, dtype=torch.float64)
    apart = (feed_forward.gelu(x) - feed_forward.gelu(x, "tanh")).abs()
    assert 4e-4 < float(apart.max()) < 5e-4
    assert abs(float(x[apart.argmax()])) == pytest.approx(2.7, abs=0.01)


@pytest.mark.parametrize("name", ["", "Tanh", "erf"])
def test_other_names_are_refused(name: str) -> None:
    with pytest.raises(ValueError):
        feed_forward.gelu(normal(2), name)
    with pytest.raises(ValueError):
        feed_forward.FeedForward(2, 3, activation=name)


@given(L=sizes, M=sizes, hidden=sizes, name=st.sampled_from(["relu", "gelu"]), seed=st.integers(0, 99))
@settings(max_examples=30, deadline=None)
def test_feed_forward_equals_pytorchs_sequence(L: int, M: int, hidden: int, name: str, seed: int) -> None:
    network = feed_forward.FeedForward(M, hidden, activation=name).double()
    wanted = nn.Sequential(nn.Linear(M, hidden), nn.ReLU() if name == "relu" else nn.GELU(), nn.Linear(hidden, M)).double()
    wanted.load_state_dict(dict(zip(wanted.state_dict(), [normal(*p.shape, seed=seed) for p in wanted.parameters()], strict=True)))
    network.up.load_state_dict(wanted[0].state_dict())
    network.down.load_state_dict(wanted[2].state_dict())
    outcomes = []
    for module in (network, wanted):
        x = normal(2, L, M, seed=seed + 1).requires_grad_()
        out = module(x)
        outcomes.append([out, *torch.autograd.grad((out * normal(2, L, M, seed=seed + 2)).sum(), [x, *module.parameters()])])
    for ours, theirs in zip(*outcomes, strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("name", ["relu", "gelu"])
def test_feed_forward_is_that_of_pytorchs_encoder_layer(name: str) -> None:
    """In training, dropout included: under the same seed the same numbers are dropped."""
    layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.3, activation=name)
    network = feed_forward.FeedForward(8, 16, dropout=0.3, activation=name)
    network.up.load_state_dict(layer.linear1.state_dict())
    network.down.load_state_dict(layer.linear2.state_dict())
    layer.dropout2 = nn.Identity()  # belongs to the block, not to the network
    x = normal(2, 5, 8).float()
    with torch.random.fork_rng():
        torch.manual_seed(1)
        wanted = layer._ff_block(x)
        torch.manual_seed(1)
        torch.testing.assert_close(network(x), wanted)
    network.eval(), layer.eval()
    torch.testing.assert_close(network(x), layer._ff_block(x))


def test_swiglu_equals_a_loop() -> None:
    network = feed_forward.SwiGLU(3, 5).double()
    x = normal(4, 3)
    gate, up, down = (linear.weight.tolist() for linear in (network.gate, network.up, network.down))
    for token, out in zip(x.tolist(), network(x).tolist(), strict=True):
        for m in range(3):
            wanted = 0.0
            for k in range(5):
                g = sum(gate[k][i] * token[i] for i in range(3))
                u = sum(up[k][i] * token[i] for i in range(3))
                wanted += down[m][k] * g / (1 + math.exp(-g)) * u
            assert math.isclose(out[m], wanted, rel_tol=1e-9)


def test_swiglu_has_no_more_weights_than_a_classic_network() -> None:
    M = 96
    gated = feed_forward.SwiGLU(M, feed_forward.swiglu_hidden(M, multiple_of=8))
    classic = feed_forward.FeedForward(M, 4 * M)
    assert sum(p.numel() for p in gated.parameters()) == classic.up.weight.numel() + classic.down.weight.numel()


@pytest.mark.parametrize("d_model, hidden", [(4096, 11008), (5120, 13824), (6656, 17920), (8192, 22016)])
def test_swiglu_hidden_is_llamas(d_model: int, hidden: int) -> None:
    """The intermediate sizes of LLaMA 7B, 13B, 33B and 65B."""
    assert feed_forward.swiglu_hidden(d_model) == hidden


@given(d_model=st.integers(1, 20000), multiple_of=st.integers(1, 128).map(lambda n: 8 * n))
def test_swiglu_hidden_is_the_smallest_multiple(d_model: int, multiple_of: int) -> None:
    size = feed_forward.swiglu_hidden(d_model, multiple_of)
    assert type(size) is int and size % multiple_of == 0
    assert 3 * (size - multiple_of) < 8 * d_model <= 3 * size
