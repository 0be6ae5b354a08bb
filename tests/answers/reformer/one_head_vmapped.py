"""One head of one round as a function, vmapped over heads and rounds; the block keeps its outputs in saved tensors of an identity."""

import math
from dataclasses import dataclass

import torch as th


def lsh_buckets(x, rotations):
    def one(a):
        y = x @ a
        return th.cat((y, -y), dim=-1).topk(1, dim=-1).indices.squeeze(-1)

    return th.stack(tuple(map(one, rotations.unbind(0))))


def lsh_attention(qk, v, rotations, chunk, causal=True):
    L, D = qk.shape[2:]
    if L // chunk * chunk != L:
        raise ValueError
    C = L // chunk
    ids = th.arange(L)

    def head(q, v, bucket):
        order = th.argsort(bucket * L + ids)
        sq, sv, sb = q[order], v[order], bucket[order]
        sk = th.nn.functional.normalize(sq, dim=1)
        here = ids.view(C, chunk)
        there = th.cat([here - chunk, here], 1)
        real = there >= 0
        there = there.clamp_min(0)
        logits = th.einsum("cid,cjd->cij", sq[here], sk[there]) / math.sqrt(D)
        po, pt = order[here].unsqueeze(2), order[there].unsqueeze(1)
        ok = (sb[here].unsqueeze(2) == sb[there].unsqueeze(1)) & real.unsqueeze(1) & (po != pt)
        if causal:
            ok = ok & (pt < po)
        logits = th.where(ok, logits, -th.inf)
        top = logits.detach().amax(2).clamp(min=-1e30)
        e = th.exp(logits - top.unsqueeze(2))
        back = th.argsort(order)
        return top.flatten()[back], e.sum(2).flatten()[back], (e @ sv[there]).flatten(0, 1)[back]

    over_heads = th.vmap(th.vmap(head))
    tops, sums, outs = th.vmap(over_heads, in_dims=(None, None, 0))(qk, v, lsh_buckets(qk, rotations))
    scale = th.exp(tops - tops.amax(0))
    total = (scale * sums).sum(0).unsqueeze(-1)
    found = (scale.unsqueeze(-1) * outs).sum(0)
    return th.where(total > 0, found / th.where(total > 0, total, 1.0), v)


@dataclass
class Replay:
    module: th.nn.Module
    state: th.Tensor

    def __call__(self, x):
        th.set_rng_state(self.state)
        return self.module(x)


class Rev(th.autograd.Function):
    @staticmethod
    def forward(ctx, block, x1, x2, *ps):
        ctx.ps = ps
        ctx.fs = Replay(block.f, th.get_rng_state())
        y1 = x1 + block.f(x2)
        ctx.gs = Replay(block.g, th.get_rng_state())
        y2 = x2 + block.g(y1)
        ctx.save_for_backward(y1, y2)
        return y1, y2

    @staticmethod
    def backward(ctx, g1, g2):
        y1, y2 = ctx.saved_tensors
        now = th.get_rng_state()
        want = [p for p in ctx.ps if p.requires_grad]
        with th.enable_grad():
            y1 = y1.detach().requires_grad_(True)
            gy = ctx.gs(y1)
            a, *pg = th.autograd.grad(gy, [y1, *want], g2, allow_unused=True)
            t = g1 + a
            x2 = (y2 - gy).detach().requires_grad_(True)
            fx = ctx.fs(x2)
            b, *pf = th.autograd.grad(fx, [x2, *want], t, allow_unused=True)
        th.set_rng_state(now)
        sums = {}
        for w, i, j in zip(want, pg, pf):
            sums[w] = j if i is None else i if j is None else i + j
        return None, t, g2 + b, *(sums.get(p) for p in ctx.ps)


class ReversibleBlock(th.nn.Module):
    def __init__(self, f, g):
        super().__init__()
        self.f = f
        self.g = g

    def forward(self, x1, x2):
        return Rev.apply(self, x1, x2, *self.parameters())

    def inverse(self, y1, y2):
        x2 = y2 - self.g(y1)
        return [y1 - self.f(x2), x2]
