"""Oracles of the key-value cache: a list, PyTorch's own attention, and generation without a cache."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from rooms import solution
from torch import Tensor, nn

kv_cache = solution("kv_cache")
sizes = st.integers(1, 4)
seeds = st.integers(0, 999)


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@given(layers=sizes, heads=sizes, dim=sizes, length=sizes, batch=sizes, dtype=st.sampled_from([torch.bfloat16, torch.float32]))
@settings(max_examples=30, deadline=None)
def test_bytes_are_those_of_real_tensors(layers: int, heads: int, dim: int, length: int, batch: int, dtype: torch.dtype) -> None:
    caches = [torch.empty(batch, heads, length, dim, dtype=dtype) for _ in range(2 * layers)]
    width = caches[0].element_size()
    assert kv_cache.kv_cache_bytes(layers, heads, dim, length, batch, width) == sum(cache.nbytes for cache in caches)


@pytest.mark.parametrize(
    "layers, heads, dim, length, wanted",
    [
        (32, 8, 128, 8192, 2**30),  # Llama 3 8B: 1 GiB
        (80, 8, 128, 1, 320 * 2**10),  # Llama 2 70B: 320 KiB a token
        (32, 32, 128, 4096, 2 * 2**30),  # Llama 2 7B: 2 GiB
    ],
)
def test_bytes_of_known_models(layers: int, heads: int, dim: int, length: int, wanted: int) -> None:
    assert kv_cache.kv_cache_bytes(layers, heads, dim, length) == wanted


MAX_LEN = 5
operations = st.one_of(
    st.tuples(st.just("append"), st.integers(0, 2), st.integers(1, 3)),
    st.tuples(st.just("truncate"), st.integers(0, 2), st.integers(-1, MAX_LEN + 1)),
    st.tuples(st.just("reset"), st.integers(0, 2), st.just(0)),
    st.tuples(st.just("fork"), st.integers(0, 2), st.just(0)),
)


@given(steps=st.lists(operations, max_size=20))
@settings(max_examples=100, deadline=None)
def test_caches_do_what_lists_do(steps: list[tuple[str, int, int]]) -> None:
    """Three caches beside three lists of tokens, under any operations."""
    caches = [kv_cache.KVCache(2, 3, MAX_LEN, 2, torch.float64) for _ in range(3)]
    tokens: list[list[Tensor]] = [[], [], []]
    places = [None] * 3
    for time, (name, i, number) in enumerate(steps):
        if name == "append":
            new = normal(number, 2, 3, 2, seed=time)
            k, v = new.permute(1, 2, 0, 3), -new.permute(1, 2, 0, 3)
            if len(tokens[i]) + number > MAX_LEN:
                with pytest.raises(ValueError, match=rf"\b{MAX_LEN}\b.*\b{len(tokens[i]) + number}\b"):
                    caches[i].append(k, v)
            else:
                tokens[i] += new
                keys, values = caches[i].append(k, v)
                assert torch.equal(keys, torch.stack(tokens[i], dim=2))
                assert torch.equal(values, -keys)
                place = keys.untyped_storage().data_ptr()
                assert places[i] in (None, place)
                places[i] = place
        elif name == "truncate":
            if 0 <= number <= len(tokens[i]):
                caches[i].truncate(number)
                del tokens[i][number:]
            else:
                with pytest.raises(ValueError):
                    caches[i].truncate(number)
        elif name == "reset":
            caches[i].reset()
            tokens[i] = []
        else:
            other = (i + 1) % 3
            caches[other], tokens[other], places[other] = caches[i].fork(), list(tokens[i]), None
        assert [cache.length for cache in caches] == [len(held) for held in tokens]


def layer(d_model: int, num_heads: int, bias: bool, seed: int) -> nn.Module:
    made = kv_cache.CachedSelfAttention(d_model, num_heads, bias).double()
    with torch.no_grad():
        for i, parameter in enumerate(made.parameters()):
            parameter.copy_(normal(*parameter.shape, seed=seed + i))
    return made


@given(B=sizes, L=sizes, H=sizes, D=sizes, bias=st.booleans(), seed=seeds)
@settings(max_examples=40, deadline=None)
def test_layer_equals_pytorchs_in_value_and_gradient(B: int, L: int, H: int, D: int, bias: bool, seed: int) -> None:
    ours, theirs = layer(H * D, H, bias, seed), nn.MultiheadAttention(H * D, H, bias=bias, batch_first=True).double()
    names = ("q_proj", "k_proj", "v_proj")
    with torch.no_grad():
        theirs.in_proj_weight.copy_(torch.cat([getattr(ours, name).weight for name in names]))
        theirs.out_proj.weight.copy_(ours.out_proj.weight)
        if bias:
            theirs.in_proj_bias.copy_(torch.cat([getattr(ours, name).bias for name in names]))
            theirs.out_proj.bias.copy_(ours.out_proj.bias)
    x = normal(B, L, H * D, seed=seed).requires_grad_()
    hidden = torch.ones(L, L, dtype=torch.bool).triu(1)
    outs = ours(x), theirs(x, x, x, attn_mask=hidden, need_weights=False)[0]
    torch.testing.assert_close(*outs)
    upstream = normal(*outs[0].shape, seed=seed + 99)
    found = [torch.autograd.grad((out * upstream).sum(), [x, made.out_proj.weight]) for out, made in zip(outs, (ours, theirs), strict=True)]
    torch.testing.assert_close(*found)


@given(B=sizes, H=sizes, D=sizes, chunks=st.lists(sizes, min_size=1, max_size=5), seed=seeds)
@settings(max_examples=40, deadline=None)
def test_any_chunks_equal_one_pass(B: int, H: int, D: int, chunks: list[int], seed: int) -> None:
    made, cache = layer(H * D, H, False, seed), kv_cache.KVCache(B, H, sum(chunks), D, torch.float64)
    x = normal(B, sum(chunks), H * D, seed=seed)
    parts = [made(part, cache) for part in x.split(chunks, dim=1)]
    torch.testing.assert_close(torch.cat(parts, dim=1), made(x))
    assert cache.length == sum(chunks)


def test_layer_without_room_raises_and_the_cache_is_as_it_was() -> None:
    made, cache = layer(4, 2, False, 0), kv_cache.KVCache(1, 2, 4, 2, torch.float64)
    x = normal(1, 6, 4, seed=1)
    made(x[:, :3], cache)
    with pytest.raises(ValueError, match=r"\b4\b.*\b5\b"):
        made(x[:, 3:5], cache)
    torch.testing.assert_close(made(x[:, 3:4], cache), made(x[:, :4])[:, 3:])


def test_training_with_a_cache_keeps_nothing_of_earlier_steps() -> None:
    made, cache = layer(4, 2, False, 0), kv_cache.KVCache(1, 2, 4, 2, torch.float64)
    first, second = normal(1, 2, 4, seed=1).requires_grad_(), normal(1, 2, 4, seed=2).requires_grad_()
    made(first, cache)
    made(second, cache).sum().backward()
    assert first.grad is None and second.grad is not None


@given(B=sizes, L=sizes, max_new=st.integers(0, 4), turns=st.integers(1, 2), seed=seeds)
@settings(max_examples=40, deadline=None)
def test_generation_equals_recomputing_everything(B: int, L: int, max_new: int, turns: int, seed: int) -> None:
    H, D, V = 2, 3, 11
    made, cache, embedding = layer(H * D, H, False, seed), kv_cache.KVCache(B, H, 40, D, torch.float64), normal(V, H * D, seed=seed)

    def step(ids: Tensor, cache: object) -> Tensor:
        return F.linear(made(embedding[ids], cache), embedding)

    generator = torch.Generator().manual_seed(seed)
    fed = torch.empty(B, 0, dtype=torch.int64)  # what the cache has seen
    for _ in range(turns):
        prompt = torch.randint(V, (B, L), generator=generator)
        slow = torch.cat([fed, prompt], dim=1)
        for _ in range(max_new):
            slow = torch.cat([slow, step(slow, None)[:, -1].argmax(-1, keepdim=True)], dim=1)
        out = kv_cache.generate(step, prompt, max_new, cache)
        assert torch.equal(out, slow[:, fed.shape[1] :])
        fed = slow[:, :-1] if max_new else fed
        assert cache.length == fed.shape[1]
