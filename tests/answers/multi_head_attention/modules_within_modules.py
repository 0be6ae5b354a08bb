"""A module for the attention itself, a Linear of one's own, a softmax in float32 or wider, a float bias for the mask."""

import math
from typing import NamedTuple, Optional

import torch
from torch import Tensor, nn


class Projection(nn.Linear):
    def __init__(self, size: int, bias: bool):
        super().__init__(size, size, bias=bias)
        nn.init.xavier_uniform_(self.weight)
        if bias:
            nn.init.zeros_(self.bias)


class Attended(NamedTuple):
    out: Tensor
    weights: Tensor


class Heads:
    def __init__(self, model: int, number: int):
        if model < number or model % number:
            raise ValueError(f"num_heads={number} does not divide d_model={model}")
        self.number, self.size = number, model // number

    def split(self, x: Tensor) -> Tensor:
        batch, length, _ = x.shape
        return torch.as_strided(x.contiguous(), (batch, self.number, length, self.size), (length * x.shape[2], self.size, x.shape[2], 1), 0)


def split_heads(x: Tensor, num_heads: int) -> Tensor:
    return Heads(x.shape[-1], num_heads).split(x.clone())


def merge_heads(x: Tensor) -> Tensor:
    batch, heads, length, size = x.shape
    out = x.new_zeros(batch, length, heads * size)
    for h in range(heads):
        out[:, :, h * size : (h + 1) * size] = x[:, h]
    return out


class ScaledDotProduct(nn.Module):
    def __init__(self, dropout: float):
        super().__init__()
        self.dropout = nn.Dropout(dropout)

    def forward(self, q: Tensor, k: Tensor, v: Tensor, mask: Optional[Tensor]) -> Attended:
        scores = torch.matmul(q, k.transpose(-1, -2)) / math.sqrt(k.shape[-1])
        if mask is not None:
            bias = torch.zeros(mask.shape, dtype=scores.dtype).masked_fill(~mask, -math.inf)
            scores = scores + bias
            nothing = ~mask.any(dim=-1, keepdim=True)
            scores = torch.where(nothing, torch.zeros_like(scores), scores)
        wide = torch.promote_types(scores.dtype, torch.float32)
        weights = torch.softmax(scores.to(wide), dim=-1).to(q.dtype)
        if mask is not None:
            weights = torch.where(nothing, torch.zeros_like(weights), weights)
        weights = self.dropout(weights)
        return Attended(weights.matmul(v), weights)


class MultiHeadAttention(nn.Module):
    def __init__(self, d_model: int, num_heads: int, dropout: float = 0.0, bias: bool = True):
        super().__init__()
        self.heads = Heads(d_model, num_heads)
        self.q_proj = Projection(d_model, bias)
        self.k_proj = Projection(d_model, bias)
        self.v_proj = Projection(d_model, bias)
        self.out_proj = Projection(d_model, bias)
        self.attend = ScaledDotProduct(dropout)

    def forward(self, query, key=None, value=None, mask=None, need_weights=False):
        key = query if key is None else key
        value = key if value is None else value
        if mask is not None:
            while mask.dim() < 3:
                mask = mask[None]
            mask = mask[:, None] if mask.dim() == 3 else mask
        inner = self.attend(
            split_heads(self.q_proj(query), self.heads.number),
            split_heads(self.k_proj(key), self.heads.number),
            split_heads(self.v_proj(value), self.heads.number),
            mask,
        )
        out = Attended(self.out_proj(merge_heads(inner.out)), inner.weights)
        return out if need_weights else out.out
