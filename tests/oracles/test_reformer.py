"""Oracles of reformer: masks made token by token, Hugging Face's Reformer, finite differences and plain autograd."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rooms import solution
from torch import Tensor, nn
from transformers import ReformerConfig
from transformers.models.reformer.modeling_reformer import LSHSelfAttention

reformer = solution("reformer")
seeds = st.integers(0, 999)


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@given(D=st.integers(1, 5), N=st.integers(1, 3), R=st.integers(1, 4), seed=seeds)
@settings(max_examples=30, deadline=None)
def test_buckets_are_the_nearest_of_the_directions(D, N, R, seed) -> None:
    """With rotations A the largest of ±x·a is the nearest of the ±a that have length 1."""
    rotations = nn.functional.normalize(normal(N, D, R, seed=seed), dim=1)
    x = normal(2, 3, D, seed=seed + 1)
    buckets = reformer.lsh_buckets(x, rotations)
    for n in range(N):
        directions = [*rotations[n].unbind(-1), *(-rotations[n]).unbind(-1)]
        distances = torch.stack([(x - a).norm(dim=-1) for a in directions], dim=-1)
        torch.testing.assert_close(buckets[n], distances.argmin(-1))


def seen_in_a_round(buckets: list[int], chunk: int, causal: bool) -> list[set[int]]:
    """For each token the tokens that it sees, itself included."""
    L = len(buckets)
    ordered = sorted(range(L), key=lambda i: (buckets[i], i))
    place = {token: at // chunk for at, token in enumerate(ordered)}
    return [
        {j for j in range(L) if place[i] - place[j] in (0, 1) and buckets[i] == buckets[j] and not (causal and j > i)} for i in range(L)
    ]


def dense(qk: Tensor, v: Tensor, rotations: Tensor, chunk: int, causal: bool) -> Tensor:
    """The same with L × L scores and, for each pair, the number of rounds in which it is seen."""
    B, H, L, D = qk.shape
    buckets = reformer.lsh_buckets(qk, rotations)
    times = torch.zeros(B, H, L, L, dtype=qk.dtype)
    for n in range(len(rotations)):
        for b in range(B):
            for h in range(H):
                for i, js in enumerate(seen_in_a_round(buckets[n, b, h].tolist(), chunk, causal)):
                    for j in js - {i}:
                        times[b, h, i, j] += 1
    alone = times.sum(-1, keepdim=True) == 0
    times = torch.where(alone, torch.eye(L, dtype=qk.dtype), times)
    scores = qk @ (qk / qk.norm(dim=-1, keepdim=True)).mT / math.sqrt(D)
    return (scores + times.log()).softmax(-1) @ v


shapes = {"B": st.integers(1, 2), "H": st.integers(1, 2), "C": st.integers(1, 4), "T": st.integers(1, 4), "D": st.integers(1, 3)}


@given(**shapes, N=st.integers(1, 3), R=st.integers(1, 2), causal=st.booleans(), scale=st.sampled_from([0.5, 1.0, 500.0]), seed=seeds)
@settings(max_examples=60, deadline=None)
def test_attention_is_dense_attention_over_what_is_seen(B, H, C, T, D, N, R, causal, scale, seed) -> None:
    qk, v = scale * normal(B, H, C * T, D, seed=seed), normal(B, H, C * T, 2, seed=seed + 1)
    rotations, upstream = normal(N, D, R, seed=seed + 2), normal(B, H, C * T, 2, seed=seed + 3)
    found = []
    for function in (reformer.lsh_attention, dense):
        leaves = [qk.clone().requires_grad_(), v.clone().requires_grad_()]
        out = function(*leaves, rotations, T, causal)
        found.append([out, *torch.autograd.grad((out * upstream).sum(), leaves)])
    torch.testing.assert_close(*found, rtol=1e-9, atol=1e-9)


class WithinBuckets(LSHSelfAttention):
    """Hugging Face's, which lets a chunk see all of the one before it, with other buckets masked."""

    buckets: Tensor  # (B, H, N · L), numbered through from round to round

    def _compute_attn_mask(self, query_indices, *others):
        own = self.buckets.sort(-1).values.view(query_indices.shape)
        theirs = self._look_adjacent(own, 1, 0)
        return super()._compute_attn_mask(query_indices, *others) & (own.unsqueeze(-1) == theirs.unsqueeze(-2))


@pytest.mark.parametrize("N", [1, 2, 3])
def test_attention_is_hugging_faces(N: int) -> None:
    """Their keys have length √D before they divide by it: queries are scaled to make up for that.

    Their first chunk looks back, around the end; no bucket here is so large that this has an effect.
    """
    B, H, L, D, chunk, R = 2, 2, 24, 3, 4, 3
    config = ReformerConfig(
        hidden_size=H * D,
        num_attention_heads=H,
        attention_head_size=D,
        num_buckets=2 * R,
        lsh_attn_chunk_length=chunk,
        lsh_attention_probs_dropout_prob=0.0,
        is_decoder=True,
    )
    torch.manual_seed(0)
    theirs = WithinBuckets(config).double().eval()
    hidden = normal(B, L, H * D, seed=6)
    qk, v = (linear(hidden).view(B, L, H, D).transpose(1, 2) for linear in (theirs.query_key, theirs.value))
    rotations = normal(N, D, R, seed=4)
    buckets = reformer.lsh_buckets(qk, rotations)
    ordered = buckets.sort(-1).values
    assert not (ordered[..., chunk - 1] == ordered[..., -chunk]).any()
    assert ordered.unique().numel() == 2 * R

    numbered = buckets + 2 * R * torch.arange(N)[:, None, None, None]
    theirs.buckets = numbered.permute(1, 2, 0, 3).flatten(2)
    out = theirs(hidden, num_hashes=N, buckets=theirs.buckets).hidden_states
    ours = reformer.lsh_attention(qk * math.sqrt(D), v, rotations, chunk).transpose(1, 2).flatten(2)
    torch.testing.assert_close(ours, out, rtol=1e-5, atol=1e-5)


