"""One head at a time, in two dimensions; the sums carry a column of ones with the values, so that l is a column of o."""

import math

import torch


def merge_blocks(one, other):
    m = torch.max(one[0], other[0])
    new_l, new_o = torch.zeros_like(one[1]), torch.zeros_like(one[2])
    for m_i, l_i, o_i in (one, other):
        seen = m_i > -math.inf
        factor = torch.zeros_like(m)
        factor[seen] = torch.exp(m_i[seen] - m[seen])
        new_l = new_l + factor * l_i
        new_o = new_o + factor[..., None] * o_i
    return m, new_l, new_o


def visible(q, k, i, j, block, causal):
    """Scores of a tile, None if all of it is hidden."""
    L, S = len(q), len(k)
    if causal and j - (S - L) >= min(i + block, L):
        return None
    s = q[i : i + block] @ k[j : j + block].T / math.sqrt(q.shape[1])
    if causal:
        for row in range(s.shape[0]):
            s[row, max(0, i + row + S - L + 1 - j) :] = -math.inf
    return s


def one_head_forward(q, k, v, block, causal):
    ones = torch.ones(len(v), 1, dtype=v.dtype)
    v = torch.cat([v, ones], 1)
    outs, lses = [], []
    for i in range(0, len(q), block):
        rows = len(q[i : i + block])
        m, o = torch.full((rows,), -math.inf, dtype=q.dtype), torch.zeros(rows, v.shape[1], dtype=q.dtype)
        for j in range(0, len(k), block):
            s = visible(q, k, i, j, block, causal)
            if s is None:
                break
            top = torch.maximum(m, s.max(1)[0])  # key 0 is seen by all, so it is finite from the first block on
            o = o * (m - top).exp()[:, None] + (s - top[:, None]).exp() @ v[j : j + block]
            m = top
        outs.append(o[:, :-1] / o[:, -1:])
        lses.append(m + o[:, -1].log())
    return torch.cat(outs), torch.cat(lses)


def one_head_backward(dout, q, k, v, out, lse, block, causal):
    dq, dk, dv = torch.zeros_like(q), torch.zeros_like(k), torch.zeros_like(v)
    for i in range(0, len(q), block):
        a = slice(i, i + block)
        for j in range(0, len(k), block):
            b = slice(j, j + block)
            s = visible(q, k, i, j, block, causal)
            if s is None:
                break
            p = (s - lse[a, None]).exp()
            ds = p * ((dout[a] @ v[b].T) - (dout[a] * out[a]).sum(1, keepdim=True)) / math.sqrt(q.shape[1])
            dv[b] += p.T @ dout[a]
            dk[b] += ds.T @ q[a]
            dq[a] += ds @ k[b]
    return dq, dk, dv


def each_head(function, tensors, *options):
    B, H = tensors[0].shape[:2]
    found = [[function(*(x[b, h] for x in tensors), *options) for h in range(H)] for b in range(B)]
    return tuple(torch.stack([torch.stack([head[n] for head in row]) for row in found]) for n in range(len(found[0][0])))


def flash_forward(q, k, v, block, causal=False):
    return each_head(one_head_forward, (q, k, v), block, causal)


def flash_backward(dout, q, k, v, out, logsumexp, block, causal=False):
    return each_head(one_head_backward, (dout, q, k, v, out, logsumexp), block, causal)
