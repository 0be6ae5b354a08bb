"""Reference counts and block tables are NumPy arrays; one tensor (2, H, slots, D) holds keys and values."""

import numpy as np
import torch


class BlockAllocator:
    def __init__(self, num_blocks):
        self.refs = np.zeros(num_blocks, dtype=np.int32)
        self.num_free = num_blocks

    def allocate(self):
        free = np.flatnonzero(self.refs == 0)
        if not free.size:
            raise MemoryError("no free block")
        block = int(free[-1])
        self.refs[block] = 1
        self.num_free -= 1
        return block

    def valid(self, block):
        if block < 0 or block >= self.refs.size or not self.refs[block]:
            raise ValueError(f"block {block} is not in use")

    def share(self, block):
        self.valid(block)
        self.refs[block] += 1

    def free(self, block):
        self.valid(block)
        self.refs[block] -= 1
        self.num_free += int(self.refs[block] == 0)


class PagedKVCache(torch.nn.Module):
    def __init__(self, num_blocks, block_size, num_heads, head_dim, dtype=torch.float32):
        super().__init__()
        self.register_buffer("pool", torch.zeros(2, num_heads, num_blocks * block_size, head_dim, dtype=dtype))
        self.blocks = BlockAllocator(num_blocks)
        self.table = np.full((0, num_blocks), -1)  # a row for each sequence
        self.lengths = np.zeros(0, dtype=np.int64)
        self.rows = {}
        self.b = block_size

    @property
    def num_free(self):
        return self.blocks.num_free

    def row(self, seq):
        if seq not in self.rows:
            raise KeyError(seq)
        return self.rows[seq]

    def add(self, seq):
        if seq in self.rows:
            raise ValueError(seq)
        unused = set(range(len(self.lengths))) - set(self.rows.values())
        if not unused:
            self.table = np.concatenate([self.table, np.full((1, self.table.shape[1]), -1)])
            self.lengths = np.append(self.lengths, 0)
            unused = {len(self.lengths) - 1}
        row = min(unused)
        self.rows[seq] = row
        self.table[row], self.lengths[row] = -1, 0

    def length(self, seq):
        return int(self.lengths[self.row(seq)])

    def slots(self, row, positions):
        return torch.from_numpy(self.table[row][positions // self.b] * self.b + positions % self.b)

    def append(self, seq, k, v):
        row = self.row(seq)
        t, n = int(self.lengths[row]), k.shape[1]
        first, last = t // self.b, (t + n - 1) // self.b
        partial = t % self.b != 0
        shared = partial and self.blocks.refs[self.table[row, first]] > 1
        if last - first + 1 - int(partial) + int(shared) > self.num_free:
            raise MemoryError(f"cannot append {n} tokens")
        for i in range(first + int(partial), last + 1):
            self.table[row, i] = self.blocks.allocate()
        if shared:
            old, new = int(self.table[row, first]), self.blocks.allocate()
            self.pool[:, :, new * self.b : (new + 1) * self.b] = self.pool[:, :, old * self.b : (old + 1) * self.b]
            self.table[row, first] = new
            self.blocks.free(old)
        with torch.no_grad():
            self.pool[:, :, self.slots(row, np.arange(t, t + n))] = torch.stack([k, v])
        self.lengths[row] += n

    def gather(self, seq):
        row = self.row(seq)
        k, v = self.pool.index_select(2, self.slots(row, np.arange(self.lengths[row]))).unbind()
        return k, v

    def fork(self, seq, new):
        parent = self.row(seq)
        self.add(new)
        child = self.rows[new]
        self.table[child], self.lengths[child] = self.table[parent], self.lengths[parent]
        for block in self.table[child][self.table[child] >= 0].tolist():
            self.blocks.share(block)

    def free(self, seq):
        row = self.row(seq)
        for block in self.table[row][self.table[row] >= 0].tolist():
            self.blocks.free(block)
        self.table[row] = -1
        del self.rows[seq]
