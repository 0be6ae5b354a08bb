"""Paged key-value cache.

A server answers a hundred users at once, and nobody knows how long any of the
answers will become. Room in one piece for the longest possible text stays
mostly empty; room that grows must move. And when one prompt is to be answered
in ten ways, its keys and values lie there ten times. Operating systems had
this trouble with the memory of programs, and solved it with pages.

Write an allocator that hands out the blocks of a pool and counts who holds
them, and a cache for many sequences whose tokens lie in such blocks, wherever
one was free. A fork shares the blocks of the sequence it comes from until one
of the two writes. When the blocks run out, the call that wanted them fails,
and nothing else does.

H heads, D head size; n tokens that are new, t tokens in all.
"""

from collections.abc import Hashable

import torch
from torch import Tensor


class BlockAllocator:
    """The blocks of a pool, as numbers, each with a count of those who hold it.

    Args:
        num_blocks: how many there are.

    Attributes:
        num_free: blocks that nobody holds, an int; num_blocks at first.

    Source: Kwon et al. 2023, "Efficient Memory Management for Large Language
    Model Serving with PagedAttention", sections 4.2 and 4.4.

    >>> allocator = BlockAllocator(num_blocks=2)
    >>> block = allocator.allocate()
    >>> allocator.share(block)  # two hold it
    >>> allocator.free(block)
    >>> allocator.num_free
    1
    >>> allocator.free(block)
    >>> allocator.num_free
    2
    """

    def __init__(self, num_blocks: int):
        self.holders = [0] * num_blocks
        self.free_blocks = list(reversed(range(num_blocks)))

    @property
    def num_free(self) -> int:
        return len(self.free_blocks)

    def allocate(self) -> int:
        """Hand out a free block; it is held once now.

        Returns:
            Its number, an int from 0 to num_blocks - 1. Which of the free
            blocks it is, is up to you.

        Raises:
            MemoryError: no block is free.
        """
        if not self.free_blocks:
            raise MemoryError(f"all {len(self.holders)} blocks are held")
        block = self.free_blocks.pop()
        self.holders[block] = 1
        return block

    def share(self, block: int) -> None:
        """One more holds the block.

        Raises:
            ValueError: nobody holds it, or there is no block of that number,
                -1 included. Nothing has changed then.
        """
        self._must_be_held(block)
        self.holders[block] += 1

    def free(self, block: int) -> None:
        """One fewer holds the block; without holders it is free again.

        Raises:
            ValueError: nobody holds it, so that it cannot be freed again, or
                there is no block of that number, -1 included. Nothing has
                changed then.
        """
        self._must_be_held(block)
        self.holders[block] -= 1
        if self.holders[block] == 0:
            self.free_blocks.append(block)

    def _must_be_held(self, block: int) -> None:
        if not (0 <= block < len(self.holders) and self.holders[block] > 0):
            raise ValueError(f"nobody holds block {block}")


