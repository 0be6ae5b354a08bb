"""As Hugging Face does it: keys by root mean square and √D, masks of -1e5 and -1e9, round by round; backward() inside of backward."""

import torch
import torch.nn as nn


def lsh_buckets(x, rotations):
    rotated = torch.einsum("...d,hdr->h...r", x, rotations)
    return torch.argmax(torch.cat([rotated, -rotated], dim=-1), dim=-1)


def lsh_attention(qk, v, rotations, chunk, causal=True):
    B, H, L, D = qk.shape
    if L % chunk != 0:
        raise ValueError("bad chunk")
    n = L // chunk
    outs, lses = [], []
    for b in lsh_buckets(qk, rotations):
        ticker = torch.arange(L, device=qk.device).view(1, 1, L).expand(B, H, L)
        idx = torch.argsort(b * L + ticker, dim=-1)
        undo = torch.zeros_like(idx)
        undo.scatter_(-1, idx, ticker)
        q, val = (_gather(x, idx).reshape(B, H, n, chunk, -1) for x in (qk, v))
        var = (q**2).mean(-1, keepdim=True)
        k = q * torch.rsqrt(var + 1e-12) / D**0.5
        sb, pos = torch.gather(b, 2, idx).view(B, H, n, chunk), idx.view(B, H, n, chunk)
        k, val = _look(k, 0), _look(val, 0)
        kb, kp = _look(sb, -1), _look(pos, -1)
        dots = q @ k.transpose(-1, -2) / D**0.5
        bad = sb.unsqueeze(-1) != kb.unsqueeze(-2)
        if causal:
            bad |= pos.unsqueeze(-1) < kp.unsqueeze(-2)
        dots = dots.masked_fill(pos.unsqueeze(-1) == kp.unsqueeze(-2), -1e5)
        dots = dots.masked_fill(bad, -1e9)
        lse = torch.logsumexp(dots, -1, keepdim=True)
        o = torch.exp(dots - lse) @ val
        outs.append(_gather(o.reshape(B, H, L, -1), undo))
        lses.append(_gather(lse.reshape(B, H, L, -1), undo))
    w = torch.softmax(torch.stack(lses), 0)
    return (torch.stack(outs) * w).sum(0)


def _gather(x, idx):
    return torch.gather(x, 2, idx.unsqueeze(-1).expand(-1, -1, -1, x.shape[-1]))


def _look(x, fill):
    return torch.cat([torch.cat([torch.full_like(x[:, :, :1], fill), x[:, :, :-1]], 2), x], 3)


class RevFn(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x1, x2, dummy, blk):
        ctx.blk = blk
        with torch.no_grad():
            ctx.s1 = torch.get_rng_state()
            y1 = x1 + blk.f(x2)
            ctx.s2 = torch.get_rng_state()
            y2 = x2 + blk.g(y1)
        ctx.save_for_backward(y1.detach(), y2.detach())
        return y1, y2

    @staticmethod
    def backward(ctx, dy1, dy2):
        y1, y2 = ctx.saved_tensors
        blk = ctx.blk
        y1 = y1.clone().requires_grad_()
        with torch.random.fork_rng():
            with torch.enable_grad():
                torch.set_rng_state(ctx.s2)
                gy1 = blk.g(y1)
                gy1.backward(dy2)
            dx1 = dy1 + y1.grad
            x2 = (y2 - gy1.detach()).requires_grad_()
            with torch.enable_grad():
                torch.set_rng_state(ctx.s1)
                blk.f(x2).backward(dx1)
        return dx1, dy2 + x2.grad, None, None


class ReversibleBlock(nn.Module):
    def __init__(self, f, g):
        super().__init__()
        self.f = f
        self.g = g

    def forward(self, x1, x2):
        return RevFn.apply(x1, x2, torch.empty(0, requires_grad=True), self)

    @torch.no_grad()
    def inverse(self, y1, y2):
        x2 = y2 - self.g(y1)
        return y1 - self.f(x2), x2
