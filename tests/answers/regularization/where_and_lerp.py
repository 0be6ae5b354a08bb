"""torch.where and new tensors; the average is a deep copy of the model, moved by lerp."""

import copy

import torch


def dropout(x, p, training, generator=None):
    if p < 0 or p > 1:
        raise ValueError("dropout probability has to be between 0 and 1, but got {}".format(p))
    if not training:
        return x
    drop = torch.rand(x.shape, generator=generator) < p
    if p == 1:
        return torch.zeros_like(x) + 0 * x
    return torch.where(drop, torch.zeros((), dtype=x.dtype), x / (1 - p))


def drop_path(x, p, training, generator=None):
    if p < 0 or p > 1:
        raise ValueError("drop probability has to be between 0 and 1, but got {}".format(p))
    if p == 0.0 or not training:
        return x
    keep_prob = 1 - p
    shape = (x.shape[0],) + (1,) * (x.ndim - 1)
    random_tensor = (torch.rand(shape, generator=generator) >= p).to(x.dtype)
    if keep_prob > 0.0:
        random_tensor.div_(keep_prob)
    return x * random_tensor


def smooth_targets(targets, num_classes, epsilon):
    out = torch.full((*targets.shape, num_classes), epsilon / num_classes)
    return out.scatter_add(-1, targets.unsqueeze(-1), torch.full((*targets.shape, 1), 1.0 - epsilon))


class EMA:
    def __init__(self, model, decay):
        self.shadow = copy.deepcopy(model).eval()
        for p in self.shadow.parameters():
            p.requires_grad_(False)
        self.decay = decay

    @torch.no_grad()
    def update(self, model):
        for mine, theirs in zip(self.shadow.parameters(), model.parameters()):
            mine.lerp_(theirs, 1 - self.decay)
        for mine, theirs in zip(self.shadow.buffers(), model.buffers()):
            mine.copy_(theirs)

    @torch.no_grad()
    def copy_to(self, model):
        for mine, theirs in zip(self.shadow.parameters(), model.parameters()):
            theirs.copy_(mine)
        for mine, theirs in zip(self.shadow.buffers(), model.buffers()):
            theirs.copy_(mine)
