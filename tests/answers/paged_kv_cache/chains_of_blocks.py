"""A sequence is a chain of immutable links from its last block back to its first; forks share the tail of the chain."""

from collections import Counter, deque
from dataclasses import dataclass
from typing import Optional

import torch
from torch import Tensor


class BlockAllocator:
    def __init__(self, num_blocks: int) -> None:
        self._queue = deque(range(num_blocks))
        self._count: Counter[int] = Counter()

    @property
    def num_free(self) -> int:
        return len(self._queue)

    def refs(self, block: int) -> int:
        return self._count[block]

    def allocate(self) -> int:
        if self.num_free == 0:
            raise MemoryError("the pool is exhausted")
        block = self._queue.popleft()
        self._count[block] += 1
        return block

    def share(self, block: int) -> None:
        if self._count[block] < 1:
            raise ValueError("cannot share a free block")
        self._count[block] += 1

    def free(self, block: int) -> None:
        if self._count[block] < 1:
            raise ValueError("double free")
        self._count[block] -= 1
        if not self._count[block]:
            self._queue.append(block)


@dataclass(frozen=True)
class Link:
    block: int
    before: Optional["Link"]

    def walk(self):
        link = self
        while link is not None:
            yield link.block
            link = link.before


class PagedKVCache:
    def __init__(self, num_blocks: int, block_size: int, num_heads: int, head_dim: int, dtype: torch.dtype = torch.float32):
        self._alloc = BlockAllocator(num_blocks)
        self._size = block_size
        self._k = torch.zeros(num_blocks * block_size, num_heads * head_dim, dtype=dtype)
        self._v = torch.zeros(num_blocks * block_size, num_heads * head_dim, dtype=dtype)
        self._heads = num_heads
        self._ends: dict = {}
        self._lengths: dict = {}

    def __getattr__(self, name):
        if name == "num_free":
            return self._alloc.num_free
        raise AttributeError(name)

    def add(self, seq) -> None:
        if seq in self._ends:
            raise ValueError(seq)
        self._ends[seq], self._lengths[seq] = None, 0

    def length(self, seq) -> int:
        return self._lengths[seq]

    def _blocks(self, seq) -> list[int]:
        end = self._ends[seq]
        return [] if end is None else list(end.walk())[::-1]

    def _needed(self, seq, n: int) -> int:
        t = self._lengths[seq]
        needed = (t + n + self._size - 1) // self._size - (t + self._size - 1) // self._size
        if t % self._size and self._alloc.refs(self._ends[seq].block) > 1:
            needed += 1
        return needed

    @torch.inference_mode()
    def append(self, seq, k: Tensor, v: Tensor) -> None:
        if self._needed(seq, k.shape[1]) > self._alloc.num_free:
            raise MemoryError(f"no room for {k.shape[1]} tokens of {seq!r}")
        rows = [x.permute(1, 0, 2).reshape(x.shape[1], -1) for x in (k, v)]
        done = 0
        while done < k.shape[1]:
            done += self._fill(seq, rows[0][done:], rows[1][done:])

    def _fill(self, seq, k: Tensor, v: Tensor) -> int:
        """Write as much as goes into one block."""
        used = self._lengths[seq] % self._size
        end = self._ends[seq]
        if used == 0:
            self._ends[seq] = end = Link(self._alloc.allocate(), end)
        elif self._alloc.refs(end.block) > 1:
            copy = Link(self._alloc.allocate(), end.before)
            for pool in (self._k, self._v):
                pool[copy.block * self._size :][:used] = pool[end.block * self._size :][:used]
            self._alloc.free(end.block)
            self._ends[seq] = end = copy
        n = min(self._size - used, len(k))
        start = end.block * self._size + used
        self._k[start : start + n].copy_(k[:n])
        self._v[start : start + n].copy_(v[:n])
        self._lengths[seq] += n
        return n

    def gather(self, seq) -> tuple[Tensor, Tensor]:
        t = self._lengths[seq]
        out = []
        for pool in (self._k, self._v):
            rows = pool.new_empty(t, pool.shape[1])
            for i, block in enumerate(self._blocks(seq)):
                piece = rows[i * self._size : (i + 1) * self._size]
                piece.copy_(pool[block * self._size :][: len(piece)])
            out.append(
                rows.view(t, self._heads, -1).transpose(0, 1)
                if t
                else rows.view(0, self._heads, pool.shape[1] // self._heads).transpose(0, 1)
            )
        return out[0], out[1]

    def fork(self, seq, new) -> None:
        if new in self._ends:
            raise ValueError(new)
        blocks = self._blocks(seq)
        for block in blocks:
            self._alloc.share(block)
        self._ends[new], self._lengths[new] = self._ends[seq], self._lengths[seq]

    def free(self, seq) -> None:
        blocks = self._blocks(seq)
        for block in blocks:
            self._alloc.free(block)
        del self._ends[seq], self._lengths[seq]
