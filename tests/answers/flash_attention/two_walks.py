"""A class that knows where tiles lie; heads flattened; backward walks twice: by rows for dq, by columns for dk and dv."""

from typing import NamedTuple

import torch
from torch import Tensor


class State(NamedTuple):
    m: Tensor
    l: Tensor
    o: Tensor


def merge_blocks(one, other):
    ms = torch.stack([one[0], other[0]])
    top = ms.max(0).values
    w = (ms - torch.clamp(top, min=torch.finfo(top.dtype).min)).exp()
    return State(top, (w * torch.stack([one[1], other[1]])).sum(0), (w[..., None] * torch.stack([one[2], other[2]])).sum(0))


class Tiles:
    def __init__(self, q, k, block, causal):
        self.q, self.k, self.block, self.causal = q, k, block, causal
        self.offset = k.shape[1] - q.shape[1]

    def starts(self, x):
        return range(0, x.shape[1], self.block)

    def hidden(self, i, j):
        return self.causal and j > min(i + self.block, self.q.shape[1]) - 1 + self.offset

    def scores(self, i, j):
        q, k = self.q[:, i : i + self.block], self.k[:, j : j + self.block]
        s = torch.baddbmm(torch.zeros((), dtype=q.dtype), q, k.transpose(1, 2), beta=0, alpha=q.shape[-1] ** -0.5)
        if self.causal:
            keep = torch.ones(s.shape[1:], dtype=torch.bool).tril(i + self.offset - j)
            s = torch.where(keep, s, s.new_tensor(-torch.inf))
        return s


def flash_forward(q, k, v, block, causal=False):
    shape = q.shape
    q, k, v = (x.flatten(0, 1) for x in (q, k, v))
    tiles = Tiles(q, k, block, causal)
    outs, lses = [], []
    for i in tiles.starts(q):
        N, R, D = q[:, i : i + block].shape
        state = State(q.new_full((N, R), -torch.inf), q.new_zeros(N, R), q.new_zeros(N, R, D))
        for j in reversed(tiles.starts(k)):  # the last keys first: hidden blocks come before visible ones
            if tiles.hidden(i, j):
                continue
            s = tiles.scores(i, j)
            top = s.max(-1).values
            p = torch.exp(s - top.clamp(min=-1e300 if q.dtype == torch.float64 else -3e38)[..., None])
            state = merge_blocks(state, State(top, p.sum(-1), torch.bmm(p, v[:, j : j + block])))
        outs.append(state.o / state.l[..., None])
        lses.append(state.m + torch.log(state.l))
    return torch.cat(outs, 1).view(shape), torch.cat(lses, 1).view(shape[:-1])


def flash_backward(dout, q, k, v, out, logsumexp, block, causal=False):
    B, H = q.shape[:2]
    dout, q, k, v, out, lse = (x.flatten(0, 1) for x in (dout, q, k, v, out, logsumexp))
    tiles = Tiles(q, k, block, causal)
    scale = q.shape[-1] ** -0.5
    delta = (dout * out).sum(-1)

    def tile(i, j):
        at = slice(i, i + block)
        p = torch.exp(tiles.scores(i, j) - lse[:, at, None])
        return p, p * (torch.bmm(dout[:, at], v[:, j : j + block].mT) - delta[:, at, None])

    dq = [sum(tile(i, j)[1] @ k[:, j : j + block] for j in tiles.starts(k) if not tiles.hidden(i, j)) * scale for i in tiles.starts(q)]
    dk, dv = [], []
    for j in tiles.starts(k):
        grad_k, grad_v = torch.zeros_like(k[:, j : j + block]), torch.zeros_like(v[:, j : j + block])
        for i in tiles.starts(q):
            if not tiles.hidden(i, j):
                p, ds = tile(i, j)
                grad_v = grad_v + p.mT @ dout[:, i : i + block]
                grad_k = grad_k + ds.mT @ q[:, i : i + block] * scale
        dk.append(grad_k)
        dv.append(grad_v)
    return tuple(torch.cat(parts, 1).unflatten(0, (B, H)) for parts in (dq, dk, dv))
