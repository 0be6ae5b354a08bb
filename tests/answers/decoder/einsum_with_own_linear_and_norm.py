"""Everything by hand: linear layers, norms and dropout of its own, einsum over head axes; the smallest number for what is blocked."""

from __future__ import annotations

from typing import Optional

import torch
from torch import Tensor
from torch.nn import Module, ModuleList, Parameter


class Linear(Module):
    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.weight = Parameter(torch.empty(outputs, inputs).uniform_(-1, 1).div_(inputs**0.5))
        self.bias = Parameter(torch.zeros(outputs))

    def forward(self, x: Tensor) -> Tensor:
        return torch.einsum("...i,oi->...o", x, self.weight).add(self.bias)


class LayerNorm(Module):
    def __init__(self, channels: int):
        super().__init__()
        self.weight, self.bias = Parameter(torch.ones(channels)), Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        centred = x - x.mean(-1, keepdim=True)
        return centred * torch.rsqrt(centred.square().mean(-1, keepdim=True) + 1e-5) * self.weight + self.bias


class Drop(Module):
    def __init__(self, p: float):
        super().__init__()
        self.keep = 1.0 - p

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.keep == 1.0:
            return x
        return x * torch.bernoulli(torch.full_like(x, self.keep)) / self.keep


class Attention(Module):
    def __init__(self, channels: int, heads: int, p: float):
        super().__init__()
        self.heads = heads
        self.out_proj = Linear(channels, channels)
        self.v_proj = Linear(channels, channels)
        self.k_proj = Linear(channels, channels)
        self.q_proj = Linear(channels, channels)
        self.drop = Drop(p)

    def forward(self, x: Tensor, source: Tensor, blocked: Optional[Tensor] = None) -> Tensor:
        q, k, v = (part.reshape(*part.shape[:2], self.heads, -1) for part in (self.q_proj(x), self.k_proj(source), self.v_proj(source)))
        scores = torch.einsum("blhd,bshd->bhls", q * q.shape[-1] ** -0.5, k)
        if blocked is not None:
            scores = scores.masked_fill(blocked, torch.finfo(scores.dtype).min)
        weights = torch.exp(scores - scores.logsumexp(-1, keepdim=True))
        if blocked is not None:
            weights = weights.masked_fill(blocked, 0.0)
        return self.out_proj(torch.einsum("bhls,bshd->blhd", self.drop(weights), v).flatten(-2))


class FeedForward(Module):
    def __init__(self, channels: int, hidden: int, p: float):
        super().__init__()
        self.up, self.down, self.drop = Linear(channels, hidden), Linear(hidden, channels), Drop(p)

    def forward(self, x: Tensor) -> Tensor:
        h = self.up(x)
        return self.down(self.drop(h * (h > 0)))


class DecoderBlock(Module):
    def __init__(self, d_model: int, num_heads: int, d_hidden: int, dropout: float = 0.0, norm_first: bool = True):
        super().__init__()
        self.first = norm_first
        self.self_attn, self.cross_attn = (Attention(d_model, num_heads, dropout) for _ in range(2))
        self.ff = FeedForward(d_model, d_hidden, dropout)
        self.norm1, self.norm2, self.norm3 = (LayerNorm(d_model) for _ in range(3))
        self.drop = Drop(dropout)

    @staticmethod
    def blocked(mask: Optional[Tensor]) -> Optional[Tensor]:
        return None if mask is None else ~(mask if mask.dim() != 3 else mask[:, None, :, :])

    def forward(self, x: Tensor, memory: Tensor, mask: Optional[Tensor] = None, memory_mask: Optional[Tensor] = None) -> Tensor:
        place = torch.arange(x.shape[1])
        blocked = place[None, :] > place[:, None]
        if mask is not None:
            blocked = blocked | self.blocked(mask)
        y = self.norm1(x) if self.first else x
        x = x + self.drop(self.self_attn(y, y, blocked))
        x = x if self.first else self.norm1(x)
        y = self.norm2(x) if self.first else x
        x = x + self.drop(self.cross_attn(y, memory, self.blocked(memory_mask)))
        x = x if self.first else self.norm2(x)
        y = self.norm3(x) if self.first else x
        x = x + self.drop(self.ff(y))
        return x if self.first else self.norm3(x)


class Decoder(Module):
    def __init__(self, num_layers: int, d_model: int, num_heads: int, d_hidden: int, dropout: float = 0.0, norm_first: bool = True):
        super().__init__()
        self.layers = ModuleList()
        while len(self.layers) < num_layers:
            self.layers.append(DecoderBlock(d_model, num_heads, d_hidden, dropout=dropout, norm_first=norm_first))
        self.norm = LayerNorm(d_model) if norm_first else None

    def forward(self, x: Tensor, memory: Tensor, mask: Optional[Tensor] = None, memory_mask: Optional[Tensor] = None) -> Tensor:
        for layer in self.layers:
            x = layer(x, memory, mask=mask, memory_mask=memory_mask)
        return x if self.norm is None else self.norm(x)
