"""Loops over numbers in float64, a mean that is updated piece by piece, and a scaler that keeps exponents."""

import math

import torch


def grad_norm(params):
    total = 0.0
    for p in params:
        if p.grad is not None:
            for row in p.grad.detach().double().reshape(-1, 1):
                total += float((row * row).sum())
    return torch.tensor(math.sqrt(total), dtype=torch.float64)


def clip_grad_norm(params, max_norm):
    kept = []

    def remembering():
        for p in params:
            kept.append(p)
            yield p

    norm = grad_norm(remembering())
    if norm > max_norm and norm != math.inf:  # NaN compares false
        for p in kept:
            if p.grad is None:
                continue
            p.grad[...] = p.grad * float(max_norm / norm)
    return norm


class _Step:
    """One step of training: whether it is unscaled, and what was found."""

    def __init__(self):
        self.unscaled = False
        self.overflow = False


class LossScaler:
    def __init__(self, init_scale=2.0**16, growth_factor=2.0, backoff_factor=0.5, growth_interval=2000):
        self._first, self._up, self._down, self._every = init_scale, growth_factor, backoff_factor, growth_interval
        self._growths = self._backoffs = self._row = 0
        self._current = _Step()

    @property
    def value(self):
        return float(self._first * self._up**self._growths * self._down**self._backoffs)

    def scale(self, loss):
        return loss * torch.as_tensor(self.value, dtype=loss.dtype)

    def unscale(self, params):
        if self._current.unscaled:
            raise RuntimeError("unscale came twice; call update() first")
        self._current.unscaled = True
        for p in params:
            if p.grad is None:
                continue
            with torch.no_grad():
                p.grad.copy_(p.grad / self.value)
            worst = p.grad.abs().sum().item()
            if worst != worst or worst == math.inf:
                self._current.overflow = True
        return self._current.overflow

    def step(self, optimizer, params):
        self._current.unscaled or self.unscale(params)
        made = not self._current.overflow
        made and optimizer.step()
        return made

    def update(self):
        step, self._current = self._current, _Step()
        self._row = 0 if step.overflow else self._row + 1
        self._backoffs += step.overflow
        if self._row == self._every:
            self._growths, self._row = self._growths + 1, 0


def accumulate_gradients(model, micro_batches, loss_fn):
    mean_loss, tokens, mean_grads = 0.0, 0, {}
    for piece in micro_batches:
        model.zero_grad()
        loss, count = loss_fn(model, piece)
        if count == 0:
            continue
        loss.backward()
        tokens += count
        mean_loss += (loss.item() - count * mean_loss) / tokens
        for name, p in model.named_parameters():
            if p.grad is not None:
                old = mean_grads.get(name, torch.zeros_like(p))
                mean_grads[name] = old + (p.grad - count * old) / tokens
    for name, p in model.named_parameters():
        if name in mean_grads:
            p.grad = mean_grads[name]
    return mean_loss


def mixed_precision_step(model, batch, loss_fn, optimizer, scaler, max_norm):
    for p in model.parameters():
        p.grad = None
    with torch.amp.autocast("cpu", dtype=torch.bfloat16):
        loss_sum, tokens = loss_fn(model, batch)
        scaled = scaler.scale(loss_sum * (1 / tokens))
    scaled.backward()
    if scaler.unscale(model.parameters()):
        norm = math.inf
    else:
        norm = clip_grad_norm(model.parameters(), max_norm).item()
    result = {"loss": loss_sum.item() / tokens, "grad_norm": norm, "stepped": scaler.step(optimizer, model.parameters())}
    scaler.update()
    return result
