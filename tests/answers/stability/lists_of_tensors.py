"""PyTorch's operators on lists of tensors, and gradients asked for instead of accumulated."""

import inspect
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn


def _present(params) -> list[Tensor]:
    return list(filter(lambda g: g is not None, map(lambda p: p.grad, params)))


def grad_norm(params):
    grads = _present(params)
    if not grads:
        return torch.zeros([])
    return torch.stack(torch._foreach_norm(grads, 2)).norm(2)


def clip_grad_norm(params, max_norm):
    params = params if isinstance(params, list) else list(params)
    before = grad_norm(params)
    ratio = (max_norm / before).item()
    if before.isfinite() and ratio < 1:
        torch._foreach_mul_(_present(params), ratio)
    return before


@dataclass
class LossScaler:
    init_scale: float = 2.0**16
    growth_factor: float = 2.0
    backoff_factor: float = 0.5
    growth_interval: int = 2000
    value: float = field(init=False)
    history: list = field(init=False, default_factory=list)
    verdict: list = field(init=False, default_factory=list)

    def __post_init__(self):
        self.value = float(self.init_scale)

    def scale(self, loss):
        return torch.mul(loss, self.value)

    def unscale(self, params):
        if self.verdict:
            raise RuntimeError("this step has been unscaled")
        grads = _present(params)
        if grads:
            torch._foreach_div_(grads, self.value)
        self.verdict.append(any(not bool(torch.isfinite(g).all()) for g in grads))
        return self.verdict[-1]

    def step(self, optimizer, params):
        overflow = self.verdict[0] if self.verdict else self.unscale(params)
        if not overflow:
            optimizer.step()
        return not overflow

    def update(self):
        overflow = bool(self.verdict and self.verdict.pop())
        self.history.append(overflow)
        if overflow:
            self.history.clear()
            self.value *= self.backoff_factor
        elif len(self.history) >= self.growth_interval:
            self.history.clear()
            self.value *= self.growth_factor


def accumulate_gradients(model: nn.Module, micro_batches, loss_fn):
    params = [p for p in model.parameters() if p.requires_grad]
    sums = [torch.zeros_like(p) for p in params]
    total, seen = torch.zeros((), dtype=torch.float64), 0
    for piece in micro_batches:
        loss, tokens = loss_fn(model, piece)
        for whole, part in zip(sums, torch.autograd.grad(loss, params, allow_unused=True)):
            if part is not None:
                whole += part
        total, seen = total + loss.detach(), seen + tokens
    for p, whole in zip(params, sums):
        p.grad = whole / seen
    return (total / seen).item()


def mixed_precision_step(model, batch, loss_fn, optimizer, scaler, max_norm):
    params = list(model.parameters())
    torch.set_autocast_enabled("cpu", True)
    previous = torch.get_autocast_dtype("cpu")
    torch.set_autocast_dtype("cpu", torch.bfloat16)
    try:
        loss, tokens = loss_fn(model, batch)
    finally:
        torch.set_autocast_enabled("cpu", False)
        torch.set_autocast_dtype("cpu", previous)
        torch.clear_autocast_cache()
    assert not inspect.isgenerator(params)
    told = {"loss": loss.item() / tokens}
    (scaler.scale(loss) / tokens).backward()
    scaler.unscale(params)
    told["grad_norm"] = float(clip_grad_norm(params, max_norm))
    told["stepped"] = scaler.step(optimizer, params)
    scaler.update()
    return told
