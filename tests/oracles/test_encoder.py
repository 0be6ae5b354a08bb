"""Oracles of the encoder: PyTorch's own layers with the same weights, and a loop over single numbers."""

from __future__ import annotations

import math
import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rooms import solution
from torch import Tensor, nn

encoder = solution("encoder")
sizes = st.integers(1, 4)
seeds = st.integers(0, 999)


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def drawn(module: nn.Module, seed: int) -> nn.Module:
    """The module in float64 with weights that the seed gives."""
    module.double()
    with torch.no_grad():
        for i, parameter in enumerate(module.parameters()):
            parameter.copy_(normal(*parameter.shape, seed=seed + i))
    return module


def copy_block(ours: nn.Module, theirs: nn.Module) -> None:
    """Load our block's weights into an nn.TransformerEncoderLayer."""
    projections = [ours.self_attn.q_proj, ours.self_attn.k_proj, ours.self_attn.v_proj]
    theirs.load_state_dict(
        {
            "self_attn.in_proj_weight": torch.cat([p.weight for p in projections]),
            "self_attn.in_proj_bias": torch.cat([p.bias for p in projections]),
            "self_attn.out_proj.weight": ours.self_attn.out_proj.weight,
            "self_attn.out_proj.bias": ours.self_attn.out_proj.bias,
            "linear1.weight": ours.ff.up.weight,
            "linear1.bias": ours.ff.up.bias,
            "linear2.weight": ours.ff.down.weight,
            "linear2.bias": ours.ff.down.bias,
            **{f"{name}.{part}": getattr(getattr(ours, name), part) for name in ("norm1", "norm2") for part in ("weight", "bias")},
        }
    )


def pytorchs_block(ours: nn.Module, H: int, dropout: float = 0.0) -> nn.Module:
    M, hidden = ours.ff.down.weight.shape
    theirs = nn.TransformerEncoderLayer(M, H, hidden, dropout, batch_first=True, norm_first=ours.norm_first).double()
    copy_block(ours, theirs)
    return theirs


def pytorchs_stack(ours: nn.Module, H: int) -> nn.Module:
    first = ours.layers[0]
    norm = None
    if first.norm_first:
        norm = nn.LayerNorm(len(first.norm1.weight)).double()
        norm.load_state_dict(ours.norm.state_dict())
    theirs = nn.TransformerEncoder(pytorchs_block(first, H), len(ours.layers), norm, enable_nested_tensor=False)
    for mine, other in zip(ours.layers, theirs.layers, strict=True):
        copy_block(mine, other)
    return theirs


def outcome(module: nn.Module, x: Tensor, seed: int, **masks: Tensor) -> list[Tensor]:
    """The output and the gradient of x under a random upstream gradient."""
    x = x.clone().requires_grad_()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch's own layer warns of masks of two kinds
        out = module(x, **masks)
    return [out.detach(), *torch.autograd.grad((out * normal(*out.shape, seed=seed)).sum(), x)]


@given(B=sizes, L=sizes, H=sizes, D=sizes, hidden=sizes, norm_first=st.booleans(), seed=seeds)
@settings(max_examples=40, deadline=None)
def test_block_equals_pytorchs_with_a_causal_mask_or_none(B: int, L: int, H: int, D: int, hidden: int, norm_first: bool, seed: int) -> None:
    ours = drawn(encoder.EncoderBlock(H * D, H, hidden, norm_first=norm_first), seed)
    theirs, x = pytorchs_block(ours, H), normal(B, L, H * D, seed=seed)
    torch.testing.assert_close(outcome(ours, x, seed), outcome(theirs, x, seed))
    causal = torch.ones(L, L, dtype=torch.bool).tril()
    torch.testing.assert_close(outcome(ours, x, seed, mask=causal), outcome(theirs, x, seed, src_mask=~causal))


@given(N=st.integers(1, 3), B=sizes, L=sizes, H=sizes, D=sizes, norm_first=st.booleans(), seed=seeds)
@settings(max_examples=40, deadline=None)
def test_stack_equals_pytorchs_with_padding_and_a_causal_mask(N: int, B: int, L: int, H: int, D: int, norm_first: bool, seed: int) -> None:
    ours = drawn(encoder.Encoder(N, H * D, H, 5, norm_first=norm_first), seed)
    theirs, x = pytorchs_stack(ours, H), normal(B, L, H * D, seed=seed)
    lengths = torch.randint(1, L + 1, (B,), generator=torch.Generator().manual_seed(seed))
    keys, causal = torch.arange(L) < lengths[:, None], torch.ones(L, L, dtype=torch.bool).tril()
    torch.testing.assert_close(outcome(ours, x, seed), outcome(theirs, x, seed))
    found = outcome(ours, x, seed, mask=keys[:, None, None])
    torch.testing.assert_close(found, outcome(theirs, x, seed, src_key_padding_mask=~keys))
    found = outcome(ours, x, seed, mask=causal & keys[:, None])
    torch.testing.assert_close(found, outcome(theirs, x, seed, mask=~causal, src_key_padding_mask=~keys))


