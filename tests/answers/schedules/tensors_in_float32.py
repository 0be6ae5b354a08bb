"""Every rate is computed as a float32 tensor, with torch.where in place of branches, and taken out at the end."""

from __future__ import annotations

import torch


def noam(step: int, d_model: int, warmup: int) -> float:
    if not (step >= 0 and d_model >= 1 and warmup >= 1):
        raise ValueError("noam wants step >= 0, d_model >= 1, warmup >= 1")
    s, m, w = torch.tensor([step + 1, d_model, warmup], dtype=torch.float32)
    return torch.rsqrt(m).mul(torch.minimum(torch.rsqrt(s), s / w / torch.sqrt(w))).item()


def warmup_cosine(step: int, max_lr: float, min_lr: float, warmup: int, total: int) -> float:
    if step < 0:
        raise ValueError("step < 0")
    if warmup < 0:
        raise ValueError("warmup < 0")
    if total <= warmup:
        raise ValueError("nothing is left after the warm-up")
    t = torch.tensor(float(step))
    climbing = max_lr * (t + 1) / max(warmup, 1)
    wave = torch.cos(torch.pi * ((t - warmup) / (total - warmup)).clamp(0, 1))
    falling = torch.lerp(torch.tensor(min_lr), torch.tensor(max_lr), (wave + 1) / 2)
    return torch.where(t < warmup, climbing, falling).item()


def warmup_stable_decay(step: int, max_lr: float, warmup: int, stable: int, decay: int) -> float:
    if torch.tensor([step, warmup, stable, decay]).lt(0).any():
        raise ValueError("negative argument")
    t = torch.tensor(float(step))
    up = (t + 1) / warmup if warmup else torch.ones(())
    down = (warmup + stable + decay - t) / decay if decay else (t < warmup + stable).float()
    return (max_lr * torch.stack([up, down, torch.ones(())]).min().clamp(min=0)).item()


def set_lr(optimizer, lr: float) -> None:
    [group.__setitem__("lr", lr) for group in optimizer.param_groups]
