"""Oracles of grouped-query attention: PyTorch's own with repeated weights, Hugging Face's Llama, and heads in a loop."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from rooms import solution
from torch import Tensor, nn
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaAttention
from transformers.models.llama.modeling_llama import repeat_kv as llamas_repeat_kv

gqa = solution("grouped_query_attention")
sizes = st.integers(1, 4)
seeds = st.integers(0, 999)


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def layer(G: int, n: int, D: int, bias: bool, seed: int) -> nn.Module:
    made = gqa.GroupedQueryAttention(G * n * D, G * n, G, bias).double()
    with torch.no_grad():
        for i, parameter in enumerate(made.parameters()):
            parameter.copy_(normal(*parameter.shape, seed=seed + i))
    return made


def some_mask(B: int, H: int, L: int, seed: int) -> Tensor:
    mask = torch.rand(B, H, L, L, generator=torch.Generator().manual_seed(seed)) < 0.5
    return mask | torch.eye(L, dtype=torch.bool)


@given(B=sizes, G=sizes, S=sizes, D=sizes, n=sizes, seed=seeds)
@settings(max_examples=40, deadline=None)
def test_heads_are_repeated_as_llama_does_it(B: int, G: int, S: int, D: int, n: int, seed: int) -> None:
    x = normal(B, G, S, D, seed=seed).requires_grad_()
    ours, theirs = gqa.repeat_kv(x, n), llamas_repeat_kv(x, n)
    assert torch.equal(ours, theirs)
    upstream = normal(*ours.shape, seed=seed + 1)
    torch.testing.assert_close(torch.autograd.grad((ours * upstream).sum(), x)[0], upstream.view(B, G, n, S, D).sum(2))


@given(B=sizes, L=sizes, G=sizes, n=sizes, D=sizes, bias=st.booleans(), masked=st.booleans(), seed=seeds)
@settings(max_examples=40, deadline=None)
def test_layer_is_multi_head_attention_with_repeated_weights(
    B: int, L: int, G: int, n: int, D: int, bias: bool, masked: bool, seed: int
) -> None:
    """Keys and values of nn.MultiheadAttention, each head of ours n times; gradients of the copies, summed, are ours."""
    ours, H, M = layer(G, n, D, bias, seed), G * n, G * n * D
    theirs = nn.MultiheadAttention(M, H, bias=bias, batch_first=True).double()

    def repeated(rows: Tensor) -> Tensor:
        return torch.cat([rows[h // n * D : (h // n + 1) * D] for h in range(H)])

    with torch.no_grad():
        theirs.in_proj_weight.copy_(torch.cat([ours.q_proj.weight, repeated(ours.k_proj.weight), repeated(ours.v_proj.weight)]))
        theirs.out_proj.weight.copy_(ours.out_proj.weight)
        if bias:
            theirs.in_proj_bias.copy_(torch.cat([ours.q_proj.bias, repeated(ours.k_proj.bias), repeated(ours.v_proj.bias)]))
            theirs.out_proj.bias.copy_(ours.out_proj.bias)
    x = normal(B, L, M, seed=seed).requires_grad_()
    mask = some_mask(B, H, L, seed) if masked else None
    hidden = ~mask.flatten(0, 1) if masked else torch.ones(L, L, dtype=torch.bool).triu(1)
    outs = ours(x, mask), theirs(x, x, x, attn_mask=hidden, need_weights=False)[0]
    torch.testing.assert_close(*outs)
    upstream = normal(*outs[0].shape, seed=seed + 99)
    dx, dk = torch.autograd.grad((outs[0] * upstream).sum(), [x, ours.k_proj.weight])
    dx_theirs, din = torch.autograd.grad((outs[1] * upstream).sum(), [x, theirs.in_proj_weight])
    torch.testing.assert_close(dx, dx_theirs)
    torch.testing.assert_close(dk, din[M : 2 * M].view(G, n, D, M).sum(1).flatten(0, 1))


@given(B=sizes, L=sizes, G=sizes, n=sizes, D=sizes, seed=seeds)
@settings(max_examples=40, deadline=None)
def test_layer_is_pytorchs_with_enable_gqa(B: int, L: int, G: int, n: int, D: int, seed: int) -> None:
    ours, H = layer(G, n, D, False, seed), G * n
    x, mask = normal(B, L, H * D, seed=seed), some_mask(B, H, L, seed)
    q, k, v = (p(x).view(B, L, -1, D).transpose(1, 2) for p in (ours.q_proj, ours.k_proj, ours.v_proj))
    for ours_out, how in ((ours(x), {"is_causal": True}), (ours(x, mask), {"attn_mask": mask})):
        theirs = F.scaled_dot_product_attention(q, k, v, enable_gqa=True, **how)
        torch.testing.assert_close(ours_out, theirs.transpose(1, 2).reshape(B, L, -1) @ ours.out_proj.weight.mT)


@pytest.mark.parametrize("G, n, D", [(2, 3, 4), (1, 4, 2), (4, 1, 2)])
def test_layer_is_llamas_at_position_zero(G: int, n: int, D: int) -> None:
    """Llama's attention without rotation: cos 1, sin 0."""
    H, M, B, L = G * n, G * n * D, 2, 5
    config = LlamaConfig(hidden_size=M, num_attention_heads=H, num_key_value_heads=G, head_dim=D, attn_implementation="eager")
    theirs, ours = LlamaAttention(config, layer_idx=0).double().eval(), layer(G, n, D, False, 3)
    weights = {name.replace("out_proj", "o_proj"): value for name, value in ours.state_dict().items()}
    theirs.load_state_dict(weights)
    x, turn = normal(B, L, M, seed=4), (torch.ones(B, L, D).double(), torch.zeros(B, L, D).double())
    future = torch.full((L, L), -torch.inf, dtype=torch.float64).triu(1)[None, None]
    out = theirs(x, position_embeddings=turn, attention_mask=future)[0]
    torch.testing.assert_close(ours(x), out, rtol=1e-4, atol=1e-5)  # its softmax is float32


