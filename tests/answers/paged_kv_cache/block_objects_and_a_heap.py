"""Each block is an object with tensors of its own, made beforehand; free ones lie in a heap; rolls back on failure."""

import heapq
import itertools

import torch


class OutOfBlocks(MemoryError):
    """The pool is empty."""


class BlockAllocator:
    def __init__(self, num_blocks):
        self.heap = list(range(num_blocks))
        self.refs = {}
        self.total = num_blocks

    num_free = property(lambda self: len(self.heap))

    def allocate(self):
        try:
            block = heapq.heappop(self.heap)
        except IndexError as error:
            raise OutOfBlocks(f"none of {self.total} blocks is free") from error
        self.refs[block] = 1
        return block

    def share(self, block):
        if block not in self.refs:
            raise ValueError(f"block {block} is not allocated")
        self.refs[block] += 1

    def free(self, block):
        if block not in self.refs:
            raise ValueError(f"block {block} is not allocated")
        left = self.refs.pop(block) - 1
        if left:
            self.refs[block] = left
        else:
            heapq.heappush(self.heap, block)


class Block:
    __slots__ = ("k", "v")

    def __init__(self, shape, dtype):
        self.k, self.v = torch.full(shape, torch.nan, dtype=dtype), torch.full(shape, torch.nan, dtype=dtype)

    def copy_from(self, other):
        self.k.copy_(other.k)
        self.v.copy_(other.v)

    def write(self, start, k, v):
        self.k[:, start : start + k.shape[1]] = k
        self.v[:, start : start + v.shape[1]] = v


class Sequence:
    def __init__(self, table=(), length=0):
        self.table, self.length = list(table), length


class PagedKVCache:
    def __init__(self, num_blocks, block_size, num_heads, head_dim, dtype=torch.float32):
        self.allocator = BlockAllocator(num_blocks)
        self.blocks = tuple(Block((num_heads, block_size, head_dim), dtype) for _ in range(num_blocks))
        self.block_size, self.shape, self.dtype = block_size, (num_heads, 0, head_dim), dtype
        self.sequences = {}

    @property
    def num_free(self):
        return self.allocator.num_free

    def add(self, seq):
        if self.sequences.setdefault(seq, fresh := Sequence()) is not fresh:
            raise ValueError(f"duplicate sequence: {seq!r}")

    def length(self, seq):
        return self.sequences[seq].length

    def append(self, seq, k, v):
        sequence = self.sequences[seq]
        k, v = k.detach(), v.detach()
        taken = []
        filled = sequence.length % self.block_size
        must_copy = filled > 0 and self.allocator.refs[sequence.table[-1]] > 1
        room = (self.block_size - filled) % self.block_size
        fresh = max(0, -(-(k.shape[1] - room) // self.block_size))
        try:
            for _ in range(fresh + must_copy):
                taken.append(self.allocator.allocate())
        except OutOfBlocks:
            for block in taken:
                self.allocator.free(block)
            raise
        if must_copy:
            old = sequence.table.pop()
            sequence.table.append(taken.pop(0))
            self.blocks[sequence.table[-1]].copy_from(self.blocks[old])
            self.allocator.free(old)
        first = [room] if room else []
        targets = sequence.table[-1:] * bool(room) + taken
        sizes = first + [self.block_size] * len(taken)
        ends = list(itertools.accumulate(sizes))
        for block, size, end in zip(targets, sizes, ends, strict=True):
            start = end - size
            self.blocks[block].write(self.block_size - size, k[:, start:end], v[:, start:end])
        sequence.table += taken
        sequence.length += k.shape[1]

    def gather(self, seq):
        sequence = self.sequences[seq]
        empty = torch.empty(self.shape, dtype=self.dtype)
        keys = torch.cat([empty, *(self.blocks[block].k for block in sequence.table)], dim=1)
        values = torch.cat([empty, *(self.blocks[block].v for block in sequence.table)], dim=1)
        return keys[:, : sequence.length], values[:, : sequence.length]

    def fork(self, seq, new):
        parent = self.sequences[seq]
        if new in self.sequences:
            raise ValueError(f"duplicate sequence: {new!r}")
        self.sequences[new] = Sequence(parent.table, parent.length)
        for block in parent.table:
            self.allocator.share(block)

    def free(self, seq):
        for block in reversed(self.sequences.pop(seq).table):
            self.allocator.free(block)
