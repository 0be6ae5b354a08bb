"""As few branches as there can be: minima and maxima, and powers of i for the cosine."""

from fractions import Fraction as Share


def _sane(**least):
    for name, (value, low) in least.items():
        if value < low:
            raise ValueError(f"{name} is {value}; it must be {low} or more")


def noam(step: int, d_model: int, warmup: int) -> float:
    _sane(step=(step, 0), d_model=(d_model, 1), warmup=(warmup, 1))
    return pow(d_model * max(step + 1, warmup**3 / (step + 1) ** 2), -1 / 2)


def warmup_cosine(step: int, max_lr: float, min_lr: float, warmup: int, total: int) -> float:
    _sane(step=(step, 0), warmup=(warmup, 0), total=(total, warmup + 1))
    gone = min(max(Share(step - warmup, total - warmup), Share(0)), Share(1))
    share = (1 + (1j ** (2 * float(gone))).real) / 2
    return min((step + 1) / warmup if step < warmup else 1.0, 1.0) * max_lr * share + (1 - share) * min_lr


def warmup_stable_decay(step: int, max_lr: float, warmup: int, stable: int, decay: int) -> float:
    _sane(step=(step, 0), warmup=(warmup, 0), stable=(stable, 0), decay=(decay, 0))
    up = Share(step + 1, warmup) if warmup else 1
    down = Share(max(warmup + stable + decay - step, 0), decay) if decay else int(step < warmup + stable)
    return float(max_lr * min(1, up, down))


def set_lr(optimizer, lr: float) -> None:
    groups = iter(optimizer.param_groups)
    while (group := next(groups, None)) is not None:
        group |= {"lr": lr}
