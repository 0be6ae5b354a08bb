"""No chunks: each sorted place gathers the 2 · chunk places that it may see; the block asks for gradients of scalars."""

import math

import torch
import torch.nn as nn
import torch.nn.functional as F


def lsh_buckets(x, rotations):
    y = (x.unsqueeze(-2).unsqueeze(-2) @ rotations).squeeze(-2)  # (..., N, R)
    return torch.cat([y, -y], -1).argmax(-1).movedim(-1, 0)


def lsh_attention(qk, v, rotations, chunk, causal=True):
    B, H, L, D = qk.shape
    if L % chunk != 0:
        raise ValueError("ragged")
    N = rotations.shape[0]
    buckets = lsh_buckets(qk, rotations)  # (N, B, H, L)
    order = torch.sort(buckets, dim=-1, stable=True).indices
    inverse = torch.argsort(order, -1)

    place = torch.arange(L)
    seen_places = (place // chunk - 1)[:, None] * chunk + torch.arange(2 * chunk)  # (L, 2 · chunk), from -chunk on
    exists = seen_places >= 0
    seen_places = seen_places.clamp(min=0)

    def take(x, index):
        return x.expand(N, B, H, L, x.shape[-1]).gather(3, index.unsqueeze(-1).expand(*index.shape, x.shape[-1]))

    q, values = take(qk[None], order), take(v[None], order)
    k = F.normalize(q, dim=-1)
    sorted_buckets = buckets.gather(-1, order)
    i, j = order.unsqueeze(-1), order[..., seen_places]
    others = exists & (sorted_buckets.unsqueeze(-1) == sorted_buckets[..., seen_places]) & (i != j)
    if causal:
        others = others & (j < i)
    scores = (q.unsqueeze(-2) * k[..., seen_places, :]).sum(-1) / math.sqrt(D)

    # Back to the text, where the rounds stand side by side: one softmax over N · 2 · chunk numbers.
    def back(x):
        return take(x, inverse).permute(1, 2, 3, 0, 4).flatten(3)

    others = back(others)
    company = others.any(-1, keepdim=True)
    weights = back(scores).masked_fill(~others & company, -torch.inf).softmax(-1)
    gathered = values[..., seen_places, :].flatten(-2)
    gathered = take(gathered, inverse).unflatten(-1, (2 * chunk, -1)).permute(1, 2, 3, 0, 4, 5).flatten(3, 4)
    out = (weights.unsqueeze(-1) * gathered).sum(-2)
    return torch.where(company, out, v)


class ReversibleBlock(nn.Module):
    def __init__(self, f, g):
        super().__init__()
        self.f, self.g = f, g

    def forward(self, x1, x2):
        return tuple(_Coupling.apply(x1, x2, self, *[p for p in self.parameters() if p.requires_grad]))

    def inverse(self, y1, y2):
        x2 = y2 - self.g(y1)
        return y1 - self.f(x2), x2


class _Coupling(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x1, x2, block, *params):
        ctx.set_materialize_grads(False)
        ctx.block, ctx.params = block, params
        ctx.state_f = torch.default_generator.get_state()
        y1 = block.f(x2) + x1
        ctx.state_g = torch.default_generator.get_state()
        y2 = block.g(y1) + x2
        ctx.save_for_backward(y1, y2)
        return y1, y2

    @staticmethod
    def backward(ctx, d1, d2):
        y1, y2 = ctx.saved_tensors
        d1 = torch.zeros_like(y1) if d1 is None else d1
        d2 = torch.zeros_like(y2) if d2 is None else d2
        keep = torch.default_generator.get_state()
        try:
            with torch.enable_grad():
                a = y1.detach().clone().requires_grad_()
                torch.default_generator.set_state(ctx.state_g)
                ga = ctx.block.g(a)
                b = (y2 - ga).detach().requires_grad_()
                torch.default_generator.set_state(ctx.state_f)
                fb = ctx.block.f(b)
                through_g = torch.autograd.grad((ga * d2).sum(), [a, *ctx.params], allow_unused=True)
                total = d1 + through_g[0]
                through_f = torch.autograd.grad((fb * total).sum(), [b, *ctx.params], allow_unused=True)
        finally:
            torch.default_generator.set_state(keep)
        both = [s if t is None else t if s is None else s + t for s, t in zip(through_f[1:], through_g[1:])]
        return total, d2 + through_f[0], None, *both
