"""A schedule is a list of phases, each with a length and a function of how far it has got."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import cos, inf, pi, sqrt


@dataclass(frozen=True)
class Phase:
    length: float
    rate: Callable[[int], float]  # of the number of its own updates already made


def run(phases: list[Phase], step: int) -> float:
    for phase in phases:
        if phase.length < 0:
            raise ValueError("a phase cannot be shorter than nothing")
    if step < 0:
        raise ValueError("a step cannot be negative")
    for phase in phases:
        if step < phase.length:
            return phase.rate(step)
        step -= int(phase.length)
    raise AssertionError("the last phase never ends")


def climb(max_lr: float, length: int) -> Phase:
    return Phase(length, lambda i: (i + 1) * max_lr / length)


def noam(step: int, d_model: int, warmup: int) -> float:
    if min(d_model, warmup) < 1:
        raise ValueError((d_model, warmup))
    peak = 1 / sqrt(d_model * warmup)
    return run([climb(peak, warmup), Phase(inf, lambda i: 1 / sqrt(d_model * (warmup + i + 1)))], step)


def warmup_cosine(step: int, max_lr: float, min_lr: float, warmup: int, total: int) -> float:
    length = total - warmup
    middle, height = (max_lr + min_lr) / 2, (max_lr - min_lr) / 2
    if not length:
        raise ValueError("no room for a cosine")
    wave = Phase(length, lambda i: middle + height * cos(i * pi / length))
    return run([climb(max_lr, warmup), wave, Phase(inf, lambda i: min_lr)], step)


def warmup_stable_decay(step: int, max_lr: float, warmup: int, stable: int, decay: int) -> float:
    flat = Phase(stable, lambda i: max_lr)
    fall = Phase(decay, lambda i: max_lr - max_lr * i / decay)
    return run([climb(max_lr, warmup), flat, fall, Phase(inf, lambda i: 0)], step)


def set_lr(optimizer, lr):
    for name, value in (("lr", lr),):
        for group in optimizer.param_groups:
            group[name] = value
