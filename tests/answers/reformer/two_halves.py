"""Closures; keys by unfold over the sorted sequence; NumPy sorts; a gradient rule made of two coupled halves."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn


def lsh_buckets(x, rotations):
    n, d, r = rotations.shape
    flat = torch.matmul(x.detach().unsqueeze(-2), rotations.permute(1, 0, 2).reshape(d, n * r)).squeeze(-2)
    y = flat.unflatten(-1, (n, r)).movedim(-2, 0)
    top = y.abs().argmax(-1, keepdim=True)
    return (top + r * (y.gather(-1, top) < 0)).squeeze(-1)


def lsh_attention(qk, v, rotations, chunk, causal=True):
    B, H, L, D = qk.shape
    if divmod(L, chunk)[1]:
        raise ValueError("L % chunk")
    n_chunks = L // chunk
    hashes = lsh_buckets(qk, rotations).reshape(len(rotations), B * H, L).numpy()
    q2, v2 = qk.reshape(B * H, L, D), v.reshape(B * H, L, -1)
    k2 = q2 / torch.linalg.vector_norm(q2, dim=-1, keepdim=True)

    def windows(x, fill):
        padded = F.pad(x, (0, 0, chunk, 0), value=fill)
        return padded.unfold(1, 2 * chunk, chunk)  # (BH, chunks, C, 2 chunk)

    def one(round_hashes):
        order = torch.from_numpy(np.argsort(round_hashes, axis=-1, kind="stable"))
        rows = torch.arange(B * H).unsqueeze(-1)
        h = torch.from_numpy(np.take_along_axis(round_hashes, order.numpy(), -1))
        hs, ps = h.unsqueeze(-1), order.unsqueeze(-1)
        kw, vw = windows(k2[rows, order], 0.0), windows(v2[rows, order], 0.0)
        hw, pw = windows(hs, -7), windows(ps, -7)
        hq, pq = hs.unflatten(1, (n_chunks, chunk)), ps.unflatten(1, (n_chunks, chunk))
        ok = (hw == hq) & (pw != pq)
        if causal:
            ok = ok & (pw < pq)
        s = q2[rows, order].unflatten(1, (n_chunks, chunk)) @ kw * D**-0.5
        s = s.masked_fill(~ok, -torch.inf)
        inverse = order.argsort(-1)

        def back(x):
            return x.flatten(1, 2)[rows, inverse]

        return back(s), back(vw.unsqueeze(2).expand(-1, -1, chunk, -1, -1))

    parts = [one(h) for h in hashes]
    s = torch.cat([p[0] for p in parts], -1)
    values = torch.cat([p[1] for p in parts], -1)
    nobody = s.isneginf().all(-1, keepdim=True)
    w = torch.softmax(s.masked_fill(nobody, 0.0), -1)
    out = torch.einsum("nls,nlcs->nlc", w, values)
    return torch.where(nobody, v2, out).reshape(B, H, L, -1)


class _Half(torch.autograd.Function):
    """(a, b) to (a + m(b), b), without keeping anything but what the next half gives back."""

    @staticmethod
    def forward(ctx, a, b, m, cell, slot, *ps):
        ctx.m, ctx.cell, ctx.slot, ctx.ps = m, cell, slot, ps
        cell["rng", slot] = torch.get_rng_state()
        return a + m(b), b.view_as(b)

    @staticmethod
    def backward(ctx, da, db):
        cell = ctx.cell
        if ctx.slot == 1:
            y1, y2 = cell.pop("y")
        else:
            y1, y2 = cell.pop("x2"), cell.pop("y1")
        b, a_out = (y1, y2)
        x = b.detach().requires_grad_()
        with torch.random.fork_rng(devices=()):
            torch.set_rng_state(cell["rng", ctx.slot])
            with torch.enable_grad():
                out = ctx.m(x)
                grads = torch.autograd.grad(out, [x, *ctx.ps], da, allow_unused=True)
        if ctx.slot == 1:
            cell["x2"], cell["y1"] = a_out - out.detach(), y1
        return da, db + grads[0], None, None, None, *grads[1:]


class ReversibleBlock(nn.Module):
    def __init__(self, f, g):
        super().__init__()
        self.f = f
        self.g = g

    def forward(self, x1, x2):
        cell = {}
        ps = [[p for p in m.parameters() if p.requires_grad] for m in (self.f, self.g)]
        y1, x2 = _Half.apply(x1, x2, self.f, cell, 0, *ps[0])
        y2, y1 = _Half.apply(x2, y1, self.g, cell, 1, *ps[1])
        cell["y"] = (y1.detach(), y2.detach())
        return y1, y2

    def inverse(self, y1, y2):
        with torch.no_grad():
            x2 = y2 - self.g(y1)
            x1 = y1 - self.f(x2)
        return x1, x2
