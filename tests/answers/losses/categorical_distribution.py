"""The loss by torch.distributions, smoothing as a mixture with the uniform distribution's cross-entropy; masks multiply weights."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.distributions import Categorical


def log_softmax(x: Tensor, dim: int) -> Tensor:
    """By halves: log(a + b) is logaddexp, which needs no maximum."""
    parts = list(x.unbind(dim))
    while len(parts) > 1:
        parts = [torch.logaddexp(*parts[i : i + 2]) if i + 1 < len(parts) else parts[i] for i in range(0, len(parts), 2)]
    return x - parts[0].unsqueeze(dim)


def cross_entropy(logits: Tensor, targets: Tensor, ignore_index: int = -100, label_smoothing: float = 0.0) -> Tensor:
    mask = targets.eq(ignore_index)
    model = Categorical(logits=logits, validate_args=False)
    nll = -model.log_prob(targets.masked_fill(mask, 0))
    uniform = -model.logits.mean(dim=-1)
    per_token = torch.lerp(nll, uniform, label_smoothing).masked_fill(mask, 0.0)
    weight = 1.0 / max(int((~mask).sum()), 1)
    return per_token.sum() * weight


def cross_entropy_backward(logits: Tensor, targets: Tensor, ignore_index: int = -100) -> Tensor:
    scores = logits.numpy().astype(np.float64)
    scores -= scores.max(axis=1, keepdims=True)
    p = np.exp(scores)
    p /= p.sum(axis=1, keepdims=True)
    ids = targets.numpy()
    keep = ids != ignore_index
    p[keep, ids[keep]] -= 1.0
    p[~keep] = 0.0
    return torch.from_numpy(p / max(keep.sum(), 1)).to(logits.dtype)


def next_token_pairs(ids: Tensor) -> tuple[Tensor, Tensor]:
    inputs, _ = ids.split([ids.shape[1] - 1, 1], dim=1)
    _, targets = ids.split([1, ids.shape[1] - 1], dim=1)
    return inputs.contiguous(), targets.contiguous()


def shift_right(targets: Tensor, bos_id: int) -> Tensor:
    shifted = torch.full_like(targets, bos_id)
    shifted[:, 1:] = targets[:, :-1]
    return shifted


def perplexity(nll_sums: Sequence[float], token_counts: Sequence[int]) -> float:
    tokens = np.sum(token_counts)
    if tokens <= 0:
        raise ValueError("nothing was predicted")
    means = [nll / n for nll, n in zip(nll_sums, token_counts) if n]
    shares = [n / tokens for n in token_counts if n]
    return float(np.exp(np.dot(means, shares)))
