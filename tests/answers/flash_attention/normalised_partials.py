"""Each block gives its own softmax's output and logsumexp, as in split-k decoding; two of these are mixed by their shares."""

import math
from functools import reduce

import torch


def shares(a, b):
    """exp(a) and exp(b) over their sum, half and half where both are nothing."""
    return torch.where(a == b, torch.full_like(a, 0.5), torch.sigmoid(a - b)), torch.where(
        a == b, torch.full_like(a, 0.5), torch.sigmoid(b - a)
    )


def mix(one, other):
    (lse1, out1), (lse2, out2) = one, other
    w1, w2 = shares(lse1, lse2)
    return torch.logaddexp(lse1, lse2), w1[..., None] * out1 + w2[..., None] * out2


def merge_blocks(one, other):
    def to_partial(state):
        m, l, o = state
        return m + l.log(), torch.where(l[..., None] > 0, o / l[..., None], o)

    m = torch.maximum(one[0], other[0])
    lse, out = mix(to_partial(one), to_partial(other))
    l = torch.where(m == -math.inf, torch.zeros_like(m), (lse - m).exp())
    return m, l, l[..., None] * out


def tiles(q, k, block, causal):
    L, S = q.shape[-2], k.shape[-2]
    for i in range(0, L, block):
        rows = torch.arange(i, min(i + block, L))
        for j in range(0, S, block):
            columns = torch.arange(j, min(j + block, S))
            if causal and j > int(rows[-1]) + S - L:
                break
            bias = torch.zeros(len(rows), len(columns), dtype=q.dtype)
            if causal:
                bias[columns[None, :] - rows[:, None] > S - L] = -math.inf
            yield rows, columns, q[:, :, rows] @ k[:, :, columns].transpose(-1, -2) * q.shape[-1] ** -0.5 + bias


def flash_forward(q, k, v, block, causal=False):
    parts = {}
    for rows, columns, s in tiles(q, k, block, causal):
        lse = s.logsumexp(-1)
        p = torch.where(lse[..., None] == -math.inf, torch.zeros_like(s), s.softmax(-1))
        parts.setdefault(int(rows[0]), []).append((lse, p @ v[:, :, columns]))
    joined = [reduce(mix, several) for several in parts.values()]
    return torch.cat([out for _, out in joined], 2), torch.cat([lse for lse, _ in joined], 2)


def flash_backward(dout, q, k, v, out, logsumexp, block, causal=False):
    dq, dk, dv = (torch.zeros_like(x) for x in (q, k, v))
    delta = (dout * out).sum(-1)
    root = q.shape[-1] ** 0.5
    for rows, columns, s in tiles(q, k, block, causal):
        p = torch.exp(s - logsumexp[:, :, rows, None])
        ds = p * (dout[:, :, rows] @ v[:, :, columns].transpose(-1, -2) - delta[:, :, rows, None]) / root
        dv.index_add_(2, columns, p.transpose(-1, -2) @ dout[:, :, rows])
        dk.index_add_(2, columns, ds.transpose(-1, -2) @ q[:, :, rows])
        dq.index_add_(2, rows, ds @ k[:, :, columns])
    return dq, dk, dv
