"""Each part of a block stands in a ModuleList as well, so its parameters have two names."""

import math

import torch
import torch.nn.functional as F
from torch import nn


def relative_position_bucket(relative, bidirectional=True, num_buckets=32, max_distance=128):
    bucket = torch.zeros_like(relative)
    if bidirectional:
        num_buckets //= 2
        bucket = (relative > 0).long() * num_buckets
        n = relative.abs()
    else:
        n = (-relative).clamp(min=0)
    exact = num_buckets // 2
    large = exact + (torch.log(n.clamp(min=1).float() / exact) / math.log(max_distance / exact) * (num_buckets - exact)).long()
    large = large.clamp(max=num_buckets - 1)
    return bucket + torch.where(n < exact, n, large)


class RelativeBias(nn.Module):
    def __init__(self, num_heads, num_buckets=32, max_distance=128, bidirectional=True):
        super().__init__()
        self.num_buckets = num_buckets
        self.max_distance = max_distance
        self.bidirectional = bidirectional
        self.embedding = nn.Embedding(num_buckets, num_heads)

    def forward(self, L, S, offset=0):
        queries = torch.arange(L) + offset
        relative = torch.arange(S)[None, :] - queries[:, None]
        buckets = relative_position_bucket(relative, self.bidirectional, self.num_buckets, self.max_distance)
        return self.embedding(buckets).permute(2, 0, 1).unsqueeze(0)


class T5Attention(nn.Module):
    def __init__(self, d_model, num_heads, head_dim):
        super().__init__()
        self.num_heads, self.head_dim = num_heads, head_dim
        inner = num_heads * head_dim
        self.q_proj = nn.Linear(d_model, inner, bias=False)
        self.k_proj = nn.Linear(d_model, inner, bias=False)
        self.v_proj = nn.Linear(d_model, inner, bias=False)
        self.out_proj = nn.Linear(inner, d_model, bias=False)

    def split(self, x):
        return x.view(x.shape[0], x.shape[1], self.num_heads, self.head_dim).transpose(1, 2)

    def forward(self, x, memory=None, bias=None, mask=None):
        memory = x if memory is None else memory
        q, k, v = self.split(self.q_proj(x)), self.split(self.k_proj(memory)), self.split(self.v_proj(memory))
        scores = q @ k.transpose(-2, -1)
        if bias is not None:
            scores = scores + bias
        if mask is not None:
            scores = scores.masked_fill(~mask, float("-inf"))
        out = scores.softmax(-1) @ v
        return self.out_proj(out.transpose(1, 2).reshape(x.shape[0], x.shape[1], -1))


class FeedForward(nn.Module):
    def __init__(self, d_model, d_hidden):
        super().__init__()
        self.up = nn.Linear(d_model, d_hidden, bias=False)
        self.down = nn.Linear(d_hidden, d_model, bias=False)

    def forward(self, x):
        return self.down(F.relu(self.up(x)))


class Residual(nn.Module):
    def __init__(self, norm, sub):
        super().__init__()
        self.norm, self.sub = norm, sub

    def forward(self, x, *args, **kwargs):
        return x + self.sub(self.norm(x), *args, **kwargs)


class T5Block(nn.Module):
    def __init__(self, d_model, num_heads, head_dim, d_hidden, decoder=False):
        super().__init__()
        self.norm1 = nn.RMSNorm(d_model, eps=1e-6)
        self.attn = T5Attention(d_model, num_heads, head_dim)
        if decoder:
            self.cross_norm = nn.RMSNorm(d_model, eps=1e-6)
            self.cross_attn = T5Attention(d_model, num_heads, head_dim)
        self.norm2 = nn.RMSNorm(d_model, eps=1e-6)
        self.ff = FeedForward(d_model, d_hidden)
        self.parts = nn.ModuleList([Residual(self.norm1, self.attn)])
        if decoder:
            self.parts.append(Residual(self.cross_norm, self.cross_attn))
        self.parts.append(Residual(self.norm2, self.ff))

    def forward(self, x, bias=None, mask=None, memory=None, memory_mask=None):
        first, *middle, last = self.parts
        x = first(x, bias=bias, mask=mask)
        for part in middle:
            x = part(x, memory=memory, mask=memory_mask)
        return last(x)


def corrupt_spans(ids, spans, first_sentinel):
    inputs, targets = [], []
    position, sentinel = 0, first_sentinel
    for start, length in sorted(spans):
        if length < 1 or start < position or start + length > len(ids):
            raise ValueError(f"bad span {(start, length)}")
        inputs += ids[position:start] + [sentinel]
        targets += [sentinel] + ids[start : start + length]
        position = start + length
        sentinel -= 1
    return inputs + ids[position:], targets + [sentinel]
