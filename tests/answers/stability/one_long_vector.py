"""All gradients copied into one flat vector; plain Python numbers for everything else."""

import math

import torch
from torch.nn.utils import parameters_to_vector


def flatten(params):
    pieces = [param.grad.reshape(-1) for param in params if param.grad is not None]
    return torch.cat(pieces) if pieces else torch.empty(0)


def grad_norm(params):
    vector = flatten(params)
    return torch.sqrt(torch.dot(vector, vector))


def clip_grad_norm(params, max_norm):
    params = tuple(params)
    norm = grad_norm(params)
    size = float(norm)
    if math.isfinite(size) and size > max_norm:
        vector = flatten(params) * (max_norm / size)
        start = 0
        for param in params:
            if param.grad is None:
                continue
            end = start + param.grad.numel()
            param.grad.copy_(vector[start:end].view_as(param.grad))
            start = end
    return norm


class LossScaler:
    def __init__(self, init_scale=2**16, growth_factor=2, backoff_factor=0.5, growth_interval=2000):
        self.value = init_scale * 1.0
        self.growth, self.backoff, self.interval = growth_factor, backoff_factor, growth_interval
        self.until_growth = growth_interval
        self.finite = None

    def scale(self, loss):
        return self.value * loss

    def unscale(self, params):
        if self.finite in (True, False):
            raise RuntimeError("already unscaled")
        params = list(params)
        self.finite = math.isfinite(float(flatten(params).abs().sum()))
        for param in params:
            if param.grad is not None:
                param.grad /= self.value
        return not self.finite

    def step(self, optimizer, params):
        if self.finite is None:
            self.unscale(params)
        if self.finite:
            optimizer.step()
        return self.finite

    def update(self):
        if self.finite is False:
            self.value = self.value * self.backoff
            self.until_growth = self.interval
        elif self.until_growth == 1:
            self.value = self.value * self.growth
            self.until_growth = self.interval
        else:
            self.until_growth -= 1
        self.finite = None


def accumulate_gradients(model, micro_batches, loss_fn):
    losses = [loss_fn(model, piece) for piece in micro_batches]
    tokens = sum(count for _, count in losses)
    for loss, _ in losses:
        (loss / tokens).backward()
    return sum(loss.item() for loss, _ in losses) / tokens


def mixed_precision_step(model, batch, loss_fn, optimizer, scaler, max_norm):
    in_half = torch.autocast("cpu", torch.bfloat16)
    summed, tokens = in_half(loss_fn)(model, batch)
    mean = summed.div(tokens)
    torch.autograd.backward(scaler.scale(mean))
    parameters = [*model.parameters()]
    assert parameters_to_vector(parameters).ndim == 1
    overflow = scaler.unscale(parameters)
    norm = clip_grad_norm(parameters, max_norm)
    stepped = scaler.step(optimizer, parameters)
    assert stepped is not overflow
    scaler.update()
    optimizer.zero_grad()
    return dict(loss=mean.item(), grad_norm=norm.item(), stepped=stepped)