def test_hashing_is_hugging_faces() -> None:
    """They draw rotations for each head; here is only one. The same seed draws the same."""
    theirs = LSHSelfAttention(ReformerConfig(hidden_size=6, num_attention_heads=1, attention_head_size=6, num_buckets=8, hash_seed=3))
    vectors = normal(2, 1, 10, 6, seed=1).float()
    buckets = theirs._hash_vectors(vectors, 2, None).view(2, 1, 2, 10)
    torch.manual_seed(3)
    drawn = torch.randn(1, 6, 2, 4)
    ours = reformer.lsh_buckets(vectors, drawn[0].transpose(0, 1))
    torch.testing.assert_close(buckets.permute(2, 0, 1, 3), ours + torch.tensor([0, 8])[:, None, None, None])


def test_with_many_rounds_near_tokens_are_found() -> None:
    """Two tokens that point the same way share a bucket in nearly all rounds, opposite ones in none."""
    rotations = normal(200, 8, 4, seed=1)
    x = normal(8, seed=2)
    buckets = reformer.lsh_buckets(torch.stack([x, 3 * x, -x, x + 0.1 * normal(8, seed=3)]), rotations)
    same = (buckets == buckets[:, :1]).double().mean(0)
    assert same[1] == 1
    assert same[2] == 0
    assert same[3] > 0.7


# The reversible block.


def networks(seed: int, dropout: float = 0.0) -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(seed)
    f, g = (nn.Sequential(nn.Linear(3, 7), nn.GELU(), nn.Dropout(dropout), nn.Linear(7, 3)).double() for _ in range(2))
    return f, g


def test_gradients_pass_finite_differences() -> None:
    f, g = networks(0)
    block = reformer.ReversibleBlock(f, g)
    params = list(block.parameters())

    def run(x1: Tensor, x2: Tensor, *_: Tensor) -> tuple[Tensor, Tensor]:
        return block(x1, x2)

    x1, x2 = (normal(2, 3, seed=seed).requires_grad_() for seed in (1, 2))
    assert torch.autograd.gradcheck(run, (x1, x2, *params))


@given(depth=st.integers(1, 4), seed=seeds, dropout=st.sampled_from([0.0, 0.5]))
@settings(max_examples=15, deadline=None)
def test_a_stack_learns_as_plain_autograd(depth, seed, dropout) -> None:
    """Dropout masks are the same in both, since both draw them in the same order from the same seed."""
    pairs = [networks(seed + i, dropout) for i in range(depth)]
    copies = copy.deepcopy(pairs)
    found = []
    for blocks, reversible in ((pairs, True), (copies, False)):
        torch.manual_seed(seed)
        leaves = [normal(4, 3, seed=seed + i).requires_grad_() for i in (1, 2)]
        x1, x2 = leaves
        for f, g in blocks:
            if reversible:
                x1, x2 = reformer.ReversibleBlock(f, g)(x1, x2)
            else:
                x1 = x1 + f(x2)
                x2 = x2 + g(x1)
        (x1.sin().sum() + (x1 * x2).sum()).backward()
        params = [param for pair in blocks for module in pair for param in module.parameters()]
        found.append([x1, x2, *(leaf.grad for leaf in [*leaves, *params])])
    torch.testing.assert_close(*found, rtol=1e-9, atol=1e-9)


def test_inverse_is_exact_but_for_rounding() -> None:
    blocks = [reformer.ReversibleBlock(*networks(seed)) for seed in range(8)]
    x1, x2 = normal(5, 3, seed=1), normal(5, 3, seed=2)
    with torch.no_grad():
        y1, y2 = x1, x2
        for block in blocks:
            y1, y2 = block(y1, y2)
        for block in reversed(blocks):
            y1, y2 = block.inverse(y1, y2)
    torch.testing.assert_close((y1, y2), (x1, x2), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("hidden", [4, 64])
def test_what_is_saved_does_not_depend_on_what_is_inside(hidden: int) -> None:
    block = reformer.ReversibleBlock(*(nn.Sequential(nn.Linear(3, hidden), nn.Tanh(), nn.Linear(hidden, 3)) for _ in range(2)))
    saved: list[int] = []

    def pack(x: Tensor) -> Tensor:
        saved.append(x.numel())
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        block(torch.zeros(5, 3, requires_grad=True), torch.zeros(5, 3, requires_grad=True))
    assert sorted(saved) == [15, 15]
