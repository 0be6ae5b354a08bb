"""Dropout as an autograd function; the average as a plain state dict that load_state_dict writes back."""

import torch
from torch import nn


class Dropped(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, mask, scale):
        ctx.save_for_backward(mask)
        ctx.scale = scale
        return x.masked_fill(~mask, 0) * scale

    @staticmethod
    def backward(ctx, upstream):
        (mask,) = ctx.saved_tensors
        return upstream.masked_fill(~mask, 0) * ctx.scale, None, None


def scale_of(p):
    if not 0.0 <= p <= 1.0:
        raise ValueError(p)
    return 0.0 if p == 1 else 1.0 / (1.0 - p)


def dropout(x, p, training, generator=None):
    if training:
        scale = scale_of(p)
        return Dropped.apply(x, ~(torch.rand(x.shape, generator=generator) < p), scale)
    return x.clone()


def drop_path(x, p, training, generator=None):
    if training:
        scale = scale_of(p)
        kept = torch.rand(len(x), generator=generator) >= p
        mask = kept.reshape([-1] + [1] * (x.dim() - 1)).expand_as(x)
        return Dropped.apply(x, mask, scale)
    return x


def smooth_targets(targets, num_classes, epsilon):
    share = epsilon / num_classes
    classes = torch.arange(num_classes)
    return (targets[..., None] == classes) * (1.0 - epsilon) + share


class EMA(nn.Module):
    def __init__(self, model, decay):
        super().__init__()
        self.decay = decay
        self.names = {name for name, _ in model.named_parameters(remove_duplicate=False)}
        self.average = {name: value.clone() for name, value in model.state_dict().items()}

    def update(self, model):
        new = {}
        for name, value in model.state_dict().items():
            if name in self.names:
                new[name] = self.decay * self.average[name] + (1 - self.decay) * value
            else:
                new[name] = value.clone()
        self.average = new

    def copy_to(self, model):
        model.load_state_dict(self.average)
