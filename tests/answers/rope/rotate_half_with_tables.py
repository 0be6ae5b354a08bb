"""x · cos + rotated · sin with angles repeated to D, cos and sin in the dtype of x, as Hugging Face does; indices; MPT's slopes."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def rope_angles(positions: Tensor, head_dim: int, base: float = 10000.0) -> Tensor:
    inv_freq = torch.exp(torch.arange(0, head_dim, 2).float() * (-math.log(base) / head_dim))
    return positions.float().unsqueeze(-1) @ inv_freq.unsqueeze(0)


def rotate_half(x: Tensor) -> Tensor:
    x1, x2 = x.split(x.shape[-1] // 2, dim=-1)
    return torch.cat((-x2, x1), dim=-1)


def rotate_neighbours(x: Tensor) -> Tensor:
    out = torch.empty_like(x)
    out[..., ::2] = -x[..., 1::2]
    out[..., 1::2] = x[..., ::2]
    return out


def apply_rope(x: Tensor, positions: Tensor, base: float = 10000.0, interleaved: bool = True) -> Tensor:
    if x.size(-1) & 1:
        raise ValueError(f"D = {x.size(-1)} is odd")
    angles = rope_angles(positions, x.size(-1), base)
    angles = angles.repeat_interleave(2, -1) if interleaved else torch.cat((angles, angles), -1)
    if positions.dim() == 2:
        angles = angles.unsqueeze(1)
    cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
    return x * cos + (rotate_neighbours(x) if interleaved else rotate_half(x)) * sin


def interleaved_to_half_split(weight: Tensor, num_heads: int) -> Tensor:
    d = len(weight) // num_heads
    order = [h * d + c for h in range(num_heads) for c in (*range(0, d, 2), *range(1, d, 2))]
    return weight[order]


def linear_scaling(positions: Tensor, factor: float) -> Tensor:
    return torch.true_divide(positions, factor)


def ntk_base(base: float, factor: float, head_dim: int) -> float:
    return base * math.pow(factor, head_dim / (head_dim - 2))


def alibi_slopes(num_heads: int) -> Tensor:
    heads = 2 ** math.ceil(math.log2(num_heads))
    m = torch.arange(1, heads + 1, dtype=torch.float32) * (8 / heads)
    slopes = 1.0 / torch.pow(2, m)
    if heads != num_heads:
        slopes = torch.cat([slopes[1::2], slopes[::2]])[:num_heads]
    return slopes


def alibi_bias(num_heads: int, L: int, S: int | None = None) -> Tensor:
    keys = L if S is None else S
    position = torch.arange(keys, dtype=torch.float32)
    distance = torch.cdist(position[-L:, None], position[:, None], p=1)
    return torch.einsum("h,ls->hls", -alibi_slopes(num_heads), distance)
