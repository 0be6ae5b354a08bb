"""Oracles of the decoder: PyTorch's own decoder, and a loop."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from rooms import solution
from torch import Tensor, nn

decoder = solution("decoder")
sizes = st.integers(1, 4)
seeds = st.integers(0, 999)
NAMES = {"ff.up": "linear1", "ff.down": "linear2"} | {name: name for name in ("norm1", "norm2", "norm3")}


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def drawn(module: nn.Module, seed: int) -> nn.Module:
    """The module in float64 with weights that are all different, norms and biases included."""
    for number, parameter in enumerate(module.double().parameters()):
        parameter.data = normal(*parameter.shape, seed=seed + 31 * number) / parameter.shape[-1] ** 0.5
    return module


def pytorchs(block: nn.Module, d_model: int, num_heads: int, d_hidden: int, norm_first: bool) -> nn.TransformerDecoderLayer:
    """PyTorch's layer with a block's weights."""
    layer = nn.TransformerDecoderLayer(d_model, num_heads, d_hidden, dropout=0.0, batch_first=True, norm_first=norm_first).double()
    own = block.state_dict()
    theirs = {f"{NAMES[part]}.{kind}": own[f"{part}.{kind}"] for part in NAMES for kind in ("weight", "bias")}
    for part, name in (("self_attn", "self_attn"), ("cross_attn", "multihead_attn")):
        for kind in ("weight", "bias"):
            theirs[f"{name}.in_proj_{kind}"] = torch.cat([own[f"{part}.{p}_proj.{kind}"] for p in "qkv"])
            theirs[f"{name}.out_proj.{kind}"] = own[f"{part}.out_proj.{kind}"]
    layer.load_state_dict(theirs)
    return layer


def outcomes(module: nn.Module, x: Tensor, memory: Tensor, *args: Tensor, **kwargs: Tensor) -> list[Tensor]:
    """Result and gradients with respect to x and memory."""
    x, memory = x.clone().requires_grad_(), memory.clone().requires_grad_()
    out = module(x, memory, *args, **kwargs)
    return [out, *torch.autograd.grad((out * normal(*out.shape, seed=5)).sum(), [x, memory])]


@given(B=sizes, L=sizes, S=sizes, H=sizes, D=sizes, N=sizes, layers=st.integers(1, 3), norm_first=st.booleans(), seed=seeds)
@settings(max_examples=25, deadline=None)
def test_equals_pytorchs_decoder_with_padding_in_value_and_gradient(
    B: int, L: int, S: int, H: int, D: int, N: int, layers: int, norm_first: bool, seed: int
) -> None:
    M = H * D
    own = drawn(decoder.Decoder(layers, M, H, N, norm_first=norm_first), seed)
    theirs = nn.TransformerDecoder(pytorchs(own.layers[0], M, H, N, norm_first), layers)
    theirs.layers = nn.ModuleList(pytorchs(block, M, H, N, norm_first) for block in own.layers)
    theirs.norm = own.norm if norm_first else None
    x, memory = normal(B, L, M, seed=seed + 1), normal(B, S, M, seed=seed + 2)
    lengths = torch.randint(1, L + 1, (B,), generator=torch.Generator().manual_seed(seed))
    padded = torch.arange(L) >= lengths[:, None]  # True is blocked, as PyTorch has it
    memory_padded = torch.rand(B, S, generator=torch.Generator().manual_seed(seed)) < 0.4
    memory_padded[:, -1] = False
    wanted = outcomes(
        theirs,
        x,
        memory,
        tgt_mask=torch.ones(L, L, dtype=torch.bool).triu(1),
        tgt_key_padding_mask=padded,
        memory_key_padding_mask=memory_padded,
    )
    got = outcomes(own, x, memory, ~padded[:, None, None], ~memory_padded[:, None, None])
    for ours, other in zip(got, wanted, strict=True):
        torch.testing.assert_close(ours, other)


@pytest.mark.parametrize("norm_first", [True, False])
@pytest.mark.parametrize("num_heads", [1, 3])
def test_block_equals_pytorchs_layer_with_masks_of_their_own(norm_first: bool, num_heads: int) -> None:
    block = drawn(decoder.DecoderBlock(6, num_heads, 5, norm_first=norm_first), seed=num_heads)
    layer = pytorchs(block, 6, num_heads, 5, norm_first)
    x, memory = normal(2, 4, 6, seed=1), normal(2, 7, 6, seed=2)
    mask = (normal(4, 4, seed=3) > 0) | torch.eye(4, dtype=torch.bool)
    memory_mask = normal(2, 4, 7, seed=4) > -0.5
    causal = torch.ones(4, 4, dtype=torch.bool).tril()
    wanted = layer(x, memory, tgt_mask=~(mask & causal), memory_mask=~memory_mask.repeat_interleave(num_heads, 0))
    torch.testing.assert_close(block(x, memory, mask, memory_mask), wanted)


def attention_loop(attention: nn.Module, x: Tensor, source: Tensor, allowed: Tensor, num_heads: int) -> Tensor:
    """Multi-head attention of one sequence, one head and one query at a time."""
    q, k, v = attention.q_proj(x), attention.k_proj(source), attention.v_proj(source)
    D = x.shape[-1] // num_heads
    out = torch.zeros_like(x)
    for h in range(num_heads):
        own = slice(h * D, (h + 1) * D)
        for i in range(len(x)):
            keys = [j for j in range(len(source)) if allowed[h, i, j]]
            powers = [math.exp(float(q[i, own] @ k[j, own]) / math.sqrt(D)) for j in keys]
            for j, power in zip(keys, powers, strict=True):
                out[i, own] += power / sum(powers) * v[j, own]
    return attention.out_proj(out)


@torch.no_grad()
@given(L=sizes, S=sizes, H=sizes, D=st.integers(2, 3), norm_first=st.booleans(), seed=seeds)
@settings(max_examples=20, deadline=None)
def test_block_equals_a_loop_with_and_without_keys(L: int, S: int, H: int, D: int, norm_first: bool, seed: int) -> None:
    block = drawn(decoder.DecoderBlock(H * D, H, 3, norm_first=norm_first), seed)
    x, memory = normal(L, H * D, seed=seed + 1), normal(S, H * D, seed=seed + 2)
    mask, memory_mask = normal(H, L, L, seed=seed + 3) > 0, normal(H, L, S, seed=seed + 4) > 0
    got = block(x[None], memory[None], mask[None], memory_mask[None])[0]
    sub_layers = [
        (block.norm1, lambda y: attention_loop(block.self_attn, y, y, mask.tril(), H)),
        (block.norm2, lambda y: attention_loop(block.cross_attn, y, memory, memory_mask, H)),
        (block.norm3, lambda y: block.ff.down(block.ff.up(y).clamp(min=0))),
    ]
    for norm, sub_layer in sub_layers:
        x = x + sub_layer(norm(x)) if norm_first else norm(x + sub_layer(x))
    torch.testing.assert_close(got, x)


@pytest.mark.parametrize("norm_first", [True, False])
def test_no_future_token_has_a_gradient(norm_first: bool) -> None:
    model = drawn(decoder.Decoder(2, 6, 3, 5, norm_first=norm_first), seed=1)
    x, memory = normal(1, 4, 6, seed=2), normal(1, 3, 6, seed=3)
    jacobian = torch.autograd.functional.jacobian(lambda x: model(x, memory, torch.ones(4, 4, dtype=torch.bool)), x)
    reached = jacobian[0, :, :, 0].abs().amax((1, 3)) > 1e-12
    assert torch.equal(reached, torch.ones(4, 4, dtype=torch.bool).tril())


def test_gradients_are_finite_without_keys_and_none_reaches_what_is_blocked() -> None:
    block = drawn(decoder.DecoderBlock(6, 3, 5), seed=1)
    mask, memory_mask = torch.tensor([False, True, True]).expand(3, 3), torch.zeros(3, 4, dtype=torch.bool)
    out, dx, dmemory = outcomes(block, normal(2, 3, 6, seed=1), normal(2, 4, 6, seed=2), mask, memory_mask)
    assert out.isfinite().all()
    assert dx.isfinite().all()
    assert (dmemory == 0).all()


def test_dropout_falls_on_weights_hidden_channels_and_sub_layers() -> None:
    """In training the mean over many draws of a block that is linear in what is dropped is its value in evaluation."""
    torch.manual_seed(0)
    block = drawn(decoder.DecoderBlock(4, 2, 3, dropout=0.3), seed=1)
    with torch.no_grad():
        for name in ("self_attn.out_proj", "cross_attn.out_proj"):  # leaves the feed-forward network
            block.get_submodule(name).weight.zero_()
            block.get_submodule(name).bias.zero_()
        x, memory = normal(1, 2, 4, seed=1), normal(1, 3, 4, seed=2)
        draws = block(x.expand(40_000, -1, -1), memory.expand(40_000, -1, -1))
    torch.testing.assert_close(draws.mean(0, keepdim=True), block.eval()(x, memory), atol=0.03, rtol=0)
    assert (draws == x).any(-1).double().mean() > 0.3  # a dropped channel of a sub-layer leaves x


def test_evaluation_is_without_dropout() -> None:
    model = drawn(decoder.Decoder(2, 6, 3, 5, dropout=0.9), seed=1).eval()
    plain = drawn(decoder.Decoder(2, 6, 3, 5), seed=1)
    x, memory = normal(1, 4, 6, seed=2), normal(1, 3, 6, seed=3)
    assert torch.equal(model(x, memory), plain(x, memory))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_low_precision_is_near_the_exact_value(dtype: torch.dtype) -> None:
    model = drawn(decoder.Decoder(2, 8, 2, 5), seed=1)
    x, memory = normal(2, 4, 8, seed=2), normal(2, 3, 8, seed=3)
    exact = model(x, memory)
    low = model.to(dtype)(x.to(dtype), memory.to(dtype))
    assert low.dtype == dtype
    assert (low - exact).abs().max() < 30 * torch.finfo(dtype).eps * exact.abs().max()


def test_norm_is_layer_norm() -> None:
    """The final norm on small inputs, where its epsilon shows."""
    model = drawn(decoder.Decoder(1, 6, 2, 5), seed=1)
    with torch.no_grad():
        for name, parameter in model.layers[0].named_parameters():
            if "out_proj" in name or "down" in name:
                parameter.zero_()
    x = normal(1, 2, 6, seed=2) * 1e-3
    wanted = F.layer_norm(x, (6,), model.norm.weight, model.norm.bias, 1e-5)
    torch.testing.assert_close(model(x, normal(1, 3, 6, seed=3)), wanted)
