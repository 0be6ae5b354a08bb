"""s and dp by one product; maximum through a cat."""

import math

import torch as th


def merge_blocks(one, other):
    m = th.stack((one[0], other[0])).amax(0)
    safe = th.where(th.isinf(m), th.zeros_like(m), m)
    a, b = th.exp(one[0] - safe), th.exp(other[0] - safe)
    return m, one[1] * a + other[1] * b, th.addcmul(one[2] * a[..., None], other[2], b[..., None])


def hide(s, i0, j0, off):
    r, c = s.shape[-2:]
    return s.masked_fill(th.ones(r, c, dtype=th.bool).triu(1 + i0 + off - j0), -math.inf)


def flash_forward(q, k, v, block, causal=False):
    B, H, L, D = q.shape
    S = k.shape[2]
    off = S - L
    out, lse = th.empty_like(q), q.new_empty(B, H, L)
    for i0 in range(0, L, block):
        qi = q[:, :, i0 : i0 + block] / math.sqrt(D)
        m = q.new_full((*qi.shape[:3], 1), -math.inf)
        acc = q.new_zeros(*qi.shape[:3], D + 1)
        last = min(S, i0 + qi.shape[2] + off) if causal else S
        for j0 in range(0, last, block):
            s = qi @ k[:, :, j0 : j0 + block].transpose(-1, -2)
            if causal:
                s = hide(s, i0, j0, off)
            new = th.cat([m, s], -1).amax(-1, keepdim=True)
            vj = th.nn.functional.pad(v[:, :, j0 : j0 + block], (0, 1), value=1.0)
            acc = acc * th.exp(m - new) + th.exp(s - new) @ vj
            m = new
        out[:, :, i0 : i0 + block] = acc[..., :D] / acc[..., D:]
        lse[:, :, i0 : i0 + block] = (m + acc[..., D:].log())[..., 0]
    return out, lse


def flash_backward(dout, q, k, v, out, logsumexp, block, causal=False):
    L, D = q.shape[2:]
    S = k.shape[2]
    off = S - L
    delta = (dout * out).sum(-1, keepdim=True)
    both = th.stack([q / math.sqrt(D), dout])
    dq, dkv = th.zeros_like(q), []
    for j0 in range(0, S, block):
        kj = k[:, :, j0 : j0 + block]
        i0 = max(0, j0 - off) if causal else 0
        s, dp = th.matmul(both[:, :, :, i0:], th.stack([kj, v[:, :, j0 : j0 + block]]).mT)
        if causal:
            s = hide(s, i0, j0, off)
        p = th.exp(s - logsumexp[:, :, i0:, None])
        ds = p * (dp - delta[:, :, i0:])
        dq[:, :, i0:].add_(ds @ kj, alpha=1 / math.sqrt(D))
        dkv.append(th.stack([ds, p]).mT @ both[:, :, :, i0:])
    dk, dv = th.cat(dkv, 3)
    return dq, dk, dv
