"""A 2 × 2 matrix for each token and pair, everything in float64; permutation matrices; the bias as a sum of steps."""

import torch


def frequencies(d, base):
    return torch.tensor([float(base) ** (-2 * i / d) for i in range(d // 2)], dtype=torch.float64)


def rope_angles(positions, head_dim, base=10000.0):
    return (positions.double().unsqueeze(-1) * frequencies(head_dim, base)).float()


def apply_rope(x, positions, base=10000.0, interleaved=True):
    b, h, l, d = x.shape
    if d // 2 * 2 != d:
        raise ValueError("D must be even")
    angle = positions.double().expand(b, l)[..., None] * frequencies(d, base)
    c, s = torch.cos(angle), torch.sin(angle)
    matrix = torch.stack([torch.stack([c, -s], -1), torch.stack([s, c], -1)], -2)  # (b, l, d/2, 2, 2)
    wide = x.double()
    if interleaved:
        return torch.einsum("blpij,bhlpj->bhlpi", matrix, wide.view(b, h, l, d // 2, 2)).reshape(x.shape).to(x.dtype)
    return torch.einsum("blpij,bhljp->bhlip", matrix, wide.view(b, h, l, 2, d // 2)).reshape(x.shape).to(x.dtype)


def interleaved_to_half_split(weight, num_heads):
    d = weight.shape[0] // num_heads
    move = torch.zeros(d, d, dtype=weight.dtype)
    for i in range(d // 2):
        move[i, 2 * i] = 1
        move[d // 2 + i, 2 * i + 1] = 1
    return torch.kron(torch.eye(num_heads, dtype=weight.dtype), move) @ weight


def linear_scaling(positions, factor):
    return positions.to(torch.float64) / factor


def ntk_base(base, factor, head_dim):
    return float(torch.tensor(factor, dtype=torch.float64) ** (head_dim / (head_dim - 2)) * base)


def alibi_slopes(num_heads):
    power = 1
    while power * 2 <= num_heads:
        power *= 2
    exponents = [8 * (h + 1) / power for h in range(power)] + [8 * (2 * h + 1) / (2 * power) for h in range(num_heads - power)]
    return torch.tensor([2**-e for e in exponents])


def alibi_bias(num_heads, L, S=None):
    if S is None:
        S = L
    behind = torch.ones(L, S).tril(S - L - 1).flip(-1).cumsum(-1).flip(-1)  # how many keys from here to the query
    return -alibi_slopes(num_heads).reshape(num_heads, 1, 1) * behind
