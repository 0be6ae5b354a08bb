"""Oracles of the paged cache: lists of holders, lists of tokens, and a contiguous cache under attention."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from rooms import solution
from torch import Tensor

paged = solution("paged_kv_cache")
contiguous = solution("kv_cache")

HEADS, DIM = 2, 3
NAMES = st.sampled_from(["a", "b", 0, ("c", 1)])


class AllocatorBesideSets(RuleBasedStateMachine):
    """An allocator beside a list of holds: a block stands there once for each who holds it."""

    def __init__(self) -> None:
        super().__init__()
        self.allocator, self.holds = paged.BlockAllocator(4), []

    @rule()
    def allocate(self) -> None:
        if len(set(self.holds)) == 4:
            with pytest.raises(MemoryError):
                self.allocator.allocate()
        else:
            block = self.allocator.allocate()
            assert type(block) is int and block in range(4) and block not in self.holds
            self.holds.append(block)

    @rule(block=st.integers(-2, 5), call=st.sampled_from(["share", "free"]))
    def share_or_free(self, block: int, call: str) -> None:
        if block in self.holds:
            getattr(self.allocator, call)(block)
            self.holds.append(block) if call == "share" else self.holds.remove(block)
        else:
            with pytest.raises(ValueError):
                getattr(self.allocator, call)(block)

    @invariant()
    def free_blocks_are_those_without_holds(self) -> None:
        assert self.allocator.num_free == 4 - len(set(self.holds))


class CacheBesideLists(RuleBasedStateMachine):
    """A cache beside a list of tokens for each sequence, and beside blocks that are plain objects: a list of them for each sequence."""

    NUM_BLOCKS, BLOCK_SIZE = 6, 3

    def __init__(self) -> None:
        super().__init__()
        self.cache = paged.PagedKVCache(self.NUM_BLOCKS, self.BLOCK_SIZE, HEADS, DIM, torch.float64)
        self.tokens: dict[object, list[Tensor]] = {}
        self.blocks: dict[object, list[object]] = {}
        self.places = self.cache.keys.data_ptr(), self.cache.values.data_ptr()
        self.time = 0

    def held(self) -> set[int]:
        return {id(block) for blocks in self.blocks.values() for block in blocks}

    @rule(seq=NAMES)
    def add(self, seq: object) -> None:
        if seq in self.tokens:
            with pytest.raises(ValueError):
                self.cache.add(seq)
        else:
            self.cache.add(seq)
            self.tokens[seq], self.blocks[seq] = [], []

    @rule(seq=NAMES, n=st.integers(1, 8))
    def append(self, seq: object, n: int) -> None:
        self.time += 1
        k = torch.randn(HEADS, n, DIM, generator=torch.Generator().manual_seed(self.time), dtype=torch.float64)
        if seq not in self.tokens:
            with pytest.raises(KeyError):
                self.cache.append(seq, k, -k)
            return
        after = list(self.blocks[seq])
        for place in range(len(self.tokens[seq]), len(self.tokens[seq]) + n):
            if place % self.BLOCK_SIZE == 0:
                after.append(object())
            elif sum(after[-1] in blocks for blocks in self.blocks.values()) > 1:
                after[-1] = object()
        others = {id(block) for name, blocks in self.blocks.items() if name != seq for block in blocks}
        if len(others | {id(block) for block in after}) > self.NUM_BLOCKS:
            with pytest.raises(MemoryError):
                self.cache.append(seq, k, -k)
        else:
            self.cache.append(seq, k, -k)
            self.tokens[seq] += k.unbind(1)
            self.blocks[seq] = after

    @precondition(lambda self: self.tokens)
    @rule(seq=NAMES, new=NAMES)
    def fork(self, seq: object, new: object) -> None:
        if seq not in self.tokens and new in self.tokens:
            return  # which of the two errors it is, is not fixed
        if seq not in self.tokens or new in self.tokens:
            with pytest.raises(KeyError if seq not in self.tokens else ValueError):
                self.cache.fork(seq, new)
        else:
            self.cache.fork(seq, new)
            self.tokens[new], self.blocks[new] = list(self.tokens[seq]), list(self.blocks[seq])

    @rule(seq=NAMES)
    def free(self, seq: object) -> None:
        if seq in self.tokens:
            self.cache.free(seq)
            del self.tokens[seq], self.blocks[seq]
        else:
            with pytest.raises(KeyError):
                self.cache.free(seq)

    @invariant()
    def cache_holds_what_the_lists_hold(self) -> None:
        for seq, tokens in self.tokens.items():
            keys, values = self.cache.gather(seq)
            wanted = torch.stack(tokens, dim=1) if tokens else torch.zeros(HEADS, 0, DIM, dtype=torch.float64)
            assert self.cache.length(seq) == len(tokens)
            assert torch.equal(keys, wanted) and torch.equal(values, -wanted)

    @invariant()
    def blocks_are_counted_once(self) -> None:
        assert self.cache.num_free == self.NUM_BLOCKS - len(self.held())

    @invariant()
    def the_pool_stays_where_it_is(self) -> None:
        assert (self.cache.keys.data_ptr(), self.cache.values.data_ptr()) == self.places

    def teardown(self) -> None:
        for seq in self.tokens:
            self.cache.free(seq)
        assert self.cache.num_free == self.NUM_BLOCKS
        self.cache.add("all")
        everything = torch.ones(HEADS, self.NUM_BLOCKS * self.BLOCK_SIZE, DIM, dtype=torch.float64)
        self.cache.append("all", everything, everything)  # each block can be used still


FEW = settings(max_examples=60, stateful_step_count=25, deadline=None)
TestAllocator = AllocatorBesideSets.TestCase
TestAllocator.settings = FEW
TestCache = CacheBesideLists.TestCase
TestCache.settings = FEW


@given(
    lengths=st.lists(st.integers(1, 9), min_size=1, max_size=4),
    block_size=st.integers(1, 5),
    dtype=st.sampled_from([torch.float16, torch.bfloat16, torch.float32]),
)
@settings(max_examples=40, deadline=None)
def test_attention_over_blocks_equals_attention_over_one_piece(lengths: list[int], block_size: int, dtype: torch.dtype) -> None:
    """Sequences that grow in turn, one token at a time, beside caches of one piece each."""
    generator = torch.Generator().manual_seed(sum(lengths))
    needed = sum(-(-length // block_size) for length in lengths)
    pages = paged.PagedKVCache(needed, block_size, HEADS, DIM, dtype)
    pieces = [contiguous.KVCache(1, HEADS, length, DIM, dtype) for length in lengths]
    for seq in range(len(lengths)):
        pages.add(seq)
    for step in range(max(lengths)):
        for seq, length in enumerate(lengths):
            if step < length:
                q, k, v = torch.randn(3, HEADS, 1, DIM, generator=generator).to(dtype)
                pages.append(seq, k, v)
                k_all, v_all = pieces[seq].append(k[None], v[None])
                wanted = F.scaled_dot_product_attention(q, k_all[0], v_all[0])
                assert torch.equal(F.scaled_dot_product_attention(q, *pages.gather(seq)), wanted)
    assert pages.num_free == 0


def test_what_goes_in_and_out_is_not_the_pools() -> None:
    cache = paged.PagedKVCache(2, 4, HEADS, DIM)
    k = torch.ones(HEADS, 2, DIM, requires_grad=True)
    cache.add("a")
    cache.append("a", k, 2 * k)
    keys, values = cache.gather("a")
    assert not keys.requires_grad and not values.requires_grad
    keys += 5
    with torch.no_grad():
        k += 7
    assert torch.equal(cache.gather("a")[0], torch.ones(HEADS, 2, DIM))
    cache.free("a")
    cache.add("b")
    cache.append("b", torch.zeros(HEADS, 8, DIM), torch.zeros(HEADS, 8, DIM))
    assert torch.equal(values, torch.full((HEADS, 2, DIM), 2.0))
