"""Norm of norms, a clamped coefficient, and a scaler whose state is tensors, as in torch.amp."""

import torch


def _grads(params):
    return [p.grad for p in params if p.grad is not None]


def grad_norm(params):
    grads = _grads(params)
    if len(grads) == 0:
        return torch.tensor(0.0)
    norms = [torch.linalg.vector_norm(g) for g in grads]
    return torch.linalg.vector_norm(torch.stack(norms))


@torch.no_grad()
def clip_grad_norm(params, max_norm):
    params = [p for p in params]
    total = grad_norm(params)
    coefficient = torch.clamp(max_norm / (total + 1e-6), max=1.0)
    coefficient = torch.where(torch.isfinite(total), coefficient, torch.ones_like(coefficient))
    for g in _grads(params):
        g.mul_(coefficient.to(g.device))
    return total


class LossScaler:
    READY, UNSCALED = "ready", "unscaled"

    def __init__(self, init_scale=65536.0, growth_factor=2.0, backoff_factor=0.5, growth_interval=2000):
        self._scale = torch.full((), init_scale, dtype=torch.float64)
        self._growth_factor, self._backoff_factor = growth_factor, backoff_factor
        self._growth_interval = growth_interval
        self._growth_tracker = torch.zeros((), dtype=torch.int32)
        self._stage = self.READY
        self._found_inf = torch.zeros(())

    @property
    def value(self):
        return self._scale.item()

    def scale(self, loss):
        return loss * self._scale.to(loss.dtype)

    @torch.no_grad()
    def unscale(self, params):
        if self._stage == self.UNSCALED:
            raise RuntimeError("unscale() has already been called on this optimizer since the last update().")
        self._stage = self.UNSCALED
        inverse = self._scale.reciprocal()
        for g in _grads(params):
            if not torch.isfinite(g).all():
                self._found_inf.fill_(1.0)
            g.mul_(inverse.to(g.dtype))
        return bool(self._found_inf)

    def step(self, optimizer, params):
        if self._stage == self.READY:
            self.unscale(params)
        if self._found_inf.item():
            return False
        optimizer.step()
        return True

    def update(self):
        if self._found_inf.item():
            self._scale.mul_(self._backoff_factor)
            self._growth_tracker.zero_()
        else:
            successful = self._growth_tracker + 1
            if successful == self._growth_interval:
                self._scale.mul_(self._growth_factor)
                self._growth_tracker.zero_()
            else:
                self._growth_tracker.copy_(successful)
        self._found_inf.zero_()
        self._stage = self.READY


def accumulate_gradients(model, micro_batches, loss_fn):
    sums, counts = [], []
    for batch in micro_batches:
        s, n = loss_fn(model, batch)
        sums.append(s)
        counts.append(n)
    mean = torch.stack(sums).sum() / sum(counts)
    mean.backward()
    return mean.item()


def mixed_precision_step(model, batch, loss_fn, optimizer, scaler, max_norm):
    optimizer.zero_grad(set_to_none=True)
    with torch.autocast(device_type="cpu", dtype=torch.bfloat16):
        s, n = loss_fn(model, batch)
    loss = s / n
    scaler.scale(loss).backward()
    scaler.unscale(model.parameters())
    norm = clip_grad_norm(model.parameters(), max_norm)
    stepped = scaler.step(optimizer, model.parameters())
    scaler.update()
    return {"loss": float(loss), "grad_norm": float(norm), "stepped": stepped, "scale": scaler.value}
