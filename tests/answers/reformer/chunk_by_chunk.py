"""Chunks are walked through in a list, rounds are merged as they come by an online softmax; the block is built of two hooks on autograd."""

import torch
from torch import nn


def lsh_buckets(x, rotations):
    both = torch.cat([rotations, -rotations], dim=-1)  # (N, D, 2R)
    return torch.stack([torch.argmax(torch.tensordot(x, matrix, dims=1), dim=-1) for matrix in both])


def lsh_attention(qk, v, rotations, chunk, causal=True):
    L = qk.size(-2)
    if L % chunk:
        raise ValueError(f"chunk {chunk} does not divide {L}")
    top = below = above = None
    for buckets in lsh_buckets(qk, rotations):
        m, s, o = _round(qk, v, buckets, chunk, causal)
        if top is None:
            top, below, above = m, s, o
        else:
            new = torch.maximum(top, m)
            old_part, new_part = _exp(top - new), _exp(m - new)
            below, above, top = below * old_part + s * new_part, above * old_part + o * new_part, new
    alone = below == 0
    return torch.where(alone, v, above / below.masked_fill(alone, 1))


def _exp(x):
    return torch.nan_to_num(x, nan=-torch.inf).exp()  # -inf less -inf: nothing on both sides


def _round(qk, v, buckets, chunk, causal):
    """Maximum, sum and weighted values of what each token sees, itself left out."""
    B, H, L, D = qk.shape
    position = torch.arange(L).expand(B, H, L)
    order = (buckets * L + position).argsort(-1)
    rows = torch.arange(B * H)[:, None]
    flat = order.reshape(B * H, L)
    q = qk.reshape(B * H, L, D)[rows, flat].split(chunk, 1)
    values = v.reshape(B * H, L, -1)[rows, flat].split(chunk, 1)
    owners = buckets.reshape(B * H, L)[rows, flat].split(chunk, 1)
    places = flat.split(chunk, 1)
    found = []
    for c in range(L // chunk):
        around = slice(max(c - 1, 0), c + 1)
        k = torch.nn.functional.normalize(torch.cat(q[around], 1), p=2, dim=2)
        scores = torch.bmm(q[c], k.transpose(1, 2)).div(D**0.5)
        i, j = places[c].unsqueeze(2), torch.cat(places[around], 1).unsqueeze(1)
        hidden = (owners[c].unsqueeze(2) != torch.cat(owners[around], 1).unsqueeze(1)) | (i == j)
        if causal:
            hidden = hidden | (j > i)
        scores = scores.masked_fill(hidden, -torch.inf)
        m = scores.detach().max(2, keepdim=True).values
        p = _exp(scores - m).masked_fill(hidden, 0)
        found.append((m, p.sum(2, keepdim=True), torch.bmm(p, torch.cat(values[around], 1))))
    back = torch.empty_like(flat).scatter(1, flat, position.reshape(B * H, L))
    return (torch.cat(part, 1)[rows, back].view(B, H, L, -1) for part in zip(*found))


class ReversibleBlock(nn.Module):
    def __init__(self, f: nn.Module, g: nn.Module):
        super().__init__()
        self.add_module("f", f)
        self.add_module("g", g)

    def forward(self, x1, x2):
        with torch.no_grad():
            states = torch.get_rng_state()
            y1 = x1 + self.f(x2)
            later = torch.get_rng_state()
            y2 = x2 + self.g(y1)
        if not torch.is_grad_enabled():
            return y1, y2
        return Replay.apply(self, (states, later), y1, y2, x1, x2, *dict.fromkeys(self.parameters()))

    def inverse(self, y1, y2):
        x2 = y2 - self.g(y1)
        x1 = y1 - self.f(x2)
        return (x1, x2)


class Replay(torch.autograd.Function):
    """The identity on outputs that have been computed without a graph."""

    @staticmethod
    def forward(block, states, y1, y2, x1, x2, *weights):
        return y1.view_as(y1), y2.view_as(y2)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.block, ctx.states = inputs[:2]
        ctx.weights = inputs[6:]
        ctx.save_for_backward(*output)

    @staticmethod
    def backward(ctx, *upstream):
        outputs = [y.detach() for y in ctx.saved_tensors]
        sums = {w: None for w in ctx.weights}
        into = list(upstream)
        with torch.random.fork_rng(devices=[]):
            for changed, module, state in ((1, ctx.block.g, ctx.states[1]), (0, ctx.block.f, ctx.states[0])):
                torch.set_rng_state(state)
                source = outputs[1 - changed].detach().requires_grad_(True)
                with torch.enable_grad():
                    result = module(source)
                needed = [w for w in ctx.weights if w.requires_grad]
                dsource, *found = torch.autograd.grad([result], [source, *needed], [into[changed]], allow_unused=True)
                into[1 - changed] = into[1 - changed] + dsource
                outputs[changed] = outputs[changed] - result.detach()
                for weight, gradient in zip(needed, found):
                    if gradient is not None:
                        sums[weight] = gradient if sums[weight] is None else sums[weight] + gradient
        return None, None, None, None, *into, *sums.values()
