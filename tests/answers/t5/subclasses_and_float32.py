"""RelativeBias is an Embedding's owner that computes in float32; attention inherits a common base; spans are cut from right to left."""

import torch
import torch.nn.functional as F
from torch import nn


def relative_position_bucket(relative, bidirectional=True, num_buckets=32, max_distance=128):
    out = torch.zeros_like(relative)
    if bidirectional:
        half = num_buckets // 2
        ahead = relative > 0
        out[ahead] = half
        return out + relative_position_bucket(-relative.abs(), False, half, max_distance)
    n = torch.relu(-relative)
    exact = num_buckets // 2
    steps = torch.log2(n.clamp(min=1).double() / exact) / torch.log2(torch.tensor(max_distance / exact, dtype=torch.float64))
    large = (exact + torch.floor(steps * (num_buckets - exact) + 1e-9)).clamp(max=num_buckets - 1)
    return torch.where(n < exact, n, large.to(torch.int64))


class RelativeBias(nn.Module):
    def __init__(self, num_heads, num_buckets=32, max_distance=128, bidirectional=True):
        super().__init__()
        self.embedding = nn.Embedding(num_buckets, num_heads)
        nn.init.normal_(self.embedding.weight, std=0.1)
        self.bucket = lambda relative: relative_position_bucket(relative, bidirectional, num_buckets, max_distance)

    def forward(self, L, S, offset=0):
        everything = self.bucket(torch.arange(max(S, offset + L))[None, :] - torch.arange(offset + L)[:, None])
        weight = self.embedding.weight.t()  # (H, buckets)
        return weight[:, everything[offset:, :S]].unsqueeze(0)


class WithoutBias(nn.Linear):
    def __init__(self, inputs, outputs):
        super().__init__(inputs, outputs, bias=False)


class RMSNorm(nn.Module):
    def __init__(self, size):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))

    def forward(self, x):
        return F.normalize(x, dim=-1, eps=0.0) * self.factor(x) * self.weight

    def factor(self, x):
        square = x.pow(2).mean(-1, keepdim=True)
        return (x.shape[-1] * square / (square + 1e-6)).sqrt()


class Projections(nn.Module):
    def __init__(self, d_model, num_heads, head_dim):
        super().__init__()
        self.num_heads = num_heads
        self.q_proj, self.k_proj, self.v_proj = (WithoutBias(d_model, num_heads * head_dim) for _ in "qkv")
        self.out_proj = WithoutBias(num_heads * head_dim, d_model)

    def split(self, x):
        B, L, C = x.shape
        return x.reshape(B, L, self.num_heads, C // self.num_heads).permute(0, 2, 1, 3)


class T5Attention(Projections):
    def forward(self, x, memory=None, bias=None, mask=None):
        memory = memory if memory is not None else x
        q, k, v = self.split(self.q_proj(x)), self.split(self.k_proj(memory)), self.split(self.v_proj(memory))
        scores = torch.einsum("bhld,bhsd->bhls", q, k)
        scores = scores if bias is None else scores + bias
        scores = scores if mask is None else scores.masked_fill(mask.logical_not(), float("-inf"))
        out = F.softmax(scores, dim=-1) @ v
        return self.out_proj(out.permute(0, 2, 1, 3).reshape(*x.shape[:2], -1))


class T5Block(nn.Module):
    def __init__(self, d_model, num_heads, head_dim, d_hidden, decoder=False):
        super().__init__()
        self.ff = nn.ModuleDict()
        self.ff["up"], self.ff["down"] = WithoutBias(d_model, d_hidden), WithoutBias(d_hidden, d_model)
        self.attn = T5Attention(d_model, num_heads, head_dim)
        self.norm1, self.norm2 = RMSNorm(d_model), RMSNorm(d_model)
        if decoder:
            self.cross_attn, self.cross_norm = T5Attention(d_model, num_heads, head_dim), RMSNorm(d_model)

    def forward(self, x, bias=None, mask=None, memory=None, memory_mask=None):
        x = x + self.attn(self.norm1(x), bias=bias, mask=mask)
        if hasattr(self, "cross_attn"):
            x = x + self.cross_attn(self.cross_norm(x), memory=memory, mask=memory_mask)
        return x + self.ff["down"](self.ff["up"](self.norm2(x)).relu())


def corrupt_spans(ids, spans, first_sentinel):
    inputs, asked, end = list(ids), [], len(ids)
    ordered = sorted(spans)
    for number in reversed(range(len(ordered))):
        start, length = ordered[number]
        if start < 0 or length <= 0 or start + length > end:
            raise ValueError("no such span")
        asked.append([first_sentinel - number] + inputs[start : start + length])
        inputs[start : start + length] = [first_sentinel - number]
        end = start
    return inputs, sum(reversed(asked), []) + [first_sentinel - len(spans)]
