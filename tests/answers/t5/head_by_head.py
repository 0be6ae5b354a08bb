"""One head at a time and one query at a time where that is simple; parameters as plain tensors; a bucket found by counting borders."""

import torch
from torch import nn
from torch.nn import Parameter


def relative_position_bucket(relative, bidirectional=True, num_buckets=32, max_distance=128):
    N = num_buckets // 2 if bidirectional else num_buckets
    E = N // 2
    # bucket E + k begins at E (max_distance / E)^(k / (N - E)); count the borders that a distance has passed
    k = torch.arange(1, N - E, dtype=torch.float64)
    borders = E * (max_distance / E) ** (k / (N - E))
    n = relative.abs() if bidirectional else -relative.clamp(max=0)
    passed = (n.unsqueeze(-1).double() >= borders - 1e-9).sum(-1)
    bucket = torch.minimum(n, passed + E)
    if bidirectional:
        bucket = bucket + N * (relative > 0).long()
    return bucket


class RelativeBias(nn.Module):
    def __init__(self, num_heads, num_buckets=32, max_distance=128, bidirectional=True):
        super().__init__()
        self.embedding = nn.Module()
        self.embedding.weight = Parameter(torch.zeros(num_buckets, num_heads))
        self.num_buckets, self.max_distance, self.bidirectional = num_buckets, max_distance, bidirectional

    def forward(self, L, S, offset=0):
        rows = []
        for i in range(L):
            relative = torch.arange(S) - (offset + i)
            rows.append(
                self.embedding.weight[relative_position_bucket(relative, self.bidirectional, self.num_buckets, self.max_distance)].T
            )
        return torch.stack(rows, dim=1)[None]


class Matrix(nn.Module):
    def __init__(self, rows, columns):
        super().__init__()
        self.weight = Parameter(torch.randn(rows, columns) / columns**0.5)

    def forward(self, x):
        return torch.einsum("...i,oi->...o", x, self.weight)


class T5Attention(nn.Module):
    def __init__(self, d_model, num_heads, head_dim):
        super().__init__()
        self.H, self.D = num_heads, head_dim
        self.q_proj, self.k_proj, self.v_proj = (Matrix(num_heads * head_dim, d_model) for _ in range(3))
        self.out_proj = Matrix(d_model, num_heads * head_dim)

    def forward(self, x, memory=None, bias=None, mask=None):
        memory = x if memory is None else memory
        full = (x.shape[0], self.H, x.shape[1], memory.shape[1])
        bias = torch.zeros(1, dtype=x.dtype).expand(full) if bias is None else bias.expand(full)
        mask = torch.ones(1, dtype=torch.bool).expand(full) if mask is None else mask.expand(full)
        q, k, v = self.q_proj(x), self.k_proj(memory), self.v_proj(memory)
        heads = []
        for h in range(self.H):
            own = slice(h * self.D, (h + 1) * self.D)
            scores = torch.einsum("bld,bsd->bls", q[..., own], k[..., own]) + bias[:, h]
            scores = torch.where(mask[:, h], scores, -torch.inf)
            e = (scores - scores.amax(-1, keepdim=True)).exp()
            heads.append(torch.einsum("bls,bsd->bld", e / e.sum(-1, keepdim=True), v[..., own]))
        return self.out_proj(torch.cat(heads, -1))


class Norm(nn.Module):
    def __init__(self, size):
        super().__init__()
        self.weight = Parameter(torch.ones(size))

    def forward(self, x):
        return x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt() * self.weight


class T5Block(nn.Module):
    def __init__(self, d_model, num_heads, head_dim, d_hidden, decoder=False):
        super().__init__()
        self.parts = ["attn", "cross", "ff"] if decoder else ["attn", "ff"]
        self.attn, self.norm1, self.norm2 = T5Attention(d_model, num_heads, head_dim), Norm(d_model), Norm(d_model)
        self.ff = nn.Module()
        self.ff.up, self.ff.down = Matrix(d_hidden, d_model), Matrix(d_model, d_hidden)
        if decoder:
            self.cross_attn, self.cross_norm = T5Attention(d_model, num_heads, head_dim), Norm(d_model)

    def forward(self, x, bias=None, mask=None, memory=None, memory_mask=None):
        for part in self.parts:
            if part == "attn":
                change = self.attn(self.norm1(x), bias=bias, mask=mask)
            elif part == "cross":
                change = self.cross_attn(self.cross_norm(x), memory, mask=memory_mask)
            else:
                change = self.ff.down(self.ff.up(self.norm2(x)).clamp(min=0))
            x = x + change
        return x


def corrupt_spans(ids, spans, first_sentinel):
    def walk(place, left, sentinel):
        if not left:
            return ids[place:], [sentinel]
        (start, length), *others = left
        if start < place or length < 1 or len(ids) < start + length:
            raise ValueError(f"bad span {(start, length)}")
        inputs, targets = walk(start + length, others, sentinel - 1)
        return [*ids[place:start], sentinel, *inputs], [sentinel, *ids[start : start + length], *targets]

    return walk(0, sorted(map(tuple, spans)), first_sentinel)
