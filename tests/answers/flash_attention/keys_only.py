"""Blocks of keys alone, with running sums that are updated in place, as FlashAttention's first version tells it.

Causal: the queries that see the first key of a block are those from some row on.
"""

import torch


def merge_blocks(one, other):
    (m1, l1, o1), (m2, l2, o2) = one, other
    m = torch.where(m1 > m2, m1, m2)
    a = torch.where(m1 == -torch.inf, torch.zeros_like(m), torch.exp(m1 - m))
    b = torch.where(m2 == -torch.inf, torch.zeros_like(m), torch.exp(m2 - m))
    return m, a * l1 + b * l2, a[..., None] * o1 + b[..., None] * o2


def first_row(j, L, S, causal):
    return max(0, j - (S - L)) if causal else 0


def block_of_scores(q, k, j, block, causal, first):
    L, S = q.size(2), k.size(2)
    kj = k[:, :, j : j + block]
    s = torch.matmul(q[:, :, first:] * q.size(-1) ** -0.5, kj.transpose(2, 3))
    if causal:
        i = torch.arange(first, L)
        hidden = torch.arange(j, j + kj.size(2)) > (i + S - L).unsqueeze(1)
        s[:, :, hidden] = -torch.inf
    return s


def flash_forward(q, k, v, block, causal=False):
    B, H, L, _ = q.size()
    S = k.size(2)
    out = torch.zeros_like(q)
    total = torch.zeros(B, H, L, 1, dtype=q.dtype)
    top = torch.full((B, H, L, 1), -torch.inf, dtype=q.dtype)
    for j in range(0, S, block):
        first = first_row(j, L, S, causal)
        s = block_of_scores(q, k, j, block, causal, first)
        new_top = torch.maximum(top[:, :, first:], s.amax(-1, keepdim=True))  # every row sees the first key of the block
        p = torch.exp(s - new_top)
        shrink = torch.exp(top[:, :, first:] - new_top)
        total[:, :, first:] = total[:, :, first:] * shrink + p.sum(-1, keepdim=True)
        out[:, :, first:] = out[:, :, first:] * shrink + p @ v[:, :, j : j + block]
        top[:, :, first:] = new_top
    return out / total, (top + torch.log(total)).squeeze(-1)


def flash_backward(dout, q, k, v, out, logsumexp, block, causal=False):
    L, S = q.size(2), k.size(2)
    scale = q.size(-1) ** -0.5
    dq = torch.zeros_like(q)
    dks, dvs = [], []
    delta = torch.einsum("bhld,bhld->bhl", dout, out)
    for j in range(0, S, block):
        first = first_row(j, L, S, causal)
        s = block_of_scores(q, k, j, block, causal, first)
        p = torch.exp(s - logsumexp[:, :, first:, None])
        dp = torch.einsum("bhld,bhsd->bhls", dout[:, :, first:], v[:, :, j : j + block])
        ds = p * (dp - delta[:, :, first:, None]) * scale
        dq[:, :, first:] += torch.einsum("bhls,bhsd->bhld", ds, k[:, :, j : j + block])
        dks.append(torch.einsum("bhls,bhld->bhsd", ds, q[:, :, first:]))
        dvs.append(torch.einsum("bhls,bhld->bhsd", p, dout[:, :, first:]))
    return dq, torch.cat(dks, 2), torch.cat(dvs, 2)
