"""Straight lines by numpy.interp; the cosine from half its angle; noam in the logarithm."""

import math

import numpy as np


def noam(step, d_model, warmup):
    if warmup <= 0 or d_model <= 0:
        raise ValueError("warmup and d_model must be positive")
    if step < 0:
        raise ValueError("there is no update before the first")
    n = math.log(step + 1)
    w = math.log(warmup)
    return math.exp(-0.5 * math.log(d_model) + min(-0.5 * n, n - 1.5 * w))


def _check(step, *durations):
    if step < 0 or any(d < 0 for d in durations):
        raise ValueError(f"negative: {(step, *durations)}")


def warmup_cosine(step, max_lr, min_lr, warmup, total):
    _check(step, warmup, total - warmup - 1)
    if step < warmup:
        return float(np.interp(step + 1, [0, warmup], [0.0, max_lr]))
    angle = np.interp(step, [warmup, total], [0.0, math.pi / 2])
    return float(min_lr + (max_lr - min_lr) * np.cos(angle) ** 2)


def warmup_stable_decay(step, max_lr, warmup, stable, decay):
    _check(step, warmup, stable, decay)
    if step < warmup:
        return float(np.interp(step + 1, [0, warmup], [0.0, max_lr]))
    return float(np.interp(step, [warmup + stable, warmup + stable + decay], [max_lr, 0.0]))


def set_lr(optimizer, lr):
    for i in range(len(optimizer.param_groups)):
        optimizer.param_groups[i].update(lr=lr)
