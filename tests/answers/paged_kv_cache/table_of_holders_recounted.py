"""Counts nothing: who holds what is found by looking at all tables; tokens are written one by one."""

import torch


class BlockAllocator:
    def __init__(self, num_blocks):
        self.holds = [0 for _ in range(num_blocks)]

    @property
    def num_free(self):
        return self.holds.count(0)

    def allocate(self):
        for block, count in enumerate(self.holds):
            if count == 0:
                self.holds[block] += 1
                return block
        raise MemoryError

    def _check(self, block):
        if block not in range(len(self.holds)) or self.holds[block] <= 0:
            raise ValueError(block)

    def share(self, block):
        self._check(block)
        self.holds[block] = self.holds[block] + 1

    def free(self, block):
        self._check(block)
        self.holds[block] = self.holds[block] - 1


class PagedKVCache:
    def __init__(self, num_blocks, block_size, num_heads, head_dim, dtype=torch.float32):
        self.k = torch.empty((num_heads, num_blocks, block_size, head_dim), dtype=dtype)
        self.v = torch.empty((num_heads, num_blocks, block_size, head_dim), dtype=dtype)
        self.n, self.size = num_blocks, block_size
        self.seqs = {}  # name: (list of blocks, number of tokens)

    def holders(self, block):
        return sum(block in blocks for blocks, _ in self.seqs.values())

    def free_blocks(self):
        held = set()
        for blocks, _ in self.seqs.values():
            held.update(blocks)
        return [b for b in range(self.n) if b not in held]

    @property
    def num_free(self):
        return len(self.free_blocks())

    def add(self, seq):
        if seq in self.seqs:
            raise ValueError(f"{seq} is there already")
        self.seqs[seq] = ([], 0)

    def length(self, seq):
        return self.seqs[seq][1]

    @torch.no_grad()
    def append(self, seq, k, v):
        blocks, t = self.seqs[seq]
        blocks = blocks.copy()
        free = self.free_blocks()
        try:
            for i in range(k.size(1)):
                place = t % self.size
                if place == 0:
                    blocks.append(free.pop(0))
                elif self.holders(blocks[-1]) > 1 and i == 0:
                    old = blocks.pop()
                    blocks.append(free.pop(0))
                    self.k[:, blocks[-1], :place] = self.k[:, old, :place]
                    self.v[:, blocks[-1], :place] = self.v[:, old, :place]
                self.k[:, blocks[-1], place] = k[:, i]
                self.v[:, blocks[-1], place] = v[:, i]
                t += 1
        except IndexError:  # what was written lies behind all lengths, where nobody reads
            raise MemoryError("out of blocks") from None
        self.seqs[seq] = (blocks, t)

    def gather(self, seq):
        blocks, t = self.seqs[seq]
        index = torch.tensor(blocks, dtype=torch.long)
        return tuple(x.index_select(1, index).flatten(1, 2)[:, :t].clone() for x in (self.k, self.v))

    def fork(self, seq, new):
        blocks, t = self.seqs[seq]
        self.add(new)
        self.seqs[new] = (blocks[:], t)

    def free(self, seq):
        del self.seqs[seq]
