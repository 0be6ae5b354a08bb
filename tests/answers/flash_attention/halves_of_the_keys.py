"""One head as a function, vmapped twice; a recursion over halves of the keys; base two inside."""

import math

import torch
from torch import Tensor

LOG2E = math.log2(math.e)


def merge_blocks(one, other):
    (ma, la, oa), (mb, lb, ob) = one, other
    m = torch.maximum(ma, mb)
    d = torch.where(ma == mb, torch.zeros_like(m), ma - mb)
    wa, wb = torch.exp2(LOG2E * d.clamp(max=0)), torch.exp2(LOG2E * (-d).clamp(max=0))
    return m, la * wa + lb * wb, oa * wa.unsqueeze(-1) + ob * wb.unsqueeze(-1)


def _leaf(q, k, v, row0, col0, off, causal):
    s = torch.einsum("ld,sd->ls", q, k) / q.shape[-1] ** 0.5
    if causal:
        i = torch.arange(len(q)).view(-1, 1) + row0 + off
        j = torch.arange(len(k)).view(1, -1) + col0
        s = torch.where(j <= i, s, torch.full_like(s, float("-inf")))
    m = s.max(dim=-1).values
    w = torch.exp(s - m.masked_fill(m.isneginf(), 0.0)[:, None])
    return m, w.sum(-1), w @ v


def _tree(q, k, v, row0, starts, block, off, causal):
    if len(starts) == 1:
        j = starts[0]
        return _leaf(q, k[j : j + block], v[j : j + block], row0, j, off, causal)
    h = len(starts) // 2
    return merge_blocks(*(_tree(q, k, v, row0, part, block, off, causal) for part in (starts[:h], starts[h:])))


def _seen(i, block, L, S, causal):
    end = min(i + block, L) + S - L if causal else S
    return list(range(0, min(end, S), block))


def flash_forward(q: Tensor, k, v, block, causal=False):
    L, S = q.shape[-2], k.shape[-2]

    def head(q, k, v):
        outs, lses = [], []
        for i in range(0, L, block):
            m, l, o = _tree(q[i : i + block], k, v, i, _seen(i, block, L, S, causal), block, S - L, causal)
            outs.append(o / l[:, None])
            lses.append(m + torch.log(l))
        return torch.cat(outs), torch.cat(lses)

    return torch.vmap(torch.vmap(head))(q, k, v)


def flash_backward(dout, q, k, v, out, logsumexp, block, causal=False):
    L, S = q.shape[-2], k.shape[-2]
    scale = q.shape[-1] ** -0.5

    def head(dout, q, k, v, out, lse):
        dq = []
        dk = [torch.zeros_like(k[j : j + block]) for j in range(0, S, block)]
        dv = [torch.zeros_like(v[j : j + block]) for j in range(0, S, block)]
        for i in range(0, L, block):
            qi, gi = q[i : i + block], dout[i : i + block]
            delta = torch.linalg.vecdot(gi, out[i : i + block])
            acc = torch.zeros_like(qi)
            for n, j in enumerate(_seen(i, block, L, S, causal)):
                kj, vj = k[j : j + block], v[j : j + block]
                s = qi @ kj.mT * scale
                if causal:
                    s = s.masked_fill(torch.arange(j, j + len(kj)) > torch.arange(i, i + len(qi))[:, None] + (S - L), -torch.inf)
                p = torch.exp(s - lse[i : i + block, None])
                ds = p * (gi @ vj.mT - delta[:, None]) * scale
                acc = acc + ds @ kj
                dk[n] = dk[n] + ds.mT @ qi
                dv[n] = dv[n] + p.mT @ gi
            dq.append(acc)
        return torch.cat(dq), torch.cat(dk), torch.cat(dv)

    return torch.vmap(torch.vmap(head))(dout, q, k, v, out, logsumexp)
