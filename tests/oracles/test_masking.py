"""Oracles of masking: loops over pairs of positions, PyTorch's own masks, and what attention makes of them."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from rooms import solution
from torch import Tensor
from torch.nn.attention.bias import causal_lower_right

masking = solution("masking")
sizes = st.integers(1, 7)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def table(L: int, S: int, allows: Callable[[int, int], bool]) -> Tensor:
    """A mask, pair by pair."""
    return torch.tensor([[allows(i, j) for j in range(S)] for i in range(L)])


def equal(mask: Tensor, wanted: Tensor) -> None:
    assert mask.dtype == torch.bool
    torch.testing.assert_close(mask, wanted)


@given(L=sizes, S=sizes)
def test_causal_mask_is_the_whole_one_without_its_first_queries(L: int, S: int) -> None:
    longest = max(L, S)
    whole = table(longest, longest, lambda i, j: j <= i)
    equal(masking.causal_mask(L), whole[:L, :L])
    if L <= S:
        equal(masking.causal_mask(L, S), whole[S - L : S, :S])
    else:  # no key for the first; then as if they were not there
        mask = masking.causal_mask(L, S)
        assert not mask[: L - S].any()
        equal(mask[L - S :], whole[:S, :S])


@pytest.mark.parametrize("L, S", [(1, 1), (4, 4), (2, 5), (1, 6)])
def test_causal_mask_equals_pytorchs(L: int, S: int) -> None:
    q, k, v = normal(1, 1, L, 4), normal(1, 1, S, 4, seed=1), normal(1, 1, S, 4, seed=2)
    wanted = F.scaled_dot_product_attention(q, k, v, attn_mask=causal_lower_right(L, S))
    torch.testing.assert_close(F.scaled_dot_product_attention(q, k, v, attn_mask=masking.causal_mask(L, S)), wanted)


def test_decoding_step_by_step_equals_one_pass() -> None:
    q, k, v = (normal(1, 1, 6, 4, seed=seed) for seed in range(3))
    whole = F.scaled_dot_product_attention(q, k, v, attn_mask=masking.causal_mask(6))
    for start, end in [(0, 3), (3, 5), (5, 6)]:
        mask = masking.causal_mask(end - start, end)
        step = F.scaled_dot_product_attention(q[:, :, start:end], k[:, :, :end], v[:, :, :end], attn_mask=mask)
        torch.testing.assert_close(step, whole[:, :, start:end])


@given(data=st.data(), max_len=sizes)
def test_padding_mask_equals_a_loop(data: st.DataObject, max_len: int) -> None:
    lengths = data.draw(st.lists(st.integers(0, max_len), min_size=1, max_size=5))
    wanted = table(len(lengths), max_len, lambda b, j: j < lengths[b])
    equal(masking.padding_mask(torch.tensor(lengths), max_len), wanted[:, None, None, :])


def test_padded_batch_equals_single_sequences() -> None:
    lengths = [2, 5, 3]
    q, k, v = (normal(3, 2, 5, 4, seed=seed) for seed in range(3))
    batch = F.scaled_dot_product_attention(q, k, v, attn_mask=masking.padding_mask(torch.tensor(lengths), 5))
    for b, n in enumerate(lengths):
        alone = F.scaled_dot_product_attention(q[b], k[b, :, :n], v[b, :, :n])
        torch.testing.assert_close(batch[b], alone)


@given(L=sizes, window=st.integers(1, 9))
def test_sliding_window_equals_a_loop(L: int, window: int) -> None:
    mask = masking.sliding_window_mask(L, window)
    equal(mask, table(L, L, lambda i, j: j in range(i - window + 1, i + 1)))
    assert mask.sum(-1).tolist() == [min(i + 1, window) for i in range(L)]


@given(ids=st.integers(1, 7).flatmap(lambda L: st.lists(st.lists(st.integers(-3, 3), min_size=L, max_size=L), min_size=1, max_size=3)))
def test_document_mask_equals_a_loop(ids: list[list[int]]) -> None:
    L = len(ids[0])
    wanted = torch.stack([table(L, L, lambda i, j, row=row: j <= i and row[i] == row[j]) for row in ids])
    equal(masking.document_mask(torch.tensor(ids)), wanted[:, None])


def test_packed_documents_equal_single_ones() -> None:
    q, k, v = (normal(1, 2, 7, 4, seed=seed) for seed in range(3))
    ids = torch.tensor([[4, 4, 9, 4, 9, 9, 4]])
    packed = F.scaled_dot_product_attention(q, k, v, attn_mask=masking.document_mask(ids))
    for document in (4, 9):
        own = ids[0] == document
        alone = F.scaled_dot_product_attention(q[:, :, own], k[:, :, own], v[:, :, own], is_causal=True)
        torch.testing.assert_close(packed[:, :, own], alone)


@given(data=st.data(), L=sizes)
def test_prefix_mask_equals_a_loop(data: st.DataObject, L: int) -> None:
    prefix_len = data.draw(st.integers(0, L))
    equal(masking.prefix_mask(L, prefix_len), table(L, L, lambda i, j: j <= i or (i < prefix_len and j < prefix_len)))


@pytest.mark.parametrize(
    "call",
    [
        lambda: masking.sliding_window_mask(3, 0),
        lambda: masking.sliding_window_mask(3, -2),
        lambda: masking.prefix_mask(3, -1),
        lambda: masking.prefix_mask(3, 4),
        lambda: masking.combine_masks(),
        lambda: masking.combine_masks(None, None),
    ],
)
def test_what_makes_no_sense_is_refused(call: Callable[[], Tensor]) -> None:
    with pytest.raises(ValueError):
        call()


@given(B=sizes, L=sizes, S=sizes, seed=st.integers(0, 99), order=st.permutations([None, None, "keys", "own", "heads"]))
@settings(deadline=None)
def test_combined_masks_equal_a_loop(B: int, L: int, S: int, seed: int, order: list[str | None]) -> None:
    generator = torch.Generator().manual_seed(seed)
    shapes = {"keys": (B, 1, 1, S), "own": (L, S), "heads": (2, 1, S)}
    masks = {name: torch.rand(shape, generator=generator) < 0.7 for name, shape in shapes.items()}
    keys, own, heads = masks["keys"][:, 0, 0].tolist(), masks["own"].tolist(), masks["heads"][:, 0].tolist()
    wanted = torch.zeros(B, 2, L, S, dtype=torch.bool)
    for b, h, i, j in itertools.product(range(B), range(2), range(L), range(S)):
        wanted[b, h, i, j] = keys[b][j] and own[i][j] and heads[h][j]
    equal(masking.combine_masks(*(name and masks[name] for name in order)), wanted)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_masked_scores_make_pytorchs_attention(dtype: torch.dtype) -> None:
    q, k, v = (normal(2, 3, 4, 8, seed=seed).to(dtype) for seed in range(3))
    mask = masking.combine_masks(masking.causal_mask(4), masking.padding_mask(torch.tensor([2, 4]), 4))
    scores = q @ k.mT / 8**0.5
    masked = masking.apply_mask(scores, mask)
    assert masked.dtype == dtype
    assert (masked[~mask.expand_as(masked)] == -torch.inf).all()
    assert (masked[mask.expand_as(masked)] == scores[mask.expand_as(scores)]).all()
    wanted = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    exact = dtype in (torch.float64, torch.float32)
    tolerance = {} if exact else {"atol": 2e-2, "rtol": 2e-2}
    torch.testing.assert_close(masked.softmax(-1) @ v, wanted, **tolerance)


def test_gradients_flow_where_it_is_allowed() -> None:
    scores, mask, upstream = normal(3, 4).requires_grad_(), normal(3, 4, seed=1) > 0, normal(3, 4, seed=2)
    (gradient,) = torch.autograd.grad(masking.apply_mask(scores, mask), scores, upstream)
    torch.testing.assert_close(gradient, torch.where(mask, upstream, 0.0))
