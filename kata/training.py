"""Trains a module on batches, beside the implementation: teacher forcing, cross-entropy, Adam.

The optimizer is written out: PyTorch's own imports its compiler on the first
step, a second and more.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

BETAS, EPS = (0.9, 0.98), 1e-9  # Vaswani et al. 2017, section 5.3
MAX_NORM = 1.0


def train(
    model: torch.nn.Module,
    data: list[Tensor],
    picks: Tensor,
    lr: float,
    ignore_index: int,
    report: Callable[[int, float], Any] | None = None,
    *,
    watch: Callable[..., Any],
    seed: int,
) -> list[float]:
    """Train in place.

    Args:
        model: called as model(*inputs), gives logits, (B, L, V) or (B, K).
        data: inputs, (N, ...) each, and last the targets, (N, L) or (N,).
        picks: which rows make the batch of each step, (steps, B).
        lr: the highest rate: it rises over the first tenth of the steps, then falls linearly to zero.
        ignore_index: target that does not count.
        report: called now and then with the step and its loss.
        watch: how the model is called: watch(model, inputs, {}).
        seed: for dropout, through the global generator of this process, which is the answer's own.

    Returns:
        The loss of each step.
    """
    torch.manual_seed(seed)
    model.train()
    weights = [p for p in model.parameters() if p.requires_grad]
    count = sum(p.numel() for p in weights)
    moments = torch.zeros(count), torch.zeros(count)
    losses = []
    for step, rows in enumerate(picks):
        *inputs, targets = (tensor[rows] for tensor in data)
        logits = watch(model, inputs, {})
        loss = F.cross_entropy(logits.flatten(0, -2), targets.flatten(), ignore_index=ignore_index)
        gradients = torch.autograd.grad(loss, weights, allow_unused=True)
        update(weights, gradients, moments, step, rate(step, len(picks), lr))
        losses.append(loss.item())
        if report and (step % 10 == 0 or step == len(picks) - 1):
            report(step, losses[-1])
    model.eval()
    return losses


def rate(step: int, steps: int, highest: float) -> float:
    warmup = max(steps // 10, 1)
    return highest * min((step + 1) / warmup, (steps - step) / (steps - warmup + 1))


def update(weights: list[Tensor], gradients: Any, moments: tuple[Tensor, Tensor], step: int, lr: float) -> None:
    """One step of Adam under a global norm, all weights as one vector; a weight without gradient stays."""
    gradient = torch.cat([torch.zeros(w.numel()) if g is None else g.flatten() for w, g in zip(weights, gradients, strict=True)])
    gradient *= (MAX_NORM / (gradient.norm() + 1e-6)).clamp(max=1.0)
    first, second = moments
    first.lerp_(gradient, 1 - BETAS[0])
    second.lerp_(gradient.square(), 1 - BETAS[1])
    corrected = (second / (1 - BETAS[1] ** (step + 1))).sqrt() + EPS
    change = first / corrected * (-lr / (1 - BETAS[0] ** (step + 1)))
    with torch.no_grad():
        for weight, part in zip(weights, change.split([w.numel() for w in weights]), strict=True):
            weight += part.view(weight.shape)
