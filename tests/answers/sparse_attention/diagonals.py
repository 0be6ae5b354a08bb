"""The band is kept diagonal by diagonal, one shift of the keys at a time, with an online softmax."""

import torch
import torch.nn.functional as F


class Running:
    """Softmax over keys that come piece by piece."""

    def __init__(self, like, channels):
        self.top = torch.full_like(like[..., :1], -1e300 if like.dtype == torch.float64 else -1e30).detach()
        self.below = torch.zeros_like(self.top)
        self.above = torch.zeros_like(self.top).expand(*like.shape[:-1], channels)

    def add(self, scores, values, seen):
        """scores (..., L, N), values broadcasting to (..., L, N, Dv), seen broadcasting to scores."""
        scores = torch.where(seen, scores, -torch.inf)
        top = torch.maximum(self.top, scores.detach().amax(-1, keepdim=True))
        old, new = (self.top - top).exp(), (scores - top).exp()
        self.below = self.below * old + new.sum(-1, keepdim=True)
        self.above = self.above * old + (new.unsqueeze(-1) * values).sum(-2)
        self.top = top

    def result(self):
        return self.above / self.below


def _shifted(x, by):
    """x[..., i + by, :] at place i, zeros where that is outside."""
    return F.pad(x, (0, 0, max(-by, 0), max(by, 0)))[..., max(by, 0) : max(by, 0) + x.shape[-2], :]


def _band(running, q, k, v, half, allowed):
    L, scale = q.shape[2], q.shape[-1] ** -0.5
    for by in range(-min(half, L - 1), min(half, L - 1) + 1):
        there = _shifted(allowed.double(), by) > 0
        scores = (q * _shifted(k, by)).sum(-1, keepdim=True) * scale
        running.add(scores, _shifted(v, by).unsqueeze(-2), there)


def sliding_window_attention(q, k, v, window):
    running = Running(q, v.shape[-1])
    _band(running, q, k, v, window // 2, torch.ones(1, 1, q.shape[2], 1))
    return running.result()


def longformer_attention(q, k, v, window, is_global):
    running = Running(q, v.shape[-1])
    _band(running, q, k, v, window // 2, ~is_global[:, None, :, None])
    scale = q.shape[-1] ** -0.5
    marks = is_global.nonzero().tolist()
    for b, g in marks:
        scores = (q * k[b, :, g].unsqueeze(-2)).sum(-1, keepdim=True) * scale
        mine = (torch.arange(len(q)) == b)[:, None, None, None]
        running.add(scores, v[b, :, g][None, :, None, None], mine)
    rows = list(running.result().unbind(2))
    for b, g in marks:
        full = ((q[b, :, g].unsqueeze(-2) @ k[b].mT * scale).softmax(-1) @ v[b]).squeeze(-2)
        rows[g] = torch.cat([rows[g][:b], full[None], rows[g][b + 1 :]])
    return torch.stack(rows, dim=2)


def bigbird_mask(L, block, window, num_global, num_random, generator=None):
    if L % block:
        raise ValueError(L)
    n = L // block
    seen = torch.zeros(n, n, dtype=torch.bool)
    for by in range(-(window // 2), window // 2 + 1):
        if abs(by) < n:
            seen.diagonal(by).fill_(True)
    seen[:num_global, :] = True
    seen[:, :num_global] = True
    free = n - seen.sum(1)
    picks = torch.zeros_like(seen)
    for _ in range(num_random):
        left = ~(seen | picks)
        draw = torch.multinomial(left.double() + 1e-300, 1, generator=generator).squeeze(1)
        picks[torch.arange(n), draw] |= left[torch.arange(n), draw]
    assert bool((picks.sum(1) == free.clamp(max=num_random)).all())
    return (seen | picks)[:, None, :, None].expand(n, block, n, block).reshape(L, L)


class _RowOfBlocks(torch.autograd.Function):
    """Softmax attention with its own backward pass."""

    @staticmethod
    def forward(ctx, q, k, v):
        p = (q @ k.mT / q.shape[-1] ** 0.5).softmax(-1)
        ctx.save_for_backward(q, k, v, p)
        return p @ v

    @staticmethod
    def backward(ctx, grad):
        q, k, v, p = ctx.saved_tensors
        dp = grad @ v.mT
        ds = p * (dp - (p * dp).sum(-1, keepdim=True)) / q.shape[-1] ** 0.5
        return ds @ k, ds.mT @ q, p.mT @ grad


def block_sparse_attention(q, k, v, layout, block):
    tokens = torch.arange(q.shape[2]).view(-1, block)
    rows = []
    for mine, seen in zip(tokens, layout, strict=True):
        keys = tokens[seen].flatten()
        rows.append(_RowOfBlocks.apply(q[:, :, mine], k[:, :, keys], v[:, :, keys]))
    return torch.cat(rows, 2)
