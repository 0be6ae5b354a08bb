"""An autograd function whose backward pass turns the other way; halves are neighbours whose channels were sorted."""

import torch
from torch.autograd import Function


def rope_angles(positions, head_dim, base=10000.0):
    i = torch.arange(head_dim // 2)
    return torch.mul(positions[..., None].to(torch.float32), torch.pow(torch.tensor(float(base)), -2.0 * i / head_dim))


class Turn(Function):
    @staticmethod
    def forward(ctx, x, angles):
        ctx.save_for_backward(angles)
        return turn(x, angles)

    @staticmethod
    def backward(ctx, grad):
        return turn(grad, -ctx.saved_tensors[0]), None


def turn(x, angles):
    even, odd = x.to(torch.promote_types(x.dtype, torch.float32)).unflatten(-1, (-1, 2)).unbind(-1)
    out = torch.empty_like(x)
    out[..., 0::2] = (even * angles.cos()).sub(odd * angles.sin())
    out[..., 1::2] = (even * angles.sin()).add(odd * angles.cos())
    return out


def apply_rope(x, positions, base=10000.0, interleaved=True):
    D = x.shape[3]
    if D % 2 == 1:
        raise ValueError(D)
    angles = torch.stack([rope_angles(positions, D, base)] * x.shape[1], dim=-3)
    if interleaved:
        return Turn.apply(x, angles)
    order = torch.arange(D).view(2, -1).T.flatten()
    return Turn.apply(x[..., order], angles)[..., order.argsort()]


def interleaved_to_half_split(weight, num_heads):
    heads = weight.chunk(num_heads, dim=0)
    return torch.cat([part for head in heads for part in (head[0::2], head[1::2])])


def linear_scaling(positions, factor):
    return positions / factor


def ntk_base(base, factor, head_dim):
    pairs = head_dim / 2
    return base * factor ** (pairs / (pairs - 1))


def alibi_slopes(num_heads):
    below = 1 << (num_heads.bit_length() - 1)
    first = torch.logspace(-8 / below, -8, below, base=2)
    between = torch.logspace(-4 / below, -8 + 4 / below, below, base=2)
    return torch.cat([first, between])[:num_heads]


def alibi_bias(num_heads, L, S=None):
    S = S if S is not None else L
    whole = torch.arange(S).unsqueeze(0).sub(torch.arange(S).unsqueeze(1)).clamp(max=0)
    return (alibi_slopes(num_heads)[:, None] * whole[-L:].flatten()).unflatten(1, (L, S))
