"""The update rules are pure functions from (p, g, memory, options) to (p, memory); memory is a flat tuple; state is one list."""

import torch
from torch import Tensor


def sgd(p, g, memory, lr, momentum, nesterov):
    (v,) = memory or (torch.zeros_like(g),)
    v = momentum * v + g
    return p - lr * (g + momentum * v if nesterov else v), (v,)


def adamw(p, g, memory, lr, betas, eps, weight_decay):
    t, *moments = memory or (0, torch.zeros_like(g), torch.zeros_like(g))
    t += 1
    moments = [b * old + (1 - b) * new for b, old, new in zip(betas, moments, (g, g.square()))]
    first, second = (m / (1 - b**t) for b, m in zip(betas, moments))
    return p - lr * (first / (second**0.5 + eps) + weight_decay * p), (t, *moments)


class Rule:
    rule = None

    def set_up(self, params, **options):
        params = [*params]
        groups = params if isinstance(params[0], dict) else [{"params": params}]
        self.param_groups = [options | group for group in groups]
        for group in self.param_groups:
            group["params"] = [*group["params"]]
        self.memories = [[() for _ in group["params"]] for group in self.param_groups]

    def step(self):
        for group, memories in zip(self.param_groups, self.memories):
            options = {key: group[key] for key in group if key != "params"}
            for i, p in enumerate(group["params"]):
                if isinstance(p.grad, Tensor):
                    new, memories[i] = type(self).rule(p.detach(), p.grad.detach(), memories[i], **options)
                    with torch.no_grad():
                        p.copy_(new)

    def zero_grad(self):
        for group in self.param_groups:
            for p in group["params"]:
                p.grad = None

    def state_dict(self):
        def strip(group):
            return [[key, value] for key, value in group.items() if key != "params"]

        return {"state": [(strip(group), list(memories)) for group, memories in zip(self.param_groups, self.memories)]}

    def load_state_dict(self, state):
        self.memories = [list(memories) for _, memories in state["state"]]
        for group, (options, _) in zip(self.param_groups, state["state"]):
            group |= dict(options)


class SGD(Rule):
    rule = staticmethod(sgd)

    def __init__(self, params, lr, momentum=0.0, nesterov=False):
        self.set_up(params, lr=lr, momentum=momentum, nesterov=nesterov)


class AdamW(Rule):
    rule = staticmethod(adamw)

    def __init__(self, params, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.01):
        self.set_up(params, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay)


def decay_groups(model, weight_decay):
    return [{"params": [p], "weight_decay": weight_decay * (p.ndim > 1)} for p in model.parameters() if p.requires_grad]
