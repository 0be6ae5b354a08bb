"""Plain loops over sequences, tokens and pairs with Python's own cos and sin; tables of rows."""

import math

import torch


def rope_angles(positions, head_dim, base=10000.0):
    if positions.dim() == 2:
        return torch.stack([rope_angles(row, head_dim, base) for row in positions])
    rows = [[float(p) / base ** (2 * i / head_dim) for i in range(head_dim // 2)] for p in positions]
    return torch.tensor(rows, dtype=torch.float32)


def apply_rope(x, positions, base=10000.0, interleaved=True):
    B, H, L, D = x.size()
    if D % 2:
        raise ValueError("the channels of a head come in pairs")
    columns = [None] * D
    for i in range(D // 2):
        one, other = (2 * i, 2 * i + 1) if interleaved else (i, i + D // 2)
        angle = [[float(p) * math.pow(base, -2 * i / D) for p in row] for row in positions.expand(B, L)]
        c = torch.tensor([[math.cos(a) for a in row] for row in angle], dtype=torch.float64)[:, None]
        s = torch.tensor([[math.sin(a) for a in row] for row in angle], dtype=torch.float64)[:, None]
        columns[one] = x[..., one] * c - x[..., other] * s
        columns[other] = x[..., one] * s + x[..., other] * c
    return torch.stack(columns, dim=3).to(x.dtype)


def interleaved_to_half_split(weight, num_heads):
    result = torch.empty_like(weight)
    D = weight.shape[0] // num_heads
    for row in range(weight.shape[0]):
        head, channel = divmod(row, D)
        pair, second = divmod(channel, 2)
        result[head * D + second * (D // 2) + pair] = weight[row]
    return result


def linear_scaling(positions, factor):
    return torch.tensor([p / factor for p in positions.flatten().tolist()]).reshape(positions.shape)


def ntk_base(base, factor, head_dim):
    slowest = base ** (-(head_dim - 2) / head_dim) / factor
    return slowest ** (-head_dim / (head_dim - 2))


def alibi_slopes(num_heads):
    power = max(2**e for e in range(num_heads.bit_length()))
    slopes = []
    for head in range(num_heads):
        slopes.append(2 ** (-8 / power) if head == 0 else slopes[-1] * 2 ** (-8 / power))
        if head == power:
            slopes[-1] = 2 ** (-4 / power)
    return torch.tensor(slopes)


def alibi_bias(num_heads, L, S=None):
    if S is None:
        S = L
    bias = torch.zeros(num_heads, L, S)
    for h, slope in enumerate(alibi_slopes(num_heads).tolist()):
        for i in range(L):
            for j in range(S - L + i):
                bias[h, i, j] = -slope * (S - L + i - j)
    return bias
