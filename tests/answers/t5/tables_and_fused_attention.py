"""Buckets from a table that plain Python fills in; the bias by one-hot rows; the fused attention with scale 1."""

import math

import torch
import torch.nn.functional as F
from torch import nn


def bucket_of(n, count, max_distance):
    exact = count // 2
    if n < exact:
        return n
    if n >= max_distance:
        return count - 1
    return min(count - 1, exact + math.floor((count - exact) * math.log(n / exact) / math.log(max_distance / exact)))


def relative_position_bucket(relative, bidirectional=True, num_buckets=32, max_distance=128):
    count = num_buckets // 2 if bidirectional else num_buckets
    table = torch.tensor([bucket_of(n, count, max_distance) for n in range(max_distance + 1)])
    back = table[(-relative).clamp(0, max_distance)]
    if not bidirectional:
        return back
    return torch.where(relative > 0, table[relative.clamp(0, max_distance)] + count, back)


class RelativeBias(nn.Module):
    def __init__(self, num_heads, num_buckets=32, max_distance=128, bidirectional=True):
        super().__init__()
        self.embedding = nn.Embedding(num_buckets, num_heads)
        self.rule = (bidirectional, num_buckets, max_distance)

    def forward(self, L, S, offset=0):
        # one number for each distance that occurs, then a window of it for each query
        distances = torch.arange(-(offset + L - 1), S)
        numbers = F.one_hot(relative_position_bucket(distances, *self.rule), self.rule[1]).to(self.embedding.weight.dtype)
        numbers = numbers @ self.embedding.weight  # (distances, H)
        rows = [numbers[L - 1 - i : L - 1 - i + S] for i in range(L)]
        return torch.stack(rows).movedim(-1, 0).unsqueeze(0)


class T5Attention(nn.Module):
    def __init__(self, d_model, num_heads, head_dim):
        super().__init__()
        self.heads = (num_heads, head_dim)
        for name in ("q_proj", "k_proj", "v_proj"):
            setattr(self, name, nn.Linear(d_model, num_heads * head_dim, bias=False))
        self.out_proj = nn.Linear(num_heads * head_dim, d_model, bias=False)

    def forward(self, x, memory=None, bias=None, mask=None):
        if memory is None:
            memory = x
        q, k, v = self.q_proj(x), self.k_proj(memory), self.v_proj(memory)
        q, k, v = (t.unflatten(2, self.heads).transpose(1, 2) for t in (q, k, v))
        if bias is not None and mask is not None:
            attn_mask = torch.where(mask, bias, float("-inf"))
        else:
            attn_mask = bias if bias is not None else mask
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=attn_mask, scale=1.0)
        return self.out_proj(out.transpose(1, 2).flatten(2))


class FF(nn.Sequential):
    def __init__(self, d_model, d_hidden):
        super().__init__()
        self.add_module("up", nn.Linear(d_model, d_hidden, bias=False))
        self.add_module("relu", nn.ReLU())
        self.add_module("down", nn.Linear(d_hidden, d_model, bias=False))


class T5Block(nn.Module):
    def __init__(self, d_model, num_heads, head_dim, d_hidden, decoder=False):
        super().__init__()
        self.attn, self.norm1 = T5Attention(d_model, num_heads, head_dim), nn.RMSNorm(d_model, eps=1e-6)
        self.cross_attn = T5Attention(d_model, num_heads, head_dim) if decoder else None
        self.cross_norm = nn.RMSNorm(d_model, eps=1e-6) if decoder else None
        self.ff, self.norm2 = FF(d_model, d_hidden), nn.RMSNorm(d_model, eps=1e-6)

    def forward(self, x, bias=None, mask=None, memory=None, memory_mask=None):
        x = self.attn(self.norm1(x), None, bias, mask) + x
        if self.cross_attn is not None:
            x = self.cross_attn(self.cross_norm(x), memory, None, memory_mask) + x
        return self.ff(self.norm2(x)) + x


def corrupt_spans(ids, spans, first_sentinel):
    ordered = sorted(spans, key=lambda span: span[0])
    borders = [0, *(place for start, length in ordered for place in (start, start + length)), len(ids)]
    if any(a > b for a, b in zip(borders, borders[1:])) or any(length < 1 for _, length in ordered):
        raise ValueError(f"spans {spans} do not fit")
    inputs, targets = ids[: borders[1]], []
    for i, (start, length) in enumerate(ordered):
        sentinel = first_sentinel - i
        inputs = inputs + [sentinel] + ids[start + length : borders[2 * i + 3]]
        targets = targets + [sentinel] + ids[start : start + length]
    return inputs, targets + [first_sentinel - len(ordered)]
