"""Oracles of mla: Hugging Face's DeepSeek-V2 and V3, multi-head attention with everything made out, and counting by hand."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from rooms import solution
from torch import Tensor, nn
from transformers import DeepseekV2Config, DeepseekV3Config, DynamicCache
from transformers.models.deepseek_v2.modeling_deepseek_v2 import DeepseekV2Attention, DeepseekV2RotaryEmbedding
from transformers.models.deepseek_v3.modeling_deepseek_v3 import DeepseekV3Attention, DeepseekV3RotaryEmbedding

from kata.costs import CostMode

mla = solution("mla")
sizes = st.integers(1, 4)
seeds = st.integers(0, 999)


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def layer_of(M: int, H: int, D: int, C: int, R: int, seed: int, dtype: torch.dtype = torch.float64) -> nn.Module:
    layer = mla.LatentAttention(M, H, D, C, R).to(dtype)
    with torch.no_grad():
        for number, (name, p) in enumerate(layer.named_parameters()):
            p.copy_(normal(*p.shape, seed=seed * 10 + number) / (1 if name.startswith("kv_norm") else p.shape[-1] ** 0.5))
    return layer


def deepseek(version: int, layer: nn.Module, M: int, H: int, D: int, C: int, R: int) -> tuple[nn.Module, nn.Module]:
    """Their layer with the weights of ours, and their rotations."""
    Config, Attention, Rotary = {
        2: (DeepseekV2Config, DeepseekV2Attention, DeepseekV2RotaryEmbedding),
        3: (DeepseekV3Config, DeepseekV3Attention, DeepseekV3RotaryEmbedding),
    }[version]
    config = Config(
        hidden_size=M,
        num_attention_heads=H,
        num_key_value_heads=H,
        num_hidden_layers=1,
        q_lora_rank=None,
        kv_lora_rank=C,
        qk_nope_head_dim=D,
        qk_rope_head_dim=R,
        v_head_dim=D,
        max_position_embeddings=64,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        attn_implementation="eager",
    )
    theirs = Attention(config, layer_idx=0).eval()
    k_up, v_up = (up.weight.view(H, D, C) for up in (layer.k_up, layer.v_up))
    weights = {
        "q_proj.weight": layer.q_proj.weight,
        "kv_a_proj_with_mqa.weight": torch.cat([layer.kv_down.weight, layer.k_rope.weight]),
        "kv_a_layernorm.weight": layer.kv_norm.weight,
        "kv_b_proj.weight": torch.cat([k_up, v_up], dim=1).flatten(0, 1),  # theirs has keys and values of a head together
        "o_proj.weight": layer.out_proj.weight,
    }
    theirs.load_state_dict({name: weight.detach().clone() for name, weight in weights.items()})
    return theirs, Rotary(config)


def run_theirs(theirs: nn.Module, rotary: nn.Module, x: Tensor, first: int = 0, past: DynamicCache | None = None) -> Tensor:
    L = x.shape[1]
    positions = torch.arange(first, first + L)
    future = torch.arange(first + L) > positions[:, None]
    mask = torch.zeros(L, first + L).masked_fill(future, -torch.inf)[None, None]
    with torch.no_grad():
        return theirs(x, position_embeddings=rotary(x, positions[None]), attention_mask=mask, past_key_values=past)[0]


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("M, H, D, C, R", [(12, 3, 6, 10, 4), (8, 2, 4, 2, 2), (20, 4, 6, 12, 8)])  # theirs wants even ones
def test_both_forms_are_deepseeks(version: int, M: int, H: int, D: int, C: int, R: int) -> None:
    layer = layer_of(M, H, D, C, R, seed=M, dtype=torch.float32)
    theirs, rotary = deepseek(version, layer, M, H, D, C, R)
    x = normal(2, 9, M, seed=1).float()
    wanted = run_theirs(theirs, rotary, x)
    for form in (layer, layer.absorbed):
        torch.testing.assert_close(form(x)[0], wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("version", [2, 3])
def test_a_cache_grows_as_deepseeks_does(version: int) -> None:
    M, H, D, C, R = 12, 3, 6, 10, 4
    layer = layer_of(M, H, D, C, R, seed=5, dtype=torch.float32)
    theirs, rotary = deepseek(version, layer, M, H, D, C, R)
    past, cache, at = DynamicCache(), None, 0
    for form, x in zip((layer, layer.absorbed, layer.absorbed), normal(2, 8, M, seed=2).float().split([4, 1, 3], dim=1), strict=True):
        wanted = run_theirs(theirs, rotary, x, at, past)
        out, cache = form(x, cache)
        at += x.shape[1]
        torch.testing.assert_close(out, wanted, rtol=1e-4, atol=1e-5)
    latents, keys = past.layers[0].keys[:, 0], past.layers[0].values[:, 0]  # theirs keeps the same two, under these names
    if version == 3:  # and sorts the pairs of a rotary key into halves once they are rotated
        keys = keys.unflatten(-1, (2, -1)).mT.flatten(-2)
    torch.testing.assert_close(cache, torch.cat([latents, keys], dim=-1), rtol=1e-4, atol=1e-5)


@given(B=sizes, L=sizes, M=sizes, H=sizes, D=sizes, C=sizes, pairs=sizes, seed=seeds)
@settings(max_examples=30, deadline=None)
def test_forward_is_multi_head_attention_with_keys_made_out(B: int, L: int, M: int, H: int, D: int, C: int, pairs: int, seed: int) -> None:
    """Complex rotations, PyTorch's RMS norm and fused attention: keys and values of D + R and D channels for each head."""
    R = 2 * pairs
    layer, x = layer_of(M, H, D, C, R, seed), normal(B, L, M, seed=seed)
    turns = torch.polar(
        torch.ones(L, pairs, dtype=torch.float64), torch.arange(L)[:, None] * 10000.0 ** (-torch.arange(pairs).double() / pairs)
    )

    def turned(part: Tensor) -> Tensor:
        return torch.view_as_real(torch.complex(part[..., 0::2], part[..., 1::2]) * turns).flatten(-2)

    q = F.linear(x, layer.q_proj.weight).view(B, L, H, D + R).transpose(1, 2)
    latent = F.rms_norm(x @ layer.kv_down.weight.T, (C,), layer.kv_norm.weight, 1e-6)
    k, v = ((latent @ up.weight.T).view(B, L, H, D).transpose(1, 2) for up in (layer.k_up, layer.v_up))
    key = turned(x @ layer.k_rope.weight.T)
    k = torch.cat([k, key[:, None].expand(B, H, L, R)], dim=-1)
    out = F.scaled_dot_product_attention(torch.cat([q[..., :D], turned(q[..., D:])], dim=-1), k, v, is_causal=True)
    found, cache = layer(x)
    torch.testing.assert_close(found, out.transpose(1, 2).reshape(B, L, H * D) @ layer.out_proj.weight.T, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(cache, torch.cat([latent, key], dim=-1), rtol=1e-5, atol=1e-5)


@given(cuts=st.lists(st.tuples(st.booleans(), st.integers(1, 3)), min_size=1, max_size=5), seed=seeds)
@settings(max_examples=30, deadline=None)
def test_any_cuts_and_any_forms_give_one_pass(cuts: list[tuple[bool, int]], seed: int) -> None:
    layer = layer_of(5, 2, 3, 4, 2, seed)
    x = normal(2, sum(n for _, n in cuts), 5, seed=seed)
    whole, cache, pieces = layer(x), None, []
    for (absorbed, _), piece in zip(cuts, x.split([n for _, n in cuts], dim=1), strict=True):
        out, cache = (layer.absorbed if absorbed else layer)(piece, cache)
        pieces.append(out)
    torch.testing.assert_close(torch.cat(pieces, dim=1), whole[0])
    torch.testing.assert_close(cache, whole[1])


@pytest.mark.parametrize("form", ["forward", "absorbed"])
def test_gradients_are_those_of_finite_differences(form: str) -> None:
    layer = layer_of(3, 2, 2, 3, 2, seed=4)
    x = normal(1, 3, 3, seed=4).requires_grad_()
    names, weights = zip(*layer.named_parameters(), strict=True)

    class Form(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = layer

        def forward(self, x: Tensor) -> Tensor:
            return getattr(self.layer, form)(x)[0]

    def output(x: Tensor, *values: Tensor) -> Tensor:
        return torch.func.functional_call(Form(), {f"layer.{name}": value for name, value in zip(names, values, strict=True)}, (x,))

    inputs = [x, *(w.detach().clone().requires_grad_() for w in weights)]
    assert torch.autograd.gradcheck(output, inputs, atol=1e-5, rtol=1e-4)


def flops_of_one_more_token(layer: nn.Module, form: str, width: int, M: int, t: int) -> int:
    with CostMode() as mode:
        getattr(layer, form)(torch.ones(1, 1, M), torch.ones(1, t, width))
    return mode.flops


@pytest.mark.parametrize("H, D, C, R", [(3, 8, 5, 2), (2, 5, 16, 4)])
def test_a_cached_token_costs_what_counting_says(H: int, D: int, C: int, R: int) -> None:
    layer = mla.LatentAttention(7, H, D, C, R)
    plain, absorbed = (
        flops_of_one_more_token(layer, form, C + R, 7, 41) - flops_of_one_more_token(layer, form, C + R, 7, 40)
        for form in ("forward", "absorbed")
    )
    assert absorbed == 2 * H * (2 * C + R)
    assert plain == 2 * H * (2 * C * D + 2 * D + R)


def test_what_is_kept_is_what_the_paper_says() -> None:
    """DeepSeek-V3: 576 numbers a token and layer, 70,272 bytes in bfloat16 in 61 layers, 56.9 times less than 128 heads of 128."""
    layer = mla.LatentAttention(4, num_heads=2, head_dim=3, kv_rank=512, rope_dim=64)
    _, cache = layer.bfloat16()(torch.ones(1, 1, 4, dtype=torch.bfloat16))
    kept = 61 * cache.nbytes
    assert kept == 70_272
    assert round(61 * 2 * 128 * (128 + 128) / kept, 1) == 56.9
