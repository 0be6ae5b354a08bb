"""Samples in a loop, targets as lists; averages in a flat vector in float64, .data assigned to the parameters."""

import torch


def _mask(size, p, generator):
    if not (p >= 0 and p <= 1):
        raise ValueError(f"{p} is no probability")
    return [1.0 / (1.0 - p) if number >= p else 0.0 for number in torch.rand(size, generator=generator)]


def dropout(x, p, training, generator=None):
    if training is False:
        return x
    mask = torch.tensor(_mask(x.numel(), p, generator), dtype=torch.float64).view(x.shape)
    return (x * mask).to(x.dtype)


def drop_path(x, p, training, generator=None):
    if not training:
        return x
    return torch.stack([sample * number for sample, number in zip(x, _mask(len(x), p, generator))])


def smooth_targets(targets, num_classes, epsilon):
    rows = []
    for target in targets.flatten().tolist():
        row = [epsilon / num_classes] * num_classes
        row[target] += 1 - epsilon
        rows.append(row)
    return torch.tensor(rows).view(*targets.shape, num_classes)


class EMA:
    def __init__(self, model, decay):
        self.vector, self.decay = self.flat(model), decay
        self.keep(model)

    @staticmethod
    def flat(model):
        pieces = [p.detach().double().reshape(-1) for p in model.parameters()]
        return torch.cat(pieces) if pieces else torch.zeros(0)

    def keep(self, model):
        self.buffers = [b.tolist() for b in model.buffers()]

    def update(self, model):
        self.vector = self.vector - (1 - self.decay) * (self.vector - self.flat(model))
        self.keep(model)

    def copy_to(self, model):
        at = 0
        for p in model.parameters():
            p.data = self.vector[at : at + p.numel()].view(p.shape).to(p.dtype, copy=True)
            at += p.numel()
        for b, values in zip(model.buffers(), self.buffers):
            b.data.copy_(torch.tensor(values))
