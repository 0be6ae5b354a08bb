"""Oracles of rope: Hugging Face's Llama, GPT-J, BLOOM and MPT, complex numbers, and rotation matrices."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rooms import solution
from torch import Tensor
from transformers import LlamaConfig
from transformers.models.bloom.modeling_bloom import build_alibi_tensor
from transformers.models.gptj.modeling_gptj import apply_rotary_pos_emb as gptj_turns
from transformers.models.gptj.modeling_gptj import create_sinusoidal_positions
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb as llama_turns
from transformers.models.mpt.modeling_mpt import build_mpt_alibi_tensor

rope = solution("rope")
sizes = st.integers(1, 4)
seeds = st.integers(0, 999)
bases = st.sampled_from([100.0, 10000.0, 5e5])


def normal(*shape: int, seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def places(*shape: int, seed: int, below: int) -> Tensor:
    return torch.randint(below, shape, generator=torch.Generator().manual_seed(seed))


def llama_rotary(D: int, base: float) -> LlamaRotaryEmbedding:
    config = LlamaConfig(hidden_size=D, num_attention_heads=1, head_dim=D, rope_parameters={"rope_type": "default", "rope_theta": base})
    return LlamaRotaryEmbedding(config)


@given(B=sizes, H=sizes, L=sizes, pairs=sizes, base=bases, seed=seeds)
@settings(max_examples=30, deadline=None)
def test_halves_are_llamas(B: int, H: int, L: int, pairs: int, base: float, seed: int) -> None:
    q, k = normal(2, B, H, L, 2 * pairs, seed=seed, dtype=torch.float32)
    positions = places(B, L, seed=seed, below=8192)
    cos, sin = llama_rotary(2 * pairs, base)(q, positions)
    for ours, theirs in zip((q, k), llama_turns(q, k, cos, sin), strict=True):
        torch.testing.assert_close(rope.apply_rope(ours, positions, base, interleaved=False), theirs, rtol=1e-4, atol=1e-2)
        few = rope.apply_rope(ours, positions % 9, base, interleaved=False)  # where float32 is exact, a close look
        torch.testing.assert_close(few, llama_turns(ours, ours, *llama_rotary(2 * pairs, base)(q, positions % 9))[0], rtol=1e-5, atol=1e-5)


@given(B=sizes, H=sizes, L=sizes, pairs=sizes, seed=seeds)
@settings(max_examples=30, deadline=None)
def test_neighbours_are_gptjs(B: int, H: int, L: int, pairs: int, seed: int) -> None:
    x = normal(B, H, L, 2 * pairs, seed=seed, dtype=torch.float32)
    positions = places(L, seed=seed, below=50)
    sin, cos = create_sinusoidal_positions(50, 2 * pairs)[positions].expand(B, L, -1).chunk(2, dim=-1)
    theirs = gptj_turns(x.transpose(1, 2), sin, cos).transpose(1, 2)
    torch.testing.assert_close(rope.apply_rope(x, positions), theirs, rtol=1e-4, atol=1e-4)


@given(B=sizes, H=sizes, L=sizes, pairs=sizes, base=bases, seed=seeds)
@settings(max_examples=30, deadline=None)
def test_a_rotation_is_a_complex_product_in_value_and_gradient(B: int, H: int, L: int, pairs: int, base: float, seed: int) -> None:
    x, positions = normal(B, H, L, 2 * pairs, seed=seed).requires_grad_(), places(B, L, seed=seed, below=9) / 4
    frequencies = torch.tensor([base ** (-i / pairs) for i in range(pairs)], dtype=torch.float64)
    angles = (positions.double()[:, None, :, None] * frequencies).expand(B, H, L, pairs)
    numbers = torch.view_as_complex(x.unflatten(-1, (pairs, 2)))
    theirs = torch.view_as_real(numbers * torch.polar(torch.ones_like(angles), angles)).flatten(3)
    ours = rope.apply_rope(x, positions, base)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    upstream = normal(*x.shape, seed=seed + 1)
    found = [torch.autograd.grad((out * upstream).sum(), x)[0] for out in (ours, theirs)]
    torch.testing.assert_close(*found, rtol=1e-5, atol=1e-5)


@given(pairs=sizes, base=bases, p=st.integers(0, 100_000))
@settings(max_examples=50, deadline=None)
def test_angles_are_those_of_exact_arithmetic(pairs: int, base: float, p: int) -> None:
    angles = rope.rope_angles(torch.tensor([p]), 2 * pairs, base)
    wanted = [p * math.exp(-i / pairs * math.log(base)) for i in range(pairs)]
    assert angles.dtype == torch.float32
    torch.testing.assert_close(angles[0].double(), torch.tensor(wanted, dtype=torch.float64), rtol=2e-6, atol=0)


@given(H=sizes, L=sizes, pairs=sizes, seed=seeds, interleaved=st.booleans(), shift=st.integers(0, 1000))
@settings(max_examples=30, deadline=None)
def test_scores_see_distances_and_nothing_else(H: int, L: int, pairs: int, seed: int, interleaved: bool, shift: int) -> None:
    q, k, positions = normal(1, H, L, 2 * pairs, seed=seed), normal(1, H, L, 2 * pairs, seed=seed + 1), places(L, seed=seed, below=50)

    def scores(q_at: Tensor, k_at: Tensor) -> Tensor:
        return rope.apply_rope(q, q_at, interleaved=interleaved) @ rope.apply_rope(k, k_at, interleaved=interleaved).mT

    together = scores(positions + shift, positions + shift)
    torch.testing.assert_close(together, scores(positions, positions), rtol=1e-3, atol=1e-3 * pairs)


@pytest.mark.parametrize("interleaved", [True, False])
def test_scores_do_see_distances(interleaved: bool) -> None:
    x, far = torch.ones(1, 1, 1, 2, dtype=torch.float64), torch.tensor([2])
    score = (x * rope.apply_rope(x, far, interleaved=interleaved)).sum().item()
    assert score == pytest.approx(2 * math.cos(2), abs=1e-6)


@pytest.mark.parametrize("dtype, unit", [(torch.bfloat16, 2**-8), (torch.float16, 2**-11)])
def test_half_precision_is_off_by_its_last_digit_alone(dtype: torch.dtype, unit: float) -> None:
    x, positions = normal(1, 2, 4096, 8, seed=0).to(dtype), torch.arange(4096) + 60_000
    exact = rope.apply_rope(x.float(), positions)
    torch.testing.assert_close(rope.apply_rope(x, positions).float(), exact, rtol=unit, atol=1e-6)


def test_bfloat16_has_769_positions_below_4096() -> None:
    """What the lesson says."""
    assert torch.arange(4096).bfloat16().unique().numel() == 769


@given(H=sizes, pairs=sizes, M=sizes, seed=seeds)
@settings(max_examples=30, deadline=None)
def test_conversion_is_that_of_the_script_for_llama(H: int, pairs: int, M: int, seed: int) -> None:
    weight = normal(H * 2 * pairs, M, seed=seed)
    theirs = weight.view(H, pairs, 2, M).transpose(1, 2).reshape(H * 2 * pairs, M)  # permute() in convert_llama_weights_to_hf.py
    assert torch.equal(rope.interleaved_to_half_split(weight, H), theirs)


@given(H=sizes, pairs=sizes, L=sizes, seed=seeds)
@settings(max_examples=30, deadline=None)
def test_converted_weights_give_llama_the_scores_of_complex_products(H: int, pairs: int, L: int, seed: int) -> None:
    x, weights = normal(1, L, 5, seed=seed), normal(2, H * 2 * pairs, 5, seed=seed + 1)
    positions = places(1, L, seed=seed, below=20)
    cos, sin = (each.double() for each in llama_rotary(2 * pairs, 10000.0)(x.float(), positions))
    q, k = ((x @ rope.interleaved_to_half_split(w, H).mT).unflatten(-1, (H, -1)).transpose(1, 2) for w in weights)
    q, k = llama_turns(q, k, cos, sin)
    theirs = q @ k.mT
    q, k = ((x @ w.mT).unflatten(-1, (H, pairs, 2)).transpose(1, 2).contiguous() for w in weights)
    angles = positions[0, :, None] * 10000.0 ** (-torch.arange(pairs, dtype=torch.float64) / pairs)
    turn = torch.polar(torch.ones_like(angles), angles)
    q, k = (torch.view_as_complex(each) * turn for each in (q, k))
    ours = (q @ k.mH).real
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("D", [4, 8, 128])
@pytest.mark.parametrize("factor", [1.0, 2.0, 8.0])
def test_longer_texts_are_those_of_transformers(D: int, factor: float) -> None:
    """Their linear scaling divides the frequencies; their dynamic one takes the base of NTK once a text is `factor` times as long."""
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    positions = torch.arange(5)
    config = LlamaConfig(hidden_size=D, num_attention_heads=1, head_dim=D, max_position_embeddings=64)
    config.rope_parameters = {"rope_type": "linear", "rope_theta": 10000.0, "factor": factor}
    frequencies, _ = ROPE_INIT_FUNCTIONS["linear"](config, torch.device("cpu"))
    torch.testing.assert_close(rope.rope_angles(rope.linear_scaling(positions, factor), D), positions[:, None] * frequencies)

    config.rope_parameters = {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 1.0}
    frequencies, _ = ROPE_INIT_FUNCTIONS["dynamic"](config, torch.device("cpu"), seq_len=int(factor * 64))
    base = rope.ntk_base(10000.0, factor, D)
    torch.testing.assert_close(rope.rope_angles(positions, D, base), positions[:, None] * frequencies)


@pytest.mark.parametrize("H", [*range(1, 20), 32, 40, 71, 112])
def test_slopes_and_biases_are_blooms_and_mpts(H: int) -> None:
    slopes, L, S = rope.alibi_slopes(H), 3, 5
    bloom = build_alibi_tensor(torch.ones(1, S), H, torch.float32)  # slope · position of the key
    torch.testing.assert_close(slopes, bloom[:, 0, 1])
    mpt = build_mpt_alibi_tensor(H, S)  # -slope · distance to the last key, for the last query
    ours = rope.alibi_bias(H, L, S)
    assert ours.shape == (H, L, S)
    torch.testing.assert_close(ours[:, -1:], mpt)
    hidden = torch.ones(L, S, dtype=torch.bool).triu(S - L + 1)
    seen = [bias.masked_fill(hidden, -torch.inf).softmax(-1) for bias in (ours, bloom.expand(H, L, S))]
    torch.testing.assert_close(*seen)
    torch.testing.assert_close(rope.alibi_bias(H, S).tril(), rope.alibi_bias(H, S, S).tril())


@given(H=sizes, L=sizes, more=st.integers(0, 3))
@settings(max_examples=30, deadline=None)
def test_bias_is_written_out(H: int, L: int, more: int) -> None:
    bias, slopes = rope.alibi_bias(H, L, L + more), rope.alibi_slopes(H).tolist()
    for h in range(H):
        for i in range(L):
            for j in range(more + i + 1):
                assert bias[h, i, j].item() == pytest.approx(-slopes[h] * (more + i - j))
