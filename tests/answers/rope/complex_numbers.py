"""Pairs as complex numbers, multiplied by e^(i·angle), as Meta's Llama does; slopes by recursion; the future of a bias is -inf."""

import math

import torch


def rope_angles(positions, head_dim, base=10000.0):
    freqs = 1.0 / (base ** (torch.arange(0, head_dim, 2)[: (head_dim // 2)].float() / head_dim))
    return torch.einsum("...l,d->...ld", positions.to(torch.float32), freqs)


def apply_rope(x, positions, base=10000.0, interleaved=True):
    *lead, d = x.shape
    if d % 2 != 0:
        raise ValueError("odd head size %d" % d)
    angles = rope_angles(positions, d, base)
    turns = torch.polar(torch.ones_like(angles), angles)
    turns = turns[None, None] if turns.ndim == 2 else turns[:, None]
    pairs = x.float().reshape(*lead, d // 2, 2) if interleaved else x.float().reshape(*lead, 2, d // 2).mT.contiguous()
    turned = torch.view_as_real(torch.view_as_complex(pairs) * turns)
    return (turned if interleaved else turned.mT).flatten(3).type_as(x)


def interleaved_to_half_split(weight, num_heads):
    rows, cols = weight.shape
    return weight.view(num_heads, rows // num_heads // 2, 2, cols).transpose(1, 2).reshape(rows, cols)


def linear_scaling(positions, factor):
    return positions.float() * (1 / factor)


def ntk_base(base, factor, head_dim):
    return math.exp(math.log(base) + math.log(factor) * head_dim / (head_dim - 2))


def get_slopes(n):
    def power_of_2(n):
        start = 2 ** (-(2 ** -(math.log2(n) - 3)))
        return [start * start**i for i in range(n)]

    if math.log2(n).is_integer():
        return power_of_2(n)
    closest = 2 ** math.floor(math.log2(n))
    return power_of_2(closest) + get_slopes(2 * closest)[0::2][: n - closest]


def alibi_slopes(num_heads):
    return torch.tensor(get_slopes(num_heads), dtype=torch.float32)


def alibi_bias(num_heads, L, S=None):
    S = S or L
    steps = torch.arange(S).view(1, 1, S) - torch.arange(S - L, S).view(1, L, 1)
    bias = alibi_slopes(num_heads).view(-1, 1, 1) * steps
    return bias.masked_fill(steps > 0, float("-inf"))