@given(H=st.integers(1, 12), G=st.integers(1, 12))
@settings(max_examples=60, deadline=None)
def test_exactly_divisors_are_accepted(H: int, G: int) -> None:
    if G in [g for g in range(1, H + 1) if H % g == 0]:
        made = gqa.GroupedQueryAttention(4 * H, H, G)
        assert sum(p.numel() for p in made.parameters()) == 2 * (4 * H) ** 2 + 2 * (4 * H) * (4 * G)
    else:
        with pytest.raises(ValueError):
            gqa.GroupedQueryAttention(4 * H, H, G)


def test_attention_of_llama_3_8b_has_its_parameters() -> None:
    """41,943,040 a layer: 2·4096² and 2·4096·1024."""
    with torch.device("meta"):
        made = gqa.GroupedQueryAttention(4096, 32, 8)
    assert sum(p.numel() for p in made.parameters()) == 41_943_040


@given(G=sizes, n=sizes, D=sizes, M=sizes, seed=seeds)
@settings(max_examples=40, deadline=None)
def test_pooling_is_a_mean_head_by_head(G: int, n: int, D: int, M: int, seed: int) -> None:
    weight = normal(G * n * D, M, seed=seed)
    pooled = gqa.mean_pool_kv(weight, G * n, G)
    assert pooled.shape == (G * D, M)
    for g in range(G):
        for d in range(D):
            wanted = torch.stack([weight[(g * n + j) * D + d] for j in range(n)]).mean(0)
            torch.testing.assert_close(pooled[g * D + d], wanted)


@given(G=sizes, n=sizes, D=sizes, L=sizes, seed=seeds)
@settings(max_examples=40, deadline=None)
def test_a_model_whose_heads_agree_survives_pooling(G: int, n: int, D: int, L: int, seed: int) -> None:
    """Multi-head attention in which the heads of a group have the same keys and values, and what is made of it."""
    few, H = layer(G, n, D, False, seed), G * n
    full = layer(H, 1, D, False, seed)
    with torch.no_grad():
        for name in ("k_proj", "v_proj"):
            rows = getattr(few, name).weight
            getattr(full, name).weight.copy_(rows.view(G, D, -1).repeat_interleave(n, dim=0).flatten(0, 1))
            getattr(few, name).weight.copy_(gqa.mean_pool_kv(getattr(full, name).weight, H, G))
        few.q_proj.weight.copy_(full.q_proj.weight)
        few.out_proj.weight.copy_(full.out_proj.weight)
    x = normal(2, L, H * D, seed=seed)
    torch.testing.assert_close(few(x), full(x))