@given(B=sizes, L=sizes, H=sizes, seed=seeds)
@settings(max_examples=20, deadline=None)
def test_masks_per_sequence_and_per_head_equal_pytorchs(B: int, L: int, H: int, seed: int) -> None:
    ours = drawn(encoder.EncoderBlock(H * 2, H, 5), seed)
    theirs, x = pytorchs_block(ours, H), normal(B, L, H * 2, seed=seed)
    own = torch.rand(B, H, L, L, generator=torch.Generator().manual_seed(seed)) < 0.5
    own |= torch.eye(L, dtype=torch.bool)  # PyTorch gives NaN to a token that may attend to nothing
    torch.testing.assert_close(outcome(ours, x, seed, mask=own), outcome(theirs, x, seed, src_mask=~own.flatten(0, 1)))
    same = own[:, :1].expand(B, H, L, L)
    torch.testing.assert_close(outcome(ours, x, seed, mask=own[:, 0]), outcome(theirs, x, seed, src_mask=~same.flatten(0, 1)))


@pytest.mark.parametrize("norm_first", [True, False])
def test_block_equals_a_loop_over_single_numbers(norm_first: bool) -> None:
    """Also for a token that may attend to nothing, on which PyTorch's layer gives NaN."""
    L, H, D, hidden = 3, 2, 2, 5
    M = H * D
    block = drawn(encoder.EncoderBlock(M, H, hidden, norm_first=norm_first), 7)
    x, mask = normal(1, L, M, seed=1), torch.tensor([[True, False, True], [False, False, False], [True, True, True]])

    def linear(layer: nn.Module, token: list[float]) -> list[float]:
        rows = zip(layer.weight.tolist(), layer.bias.tolist(), strict=True)
        return [sum(w * t for w, t in zip(row, token, strict=True)) + b for row, b in rows]

    def norm(layer: nn.Module, token: list[float]) -> list[float]:
        mean = sum(token) / M
        root = math.sqrt(sum((t - mean) ** 2 for t in token) / M + 1e-5)
        return [(t - mean) / root * w + b for t, w, b in zip(token, layer.weight.tolist(), layer.bias.tolist(), strict=True)]

    def attention(tokens: list[list[float]]) -> list[list[float]]:
        q, k, v = ([linear(getattr(block.self_attn, f"{name}_proj"), t) for t in tokens] for name in "qkv")
        mixed = [[0.0] * M for _ in range(L)]
        for i in range(L):
            for h in range(H):
                channels = range(h * D, (h + 1) * D)
                powers = [math.exp(sum(q[i][c] * k[j][c] for c in channels) / math.sqrt(D)) if mask[i, j] else 0.0 for j in range(L)]
                for c in channels:
                    if sum(powers):
                        mixed[i][c] = sum(p * v[j][c] for j, p in enumerate(powers)) / sum(powers)
        return [linear(block.self_attn.out_proj, token) for token in mixed]

    def think(token: list[float]) -> list[float]:
        return linear(block.ff.down, [max(t, 0.0) for t in linear(block.ff.up, token)])

    def add(ones: list[float], others: list[float]) -> list[float]:
        return [one + other for one, other in zip(ones, others, strict=True)]

    tokens = x[0].tolist()
    if norm_first:
        tokens = list(map(add, tokens, attention([norm(block.norm1, t) for t in tokens])))
        tokens = [add(t, think(norm(block.norm2, t))) for t in tokens]
    else:
        tokens = [norm(block.norm1, t) for t in map(add, tokens, attention(tokens))]
        tokens = [norm(block.norm2, add(t, think(t))) for t in tokens]
    torch.testing.assert_close(block(x, mask)[0], torch.tensor(tokens, dtype=torch.float64))


@pytest.mark.parametrize("norm_first", [True, False])
def test_padded_sequence_has_finite_gradients(norm_first: bool) -> None:
    stack = drawn(encoder.Encoder(2, 4, 2, 5, norm_first=norm_first), 3)
    x = normal(2, 3, 4, seed=1).requires_grad_()
    keys = torch.tensor([[True, True, False], [False, False, False]])
    out = stack(x, keys[:, None, None])
    found = torch.autograd.grad((out * normal(*out.shape, seed=2)).sum(), [x, *stack.parameters()])
    assert all(g.isfinite().all() for g in [out, *found])
    torch.testing.assert_close(out[1, :1], stack(x[1:, :1], keys[1:, None, None, :1])[0])  # alone with itself, whatever stands beside it


@pytest.mark.parametrize("norm_first", [True, False])
def test_dropout_has_pytorchs_mean_and_spread(norm_first: bool) -> None:
    """Over many calls mean and spread of every number are PyTorch's: the same four places, each with its own chance."""
    ours = drawn(encoder.EncoderBlock(4, 2, 6, dropout=0.3, norm_first=norm_first), 5)
    theirs = pytorchs_block(ours, 2, dropout=0.3)
    x = normal(1, 3, 4, seed=1).expand(40_000, 3, 4)
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        one, other = ours(x), theirs(x)
    torch.testing.assert_close(one.mean(0), other.mean(0), rtol=0.05, atol=0.05)
    torch.testing.assert_close(one.std(0), other.std(0), rtol=0.05, atol=0.05)


def test_evaluation_equals_no_dropout() -> None:
    stack, x = drawn(encoder.Encoder(2, 4, 2, 5, dropout=0.5), 3), normal(2, 3, 4, seed=1)
    assert not torch.equal(stack(x), stack(x))
    torch.testing.assert_close(stack.eval()(x), drawn(encoder.Encoder(2, 4, 2, 5), 3)(x))


def test_parameters_are_pytorchs_in_number() -> None:
    for norm_first in (True, False):
        ours = encoder.Encoder(3, 8, 2, 20, norm_first=norm_first)
        count = sum(p.numel() for p in ours.parameters())
        assert count == sum(p.numel() for p in pytorchs_stack(ours.double(), 2).parameters())
        assert len(ours.state_dict()) == 3 * 16 + 2 * norm_first