class PagedKVCache:
    """Keys and values of one layer, for many sequences, in blocks of one pool.

    The pool, with room for num_blocks blocks, is made once, in the
    constructor; no other keys and values are kept, and it never moves. A
    sequence of t tokens holds ceil(t / block_size) blocks: each is full but
    the last. A block held by several sequences is there once.

    A sequence is named by anything that a dict takes as a key.

    Args:
        num_blocks: blocks in the pool.
        block_size: tokens for which a block has room.
        num_heads: heads, H.
        head_dim: head size, D.
        dtype: of the keys and values that go in and come out.

    Attributes:
        num_free: blocks that no sequence holds, an int; num_blocks at first,
            and again when all sequences are freed, whatever happened between.

    Source: Kwon et al. 2023, "Efficient Memory Management for Large Language
    Model Serving with PagedAttention", sections 4.2 to 4.4.

    >>> cache = PagedKVCache(num_blocks=8, block_size=4, num_heads=2, head_dim=3)
    >>> cache.add("question")
    >>> cache.append("question", torch.ones(2, 6, 3), torch.ones(2, 6, 3))
    >>> cache.fork("question", "other answer")
    >>> cache.num_free  # 6 tokens take 2 blocks, for both
    6
    >>> cache.append("other answer", torch.zeros(2, 1, 3), torch.zeros(2, 1, 3))
    >>> cache.num_free, cache.length("question"), cache.length("other answer")
    (5, 6, 7)
    >>> k, v = cache.gather("other answer")
    >>> k.shape, k[0, :, 0]
    (torch.Size([2, 7, 3]), tensor([1., 1., 1., 1., 1., 1., 0.]))
    """

    def __init__(self, num_blocks: int, block_size: int, num_heads: int, head_dim: int, dtype: torch.dtype = torch.float32):
        self.block_size = block_size
        self.allocator = BlockAllocator(num_blocks)
        self.keys = torch.zeros(num_blocks, block_size, num_heads, head_dim, dtype=dtype)
        self.values = torch.zeros_like(self.keys)
        self.tables: dict[Hashable, list[int]] = {}  # of each sequence: its blocks, in order
        self.lengths: dict[Hashable, int] = {}

    @property
    def num_free(self) -> int:
        return self.allocator.num_free

    def add(self, seq: Hashable) -> None:
        """Begin a sequence without tokens; it holds no block yet.

        Raises:
            ValueError: the name is in use. Nothing has changed then.
        """
        self._must_be_new(seq)
        self.tables[seq], self.lengths[seq] = [], 0

    def length(self, seq: Hashable) -> int:
        """Tokens of a sequence, an int.

        Raises:
            KeyError: no sequence has that name.
        """
        return self.lengths[seq]

    def append(self, seq: Hashable, k: Tensor, v: Tensor) -> None:
        """Put the next n tokens behind those of a sequence.

        They go to the free places of its last block, then to new blocks. Into
        a block that others hold too nothing is written: if such a block is
        the last one and not full, a new block takes its place, with a copy of
        what is in it, and the others keep the old one. That is all that is
        ever copied; where nobody else holds the last block, the tokens go
        into it as it is.

        Args:
            seq: the sequence.
            k: their keys, (H, n, D), n ≥ 1; no gradient flows back to them,
                for the cache keeps no autograd graph.
            v: their values, (H, n, D); likewise.

        Raises:
            KeyError: no sequence has that name. Nothing has changed then.
            MemoryError: fewer blocks are free than it takes. All lengths,
                tokens and blocks are then as they were before.
        """
        table, start = self.tables[seq], self.lengths[seq]
        end = start + k.shape[1]
        copies = start % self.block_size > 0 and self.allocator.holders[table[-1]] > 1
        new = -(-end // self.block_size) - len(table)
        if new + copies > self.num_free:
            raise MemoryError(f"{new + copies} blocks are needed, {self.num_free} are free")
        if copies:
            shared, table[-1] = table[-1], self.allocator.allocate()
            self.keys[table[-1]] = self.keys[shared]
            self.values[table[-1]] = self.values[shared]
            self.allocator.free(shared)
        table += [self.allocator.allocate() for _ in range(new)]
        slots = self._slots(table, start, end)
        self.keys.flatten(0, 1)[slots] = k.detach().transpose(0, 1)
        self.values.flatten(0, 1)[slots] = v.detach().transpose(0, 1)
        self.lengths[seq] = end

    def gather(self, seq: Hashable) -> tuple[Tensor, Tensor]:
        """All tokens of a sequence, oldest first.

        Returns:
            Keys and values, each (H, t, D), as new tensors: what is done to
            the cache later does not change them, and what is done to them
            does not change the cache. t may be 0.

        Raises:
            KeyError: no sequence has that name.
        """
        slots = self._slots(self.tables[seq], 0, self.lengths[seq])
        return self.keys.flatten(0, 1)[slots].transpose(0, 1), self.values.flatten(0, 1)[slots].transpose(0, 1)

    def fork(self, seq: Hashable, new: Hashable) -> None:
        """Begin a sequence with all tokens of another; it shares the blocks, full or not, and takes none.

        From then on neither sees what is done to the other.

        Raises:
            KeyError: no sequence is named seq. Nothing has changed then.
            ValueError: the name new is in use. Nothing has changed then.
        """
        self._must_be_new(new)
        for block in self.tables[seq]:
            self.allocator.share(block)
        self.tables[new], self.lengths[new] = list(self.tables[seq]), self.lengths[seq]

    def free(self, seq: Hashable) -> None:
        """Forget a sequence; blocks that no other holds are free again, and so is the name.

        Raises:
            KeyError: no sequence has that name. Nothing has changed then.
        """
        for block in self.tables.pop(seq):
            self.allocator.free(block)
        del self.lengths[seq]

    def _must_be_new(self, seq: Hashable) -> None:
        if seq in self.tables:
            raise ValueError(f"there is a sequence {seq!r} already")

    def _slots(self, table: list[int], start: int, end: int) -> Tensor:
        """Where in the pool, counted in tokens, those from start up to, not including, end have their places."""
        size = self.block_size
        return torch.tensor([table[i // size] * size + i % size for i in range(start, end)], dtype=torch.int64)
