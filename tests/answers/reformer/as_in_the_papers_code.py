"""All rounds sorted at once with buckets numbered through, soft masks of -1e5 and -1e9, and backward() inside of backward."""

import torch
from torch import nn


def lsh_buckets(x, rotations):
    n_rounds, _, half = rotations.shape
    flat = x.reshape(-1, x.shape[-1])
    projected = torch.stack([flat @ rotations[i] for i in range(n_rounds)])
    best, place = projected.max(-1)
    worst, opposite = projected.min(-1)
    return torch.where(best >= -worst, place, opposite + half).reshape(n_rounds, *x.shape[:-1])


def lsh_attention(qk, v, rotations, chunk, causal=True):
    batch, heads, length, dim = qk.shape
    if length % chunk != 0:
        raise ValueError("length must be a multiple of chunk")
    qk_, v_ = qk.reshape(batch * heads, length, dim), v.reshape(batch * heads, length, -1)
    rounds, n_buckets = len(rotations), 2 * rotations.shape[-1]
    with torch.no_grad():
        buckets = lsh_buckets(qk_, rotations) + n_buckets * torch.arange(rounds)[:, None, None]
        buckets = buckets.transpose(0, 1).reshape(batch * heads, -1)
        tickers = torch.arange(rounds * length).expand_as(buckets)
        sorted_keys, sticker = (buckets * length + tickers % length).sort(-1)
        undo = torch.empty_like(sticker).scatter_(-1, sticker, tickers)
        positions = (sticker % length).view(batch * heads, -1, chunk)
        own = (sorted_keys // length).view_as(positions)

    def rows(x, index):
        return torch.take_along_dim(x, index.unsqueeze(-1), dim=1)

    def look_back(x):
        return torch.cat([torch.cat([x[:, -1:], x[:, :-1]], dim=1), x], dim=2)

    q = rows(qk_, sticker % length).view(batch * heads, -1, chunk, dim)
    k = look_back(q / q.norm(dim=-1, keepdim=True))
    values = look_back(rows(v_, sticker % length).view(batch * heads, -1, chunk, v.shape[-1]))
    their_positions, theirs = look_back(positions), look_back(own)
    theirs[:, 0, :chunk] = -1  # nothing before the first
    dots = torch.einsum("bcid,bcjd->bcij", q, k) * dim**-0.5
    dots = torch.where(positions[..., :, None] == their_positions[..., None, :], -1e5, dots)
    if causal:
        dots = torch.where(positions[..., :, None] < their_positions[..., None, :], -1e9, dots)
    dots = torch.where(own[..., :, None] != theirs[..., None, :], -1e9, dots)
    logits = torch.logsumexp(dots, dim=-1, keepdim=True)
    out = torch.einsum("bcij,bcje->bcie", torch.exp(dots - logits), values)
    out = rows(out.flatten(1, 2), undo).view(batch * heads, rounds, length, -1)
    logits = rows(logits.flatten(1, 2), undo).view(batch * heads, rounds, length, 1)
    probs = torch.exp(logits - torch.logsumexp(logits, dim=1, keepdim=True))
    return (out * probs).sum(1).view(batch, heads, length, -1)


class _Run(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x1, x2, ticket, block):
        ctx.block = block
        ctx.states = [torch.random.get_rng_state()]
        y1 = x1 + block.f(x2)
        ctx.states.append(torch.random.get_rng_state())
        y2 = x2 + block.g(y1)
        ctx.y = y1.detach(), y2.detach()
        return y1, y2

    @staticmethod
    def backward(ctx, dy1, dy2):
        (y1, y2), block = ctx.y, ctx.block
        del ctx.y
        now = torch.random.get_rng_state()
        with torch.enable_grad():
            y1.requires_grad = True
            torch.random.set_rng_state(ctx.states[1])
            gy1 = block.g(y1)
            torch.autograd.backward(gy1, dy2)
        with torch.no_grad():
            x2 = y2 - gy1
            dx1 = dy1 + y1.grad
        with torch.enable_grad():
            x2.requires_grad = True
            torch.random.set_rng_state(ctx.states[0])
            torch.autograd.backward(block.f(x2), dx1)
        torch.random.set_rng_state(now)
        return dx1, dy2 + x2.grad, None, None


class ReversibleBlock(nn.Module):
    def __init__(self, f, g):
        super().__init__()
        self.f = f
        self.g = g

    def forward(self, x1, x2):
        ticket = torch.zeros((), requires_grad=True)  # so that there is a backward pass in any case
        return _Run.apply(x1, x2, ticket, self)

    @torch.no_grad()
    def inverse(self, y1, y2):
        x2 = y2 - self.g(y1)
        return y1 - self.f(x2), x2
