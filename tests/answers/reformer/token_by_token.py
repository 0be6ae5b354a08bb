"""Loops over heads, rounds and chunks; all that a token sees in any round is collected, and one softmax runs over it."""

import torch
from torch.nn import Module


def lsh_buckets(x, rotations):
    rounds = []
    for matrix in rotations:
        scores = x @ matrix
        rounds.append(torch.cat((scores, scores.neg()), -1).max(-1).indices)
    return torch.stack(rounds)


def lsh_attention(qk, v, rotations, chunk, causal=True):
    B, H, L, _ = qk.shape
    if L % chunk > 0:
        raise ValueError((L, chunk))
    hashes = lsh_buckets(qk.detach(), rotations).tolist()
    return torch.stack(
        [torch.stack([_head(qk[b, h], v[b, h], [r[b][h] for r in hashes], chunk, causal) for h in range(H)]) for b in range(B)]
    )


def _head(qk, v, hashes, chunk, causal):
    L, D = qk.shape
    seen = [[] for _ in range(L)]
    for buckets in hashes:
        order = sorted(range(L), key=buckets.__getitem__)
        for place, i in enumerate(order):
            first = max(place // chunk - 1, 0) * chunk
            last = (place // chunk + 1) * chunk
            for j in order[first:last]:
                if buckets[j] == buckets[i] and j != i and (j < i or not causal):
                    seen[i].append(j)
    out = []
    for i, js in enumerate(seen):
        if not js:
            out.append(v[i])
            continue
        keys = qk[js] / qk[js].square().sum(-1, keepdim=True).sqrt()
        out.append((keys @ qk[i] / D**0.5).softmax(0) @ v[js])
    return torch.stack(out)


class ReversibleBlock(Module):
    """Each half is a Function of its own: the first passes x2 on to nobody, the second frees it."""

    def __init__(self, f, g):
        super().__init__()
        self.f = f
        self.g = g

    def forward(self, x1, x2):
        weights = tuple(self.parameters())
        return _Block.apply(self, x1, x2, *weights)

    def inverse(self, y1, y2):
        x2 = y2.sub(self.g(y1))
        x1 = y1.sub(self.f(x2))
        return x1, x2


class _Block(torch.autograd.Function):
    @staticmethod
    def forward(ctx, block, x1, x2, *weights):
        ctx.block, ctx.weights = block, weights
        ctx.rng = []
        for half in (block.f, block.g):
            ctx.rng.append(torch.get_rng_state())
            x1, x2 = x2, x1 + half(x2)
        ctx.save_for_backward(x1, x2)
        return x1, x2

    @staticmethod
    def backward(ctx, dy1, dy2):
        """Undo the two halves from the inputs' side: find x1 and x2, run all again with a graph."""
        y1, y2 = ctx.saved_tensors
        block = ctx.block
        at_the_end = torch.get_rng_state()
        with torch.no_grad():
            torch.set_rng_state(ctx.rng[1])
            x2 = y2 - block.g(y1)
            torch.set_rng_state(ctx.rng[0])
            x1 = y1 - block.f(x2)
        wanted = [w for w in ctx.weights if w.requires_grad]
        with torch.enable_grad():
            x1.requires_grad_()
            x2.requires_grad_()
            torch.set_rng_state(ctx.rng[0])
            z1 = x1 + block.f(x2)
            z2 = x2 + block.g(z1)
        torch.set_rng_state(at_the_end)
        dx1, dx2, *dw = torch.autograd.grad((z1, z2), (x1, x2, *wanted), (dy1, dy2), allow_unused=True)
        found = iter(dw)
        return None, dx1, dx2, *(next(found) if w.requires_grad else None for w in ctx.weights)
