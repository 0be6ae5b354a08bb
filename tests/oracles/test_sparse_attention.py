"""Oracles of sparse attention: PyTorch's attention with the equivalent mask, Hugging Face's Longformer, and counting."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from rooms import solution
from torch import Tensor
from transformers import LongformerConfig
from transformers.models.longformer.modeling_longformer import LongformerSelfAttention

sparse = solution("sparse_attention")
sizes = st.integers(1, 4)
lengths = st.integers(1, 12)
windows = st.integers(0, 30)
seeds = st.integers(0, 999)


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def band(L: int, window: int) -> Tensor:
    return torch.tensor([[abs(i - j) <= window // 2 for j in range(L)] for i in range(L)])


def same_as_dense(ours, mask: Tensor, q: Tensor, k: Tensor, v: Tensor) -> None:
    """Values and gradients; rows of the mask without any True are zeros."""
    q, k, v = (x.requires_grad_() for x in (q, k, v))
    some = mask.any(-1, keepdim=True)
    one, other = ours(q, k, v), F.scaled_dot_product_attention(q, k, v, attn_mask=mask | ~some) * some
    torch.testing.assert_close(one, other)
    upstream = normal(*one.shape, seed=99)
    gradients = [torch.autograd.grad((out * upstream).sum(), (q, k, v)) for out in (one, other)]
    torch.testing.assert_close(*gradients)


def three(B: int, H: int, L: int, D: int, V: int, seed: int, scale: float = 1.0) -> tuple[Tensor, Tensor, Tensor]:
    return normal(B, H, L, D, seed=seed) * scale, normal(B, H, L, D, seed=seed + 1), normal(B, H, L, V, seed=seed + 2)


@given(B=sizes, H=sizes, L=lengths, D=sizes, V=sizes, window=windows, scale=st.sampled_from([1.0, 500.0]), seed=seeds)
@settings(max_examples=40, deadline=None)
def test_window_is_dense_attention_with_a_band(B, H, L, D, V, window, scale, seed) -> None:
    same_as_dense(lambda *x: sparse.sliding_window_attention(*x, window), band(L, window), *three(B, H, L, D, V, seed, scale))


@given(B=sizes, H=sizes, L=lengths, D=sizes, V=sizes, window=windows, share=st.sampled_from([0.0, 0.2, 0.5, 1.0]), seed=seeds)
@settings(max_examples=60, deadline=None)
def test_longformer_is_dense_attention_with_its_mask(B, H, L, D, V, window, share, seed) -> None:
    is_global = torch.rand(B, L, generator=torch.Generator().manual_seed(seed)) < share
    mask = (band(L, window) | is_global[:, :, None] | is_global[:, None, :])[:, None]
    same_as_dense(lambda *x: sparse.longformer_attention(*x, window, is_global), mask, *three(B, H, L, D, V, seed))


def test_longformer_is_hugging_faces_with_its_projections_shared() -> None:
    """Their window of 4 is two to either side; their global projections get the weights of the local ones."""
    config = LongformerConfig(hidden_size=6, num_attention_heads=2, attention_window=[4], attention_probs_dropout_prob=0.0)
    theirs = LongformerSelfAttention(config, layer_id=0).double().eval()
    with torch.no_grad():
        for name in ("query", "key", "value"):
            getattr(theirs, f"{name}_global").load_state_dict(getattr(theirs, name).state_dict())
    x, is_global = normal(2, 12, 6, seed=1), torch.zeros(2, 12, dtype=torch.bool)
    is_global[0, 0] = is_global[0, 7] = is_global[1, 3] = True
    out = theirs(
        x,
        attention_mask=torch.where(is_global, 10000.0, 0.0).double(),
        is_index_masked=torch.zeros(2, 12, dtype=torch.bool),
        is_index_global_attn=is_global,
        is_global_attn=True,
    )[0]
    q, k, v = (getattr(theirs, name)(x).view(2, 12, 2, 3).transpose(1, 2) for name in ("query", "key", "value"))
    ours = sparse.longformer_attention(q, k, v, 4, is_global).transpose(1, 2).flatten(2)
    torch.testing.assert_close(ours, out, rtol=1e-4, atol=1e-5)  # their softmax is float32


@given(n=st.integers(1, 7), block=sizes, B=sizes, D=sizes, V=sizes, share=st.sampled_from([0.0, 0.3, 0.7, 1.0]), seed=seeds)
@settings(max_examples=60, deadline=None)
def test_blocks_are_dense_attention_with_the_layout_blown_up(n, block, B, D, V, share, seed) -> None:
    layout = torch.rand(n, n, generator=torch.Generator().manual_seed(seed)) < share
    mask = torch.kron(layout.int(), torch.ones(block, block, dtype=torch.int)).bool()
    same_as_dense(lambda *x: sparse.block_sparse_attention(*x, layout, block), mask, *three(B, 2, n * block, D, V, seed))


@given(n=st.integers(1, 9), block=sizes, window=st.integers(0, 8), G=st.integers(0, 3), R=st.integers(0, 9), seed=seeds)
@settings(max_examples=80, deadline=None)
def test_bigbirds_mask_keeps_its_promises(n, block, window, G, R, seed) -> None:
    mask = sparse.bigbird_mask(n * block, block, window, min(G, n), R, torch.Generator().manual_seed(seed))
    assert mask.shape == (n * block, n * block)
    assert mask.dtype == torch.bool
    G = min(G, n)
    for i in range(n):
        fixed = {j for j in range(n) if abs(i - j) <= window // 2 or i < G or j < G}
        tiles = {j: mask[i * block : (i + 1) * block, j * block : (j + 1) * block] for j in range(n)}
        assert all(bool(tile.all()) == bool(tile.any()) for tile in tiles.values())
        seen = {j for j, tile in tiles.items() if tile.any()}
        assert fixed <= seen
        assert len(seen - fixed) == min(R, n - len(fixed))


def test_random_blocks_are_equally_likely() -> None:
    """Over 4000 masks each free block is drawn as often as the others, within five standard errors, and so is each pair."""
    generator, counts, pairs = torch.Generator().manual_seed(0), torch.zeros(7, 7), torch.zeros(7)
    for _ in range(4000):
        drawn = sparse.bigbird_mask(7, 1, 1, 1, 2, generator)
        counts += drawn
        pairs += drawn[3] & drawn[3, 5]
    free = counts[1:, 1:][~torch.eye(6, dtype=torch.bool)] / 4000  # five free blocks in each row, two drawn
    assert (free - 2 / 5).abs().max() < 5 * math.sqrt(0.4 * 0.6 / 4000)
    together = pairs[[1, 2, 4, 6]] / 4000
    assert (together - 1 / 10).abs().max() < 5 * math.sqrt(0.1 * 0.9 / 4000)


def test_bigbird_as_blocks_is_bigbird_as_a_mask() -> None:
    mask = sparse.bigbird_mask(24, 3, 3, 1, 2, torch.Generator().manual_seed(5))
    layout = mask.view(8, 3, 8, 3)[:, 0, :, 0]
    same_as_dense(lambda *x: sparse.block_sparse_attention(*x, layout, 3), mask, *three(2, 2, 24, 4, 3, seed=2))


@pytest.mark.parametrize("L, block", [(7, 2), (10, 3), (5, 6)])
def test_uneven_lengths_are_refused(L: int, block: int) -> None:
    with pytest.raises(ValueError):
        sparse.bigbird_mask(L, block, 1, 1, 1)
