"""The functions are thin faces of a small class; helper with another signature; type hints everywhere."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Optional

import torch


@dataclass
class Attention:
    scale: float

    @staticmethod
    def normalise(scores: torch.Tensor, axis: int) -> torch.Tensor:
        shift = scores.detach().amax(dim=axis, keepdim=True)
        shift = torch.nan_to_num(shift, neginf=0.0)
        weights = torch.exp(scores - shift)
        denominator = weights.sum(dim=axis, keepdim=True)
        return weights / torch.where(denominator == 0, torch.ones_like(denominator), denominator)

    def __call__(self, queries: torch.Tensor, keys: torch.Tensor, allowed: Optional[torch.Tensor]) -> torch.Tensor:
        compatibility = torch.matmul(queries * self.scale, keys.swapaxes(-1, -2))
        if allowed is not None:
            allowed = allowed.expand(compatibility.shape) if allowed.dim() <= compatibility.dim() else allowed
            compatibility = torch.where(allowed, compatibility, float("-inf"))
        return self.normalise(compatibility, -1)


def softmax(x: torch.Tensor, dim: int) -> torch.Tensor:
    return Attention.normalise(x, dim)


def attention_weights(q: torch.Tensor, k: torch.Tensor, mask: Optional[torch.Tensor] = None) -> torch.Tensor:
    return Attention(1.0 / math.sqrt(q.shape[-1]))(q, k, mask)


def scaled_dot_product_attention(q, k, v, mask: Optional[torch.Tensor] = None) -> torch.Tensor:
    return torch.matmul(attention_weights(q, k, mask), v)
