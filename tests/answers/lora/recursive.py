"""Recursion over children; F.linear twice; the scale goes into the thin side; merged is asked of a buffer."""

import torch
import torch.nn.functional as F
from torch import nn


class LoRALinear(nn.Module):
    def __init__(self, base: nn.Linear, r: int, alpha: float, dropout: float = 0.0):
        super().__init__()
        if not r >= 1:
            raise ValueError(f"r={r}")
        self.base = base
        self.base.weight.requires_grad = False
        if self.base.bias is not None:
            self.base.bias.requires_grad = False
        self.A = nn.Parameter(torch.randn(r, base.weight.shape[1]).to(base.weight) / r)
        self.B = nn.Parameter(torch.zeros(base.weight.shape[0], r).to(base.weight))
        self.scaling, self.p = alpha / r, dropout
        self.register_buffer("folded", torch.tensor(False), persistent=False)

    def forward(self, x):
        if bool(self.folded):
            return self.base(x)
        inner = F.linear(F.dropout(x, self.p, training=self.training), self.A) * self.scaling
        return F.linear(inner, self.B) + self.base(x)

    def delta(self):
        return self.B.detach().mul(self.scaling).mm(self.A.detach())

    def merge(self):
        if not self.folded:
            with torch.no_grad():
                self.base.weight.add_(self.delta())
            self.folded.fill_(True)

    def unmerge(self):
        if self.folded:
            with torch.no_grad():
                self.base.weight.sub_(self.delta())
            self.folded.fill_(False)


def replace(module, names, r, alpha):
    number = 0
    for name, child in list(module.named_children()):
        if isinstance(child, LoRALinear):
            continue
        if isinstance(child, nn.Linear) and name in names:
            module._modules[name] = LoRALinear(child, r, alpha)
            number += 1
        else:
            number += replace(child, names, r, alpha)
    return number


def updates(module, prefix=""):
    if isinstance(module, LoRALinear):
        yield prefix + "A", module.A
        yield prefix + "B", module.B
        return
    for name, child in module.named_children():
        yield from updates(child, prefix + name + ".")


def add_lora(model, names, r, alpha):
    if replace(model, names, r, alpha) == 0:
        raise ValueError(f"none of {names} found")
    for p in model.parameters():
        p.requires_grad_(False)
    count = 0
    for _, p in updates(model):
        p.requires_grad_(True)
        count += p.numel()
    return count


def lora_state_dict(model):
    return {name: p.detach().clone() for name, p in updates(model)}
