"""Learning-rate schedules.

A Transformer that begins with its full learning rate often never recovers
from its first hundred updates; one that keeps it to the end stops short of
what it could reach. So the rate climbs, stays or falls, and falls to almost
nothing. Write the three schedules that papers quote, as plain functions of
the step, and what hands their number to the optimizer.

`step` is the number of updates already made: 0 for the first, whose rate must
not be 0, or a batch is wasted. A rate depends on the arguments alone, not on
earlier calls, so that a run can be resumed at any step. Rates are Python
floats, steps and durations ints.
"""

import math
from typing import Any

import torch


def noam(step: int, d_model: int, warmup: int) -> float:
    """The schedule of the first Transformer: d_model^-0.5 · min(s^-0.5, s · warmup^-1.5), with s = step + 1.

    Args:
        step: updates already made, at least 0.
        d_model: size of the model, at least 1.
        warmup: how many updates the rate climbs for, at least 1; the last of
            them has the largest rate.

    Returns:
        The rate of the update to come.

    Raises:
        ValueError: step is negative, or d_model or warmup is below 1.

    Source: Vaswani et al. 2017, "Attention Is All You Need", section 5.3.

    >>> [noam(step, d_model=4, warmup=4) for step in (0, 1, 3, 15)]
    [0.0625, 0.125, 0.25, 0.125]
    """
    if step < 0 or d_model < 1 or warmup < 1:
        raise ValueError(f"step {step} must be at least 0, d_model {d_model} and warmup {warmup} at least 1")
    s = step + 1
    return d_model**-0.5 * min(s**-0.5, s * warmup**-1.5)


def warmup_cosine(step: int, max_lr: float, min_lr: float, warmup: int, total: int) -> float:
    """Linear warm-up to max_lr, then half a cosine wave down to min_lr, then min_lr for ever.

    Args:
        step: updates already made, at least 0.
        max_lr: the rate at step = warmup, and already at the one before.
        min_lr: the rate from step = total on; from 0 to max_lr.
        warmup: while step < warmup, the rate is max_lr · (step + 1) / warmup;
            0 for none, the cosine then begins at step 0.
        total: warm-up and cosine together, more than warmup.

    Returns:
        The rate of the update to come.

    Raises:
        ValueError: step or warmup is negative, or total is not more than
            warmup.

    Source: Loshchilov and Hutter 2017, "SGDR: Stochastic Gradient Descent with
    Warm Restarts", section 3, equation 5, without restarts.

    >>> [round(warmup_cosine(step, 1.0, 0.2, warmup=2, total=6), 3) for step in range(8)]
    [0.5, 1.0, 1.0, 0.883, 0.6, 0.317, 0.2, 0.2]
    """
    if step < 0 or warmup < 0 or total <= warmup:
        raise ValueError(f"step {step} and warmup {warmup} must be at least 0, total {total} more than warmup")
    if step < warmup:
        return max_lr * (step + 1) / warmup
    progress = min((step - warmup) / (total - warmup), 1.0)
    return min_lr + (max_lr - min_lr) * (1 + math.cos(math.pi * progress)) / 2


def warmup_stable_decay(step: int, max_lr: float, warmup: int, stable: int, decay: int) -> float:
    """The same warm-up, then max_lr for a while, then in a straight line down to 0.

    Args:
        step: updates already made, at least 0.
        max_lr: the largest rate.
        warmup: how many updates the rate climbs for, as in warmup_cosine; 0
            for none.
        stable: for so many updates after that the rate is max_lr; 0 for none.
        decay: from max_lr at step = warmup + stable, the rate falls by the
            same amount each step, and reaches 0 at step = warmup + stable +
            decay; 0 for none.

    Returns:
        The rate of the update to come; 0 ever after.

    Raises:
        ValueError: step, warmup, stable or decay is negative.

    Source: Hu et al. 2024, "MiniCPM: Unveiling the Potential of Small Language
    Models with Scalable Training Strategies", section 4; the linear decay is
    that of Hägele et al. 2024, "Scaling Laws and Compute-Optimal Training
    Beyond Fixed Training Durations", section 3.

    >>> [warmup_stable_decay(step, 1.0, warmup=2, stable=1, decay=4) for step in range(9)]
    [0.5, 1.0, 1.0, 1.0, 0.75, 0.5, 0.25, 0.0, 0.0]
    """
    if min(step, warmup, stable, decay) < 0:
        raise ValueError(f"step {step}, warmup {warmup}, stable {stable} and decay {decay} must be at least 0")
    if step < warmup:
        return max_lr * (step + 1) / warmup
    left = warmup + stable + decay - step
    return max_lr * max(0.0, min(1.0, left / max(decay, 1)))


def set_lr(optimizer: Any, lr: float) -> None:
    """Give every parameter group of an optimizer this rate.

    Args:
        optimizer: as in torch.optim: `param_groups` is a list of dicts, whose
            "lr" each update reads. It stays the same list of the same dicts,
            and nothing in them but "lr" changes.
        lr: the rate itself, not a factor.

    Source: the documentation of torch.optim, "Per-parameter options".

    >>> optimizer = torch.optim.SGD([{"params": [torch.zeros(1)]}, {"params": [torch.zeros(1)], "lr": 3.0}], lr=1.0)
    >>> set_lr(optimizer, 0.5)
    >>> [group["lr"] for group in optimizer.param_groups]
    [0.5, 0.5]
    """
    for group in optimizer.param_groups:
        group["lr"] = lr
