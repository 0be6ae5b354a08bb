"""One function for both masks, einsum, softened one-hot rows from an identity matrix; the average hangs on hooks of names."""

import torch


def _random_scale(lead, p, like, generator):
    if p != min(max(p, 0), 1):
        raise ValueError(f"probability {p} is out of range")
    noise = torch.empty(lead).uniform_(generator=generator)
    survivors = torch.ge(noise, p)
    return survivors.type_as(like).mul(1 / max(1 - p, 1e-12))


def dropout(x, p, training, generator=None):
    return torch.mul(x, _random_scale(x.shape, p, x, generator)) if training else x


def drop_path(x, p, training, generator=None):
    return torch.einsum("b...,b->b...", x, _random_scale(x.shape[:1], p, x, generator)) if training else x


def smooth_targets(targets, num_classes, epsilon):
    table = torch.eye(num_classes) * (1 - epsilon) + torch.ones(num_classes, num_classes) * epsilon / num_classes
    return table[targets]


class EMA:
    def __init__(self, model, decay):
        self.decay = float(decay)
        self.of = {}
        self._take(model, 0.0)

    def _take(self, model, decay):
        for path, module in model.named_modules():
            for name, p in module._parameters.items():
                if p is not None:
                    now = p.data.clone()
                    self.of[path, name] = (
                        now if decay == 0 and (path, name) not in self.of else self.of[path, name] * decay + now * (1 - decay)
                    )
            for name, b in module._buffers.items():
                if b is not None:
                    self.of[path, name] = b.clone()

    def update(self, model):
        self._take(model, self.decay)

    def copy_to(self, model):
        modules = dict(model.named_modules())
        for (path, name), value in self.of.items():
            with torch.no_grad():
                getattr(modules[path], name).set_(value.clone())
