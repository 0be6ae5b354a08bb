"""Oracles of positional encoding: Python's math module, identities of the paper, PyTorch's own embedding and dropout."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from rooms import solution
from torch import nn

positional = solution("positional_encoding")
sizes = st.integers(1, 9)


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


@given(length=sizes, d_model=sizes, base=st.sampled_from([10.0, 1000.0, 10000.0, 5e5]))
@settings(max_examples=60, deadline=None)
def test_table_equals_a_loop(length: int, d_model: int, base: float) -> None:
    wanted = torch.empty(length, d_model, dtype=torch.float64)
    for p in range(length):
        for i in range(d_model):
            angle = p / math.pow(base, (i - i % 2) / d_model)
            wanted[p, i] = math.cos(angle) if i % 2 else math.sin(angle)
    table = positional.sinusoidal_positions(length, d_model, base)
    torch.testing.assert_close(table.double(), wanted, atol=1e-5, rtol=0)


@pytest.mark.parametrize("d_model", [1, 2, 7, 64, 512])
def test_table_is_exact_at_far_positions(d_model: int) -> None:
    angle = torch.arange(5000, dtype=torch.float64)[:, None] / 1e4 ** (torch.arange(0, d_model, 2, dtype=torch.float64) / d_model)
    table = positional.sinusoidal_positions(5000, d_model).double()
    torch.testing.assert_close(table[:, 0::2], angle.sin(), atol=5e-4, rtol=0)
    torch.testing.assert_close(table[:, 1::2], angle.cos()[:, : d_model // 2], atol=5e-4, rtol=0)


def test_a_shift_is_a_rotation_of_every_pair() -> None:
    """The paper's reason for sinusoids: PE(p + k) is a linear function of PE(p), the same for all p."""
    pairs = positional.sinusoidal_positions(40, 16).double().unflatten(-1, (-1, 2))
    for k in (1, 5, 20):
        sine, cosine = pairs[k, :, 0], pairs[k, :, 1]
        turned = torch.stack([pairs[..., 0] * cosine + pairs[..., 1] * sine, pairs[..., 1] * cosine - pairs[..., 0] * sine], -1)
        torch.testing.assert_close(turned[:-k], pairs[k:], atol=1e-5, rtol=0)


def test_rows_depend_on_distance_only_and_have_one_length() -> None:
    table = positional.sinusoidal_positions(30, 12).double()
    products = table @ table.T
    for k in range(30):
        diagonal = products.diagonal(k)
        torch.testing.assert_close(diagonal, diagonal[:1].expand_as(diagonal), atol=1e-5, rtol=0)
    assert products[0, 0] == pytest.approx(6)


@given(V=sizes, M=sizes, seed=st.integers(0, 99))
@settings(max_examples=30, deadline=None)
def test_token_embedding_equals_pytorchs_in_value_and_gradient(V: int, M: int, seed: int) -> None:
    ids = torch.randint(V, (2, 5), generator=torch.Generator().manual_seed(seed))
    ours, theirs = positional.TokenEmbedding(V, M).double(), nn.Embedding(V, M).double()
    theirs.load_state_dict(ours.state_dict())
    upstream = normal(2, 5, M, seed=seed)
    torch.testing.assert_close(ours(ids), theirs(ids) * M**0.5)
    (ours(ids) * upstream).sum().backward()
    (theirs(ids) * upstream).sum().backward()
    torch.testing.assert_close(ours.weight.grad, theirs.weight.grad * M**0.5)


@pytest.mark.parametrize("unknown", [-1, -100, 6, 1000])
def test_unknown_ids_are_refused(unknown: int) -> None:
    with pytest.raises(IndexError):
        positional.TokenEmbedding(6, 4)(torch.tensor([[0, 5], [unknown, 2]]))


@given(start=st.integers(0, 6), L=sizes, more=st.integers(0, 3), seed=st.integers(0, 99))
@settings(max_examples=30, deadline=None)
def test_learned_positions_equal_an_embedding_of_positions(start: int, L: int, more: int, seed: int) -> None:
    module = positional.LearnedPositions(start + L + more, 3).double()
    x = normal(2, L, 3, seed=seed).requires_grad_()
    weight = module.weight.detach().clone().requires_grad_()
    positions = torch.arange(start, start + L).expand(2, L)
    upstream = normal(2, L, 3, seed=seed + 1)
    out, wanted = module(x, start), x + F.embedding(positions, weight)
    torch.testing.assert_close(out, wanted)
    got = torch.autograd.grad((out * upstream).sum(), [x, module.weight])
    for ours, theirs in zip(got, torch.autograd.grad((wanted * upstream).sum(), [x, weight])):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("kind", ["learned", "sinusoidal"])
@given(start=st.integers(0, 8), L=st.integers(1, 8))
@settings(max_examples=40, deadline=None)
def test_positions_end_at_max_len(kind: str, start: int, L: int) -> None:
    module = positional.LearnedPositions(6, 2) if kind == "learned" else positional.SinusoidalPositions(2, max_len=6)
    x = torch.zeros(1, L, 2)
    if start + L <= 6:
        assert module(x, start).shape == x.shape
    else:
        with pytest.raises(ValueError, match=rf"\b{start + L}\b.*\b6\b"):
            module(x, start)


@pytest.mark.parametrize("kind", ["learned", "sinusoidal"])
def test_decoding_step_by_step_equals_one_pass(kind: str) -> None:
    module = positional.LearnedPositions(7, 5) if kind == "learned" else positional.SinusoidalPositions(5, max_len=7)
    x = normal(2, 7, 5, dtype=torch.float32)
    whole = module(x)
    for start, end in [(0, 3), (3, 4), (4, 7)]:
        torch.testing.assert_close(module(x[:, start:end], start), whole[:, start:end])


def test_sinusoids_are_the_table_and_keep_the_dtype() -> None:
    for dtype in (torch.float32, torch.float64):
        x = normal(2, 4, 6, dtype=dtype)
        out = positional.SinusoidalPositions(6)(x, start=3)
        assert out.dtype == dtype
        torch.testing.assert_close(out, x + positional.sinusoidal_positions(9, 6)[3:7].to(dtype))


def test_table_is_a_buffer_that_is_not_saved() -> None:
    module = positional.SinusoidalPositions(4, max_len=9)
    assert [buffer.shape for buffer in module.buffers()] == [(9, 4)]
    assert not list(module.parameters())
    assert not module.state_dict()


def test_dropout_equals_pytorchs_on_the_sum() -> None:
    module = positional.SinusoidalPositions(6, dropout=0.4)
    x = normal(3, 5, 6, dtype=torch.float32)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        out = module(x)
        torch.manual_seed(1)
        torch.testing.assert_close(out, F.dropout(module.eval()(x), 0.4, training=True))
    torch.testing.assert_close(module(x), x + positional.sinusoidal_positions(5, 6))


def test_tokens_and_positions_are_of_one_magnitude() -> None:
    """With √M, scaled and unscaled: rows of variance 1 / M become as large as the sinusoids, whose mean square is 1 / 2."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        embedded = positional.TokenEmbedding(500, 64)(torch.arange(500)[None])
    assert embedded.square().mean().item() == pytest.approx(1.0, abs=0.05)
