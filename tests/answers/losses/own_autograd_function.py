"""Cross-entropy as an autograd.Function of its own; only the tokens that count are ever looked at; logsumexp."""

from __future__ import annotations

import math
from itertools import accumulate

import torch
from torch import Tensor
from torch.autograd import Function


def log_softmax(x: Tensor, dim: int) -> Tensor:
    return x - torch.logsumexp(x, dim=dim, keepdim=True)


class CrossEntropy(Function):
    @staticmethod
    def forward(ctx, logits: Tensor, targets: Tensor, ignore_index: int, epsilon: float) -> Tensor:
        V = logits.shape[-1]
        flat, wanted = logits.reshape(-1, V), targets.reshape(-1)
        kept = (wanted != ignore_index).nonzero().squeeze(1)
        rows, wanted = flat[kept], wanted[kept]
        logp = log_softmax(rows, 1)
        q = torch.full_like(rows, epsilon / V)
        q[torch.arange(len(kept)), wanted] += 1 - epsilon
        ctx.save_for_backward(logp, q, kept)
        ctx.shape = logits.shape
        if len(kept) == 0:
            return flat.new_zeros(())
        return -(q * logp).sum() / len(kept)

    @staticmethod
    def backward(ctx, upstream: Tensor):
        logp, q, kept = ctx.saved_tensors
        full = upstream.new_zeros(ctx.shape).reshape(-1, ctx.shape[-1])
        if len(kept):
            full[kept] = (logp.exp() - q) * (upstream / len(kept))
        return full.reshape(ctx.shape), None, None, None


def cross_entropy(logits: Tensor, targets: Tensor, ignore_index: int = -100, label_smoothing: float = 0.0) -> Tensor:
    return CrossEntropy.apply(logits, targets, ignore_index, label_smoothing)


def cross_entropy_backward(logits: Tensor, targets: Tensor, ignore_index: int = -100) -> Tensor:
    grad = torch.zeros_like(logits)
    kept = targets.ne(ignore_index)
    n = int(kept.count_nonzero())
    if n:
        p = torch.softmax(logits[kept], dim=-1)
        p.scatter_add_(1, targets[kept][:, None], -torch.ones_like(p[:, :1]))
        grad[kept] = p / n
    return grad


def next_token_pairs(ids: Tensor) -> tuple[Tensor, Tensor]:
    windows = ids.unfold(1, 2, 1)  # (B, L - 1, 2)
    inputs, targets = windows.unbind(-1)
    return inputs, targets


def shift_right(targets: Tensor, bos_id: int) -> Tensor:
    return torch.nn.functional.pad(targets, (1, -1), value=bos_id)


def perplexity(nll_sums, token_counts) -> float:
    nll, tokens = 0.0, 0
    for nll, tokens in accumulate(zip(nll_sums, token_counts, strict=True), lambda a, b: (a[0] + b[0], a[1] + b[1])):
        pass
    if not tokens:
        raise ValueError(f"{len(nll_sums)} batches, but not a single token")
    return math.exp(nll / tokens)
