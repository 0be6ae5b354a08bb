"""The frozen weight is kept aside while merged, and put back exactly; layers are found by their dotted names."""

import math

import torch
import torch.nn as nn


class LoRALinear(nn.Module):
    def __init__(self, base, r, alpha, dropout=0.0):
        if r <= 0:
            raise ValueError("r must be positive")
        super().__init__()
        self.base = base
        for p in base.parameters():
            p.requires_grad = False
        kw = {"dtype": base.weight.dtype, "device": base.weight.device}
        self.A = nn.Parameter(torch.empty(r, base.in_features, **kw))
        self.B = nn.Parameter(torch.zeros(base.out_features, r, **kw))
        nn.init.kaiming_uniform_(self.A, a=math.sqrt(5))
        self.drop = nn.Dropout(dropout)
        self.r, self.alpha = r, alpha
        self.aside = None

    def forward(self, x):
        y = self.base(x)
        if self.aside is None:
            h = torch.einsum("...i,ri->...r", self.drop(x), self.A)
            y = y + torch.einsum("...r,or->...o", h, self.B) * self.alpha / self.r
        return y

    def merge(self):
        if self.aside is None:
            self.aside = self.base.weight.data.clone()
            self.base.weight.data += (self.alpha / self.r) * torch.matmul(self.B.data, self.A.data)

    def unmerge(self):
        if self.aside is not None:
            self.base.weight.data.copy_(self.aside)
            self.aside = None


def add_lora(model, names, r, alpha):
    inside = [n + "." for n, m in model.named_modules() if isinstance(m, LoRALinear)]
    todo = []
    for dotted, module in model.named_modules():
        fits = isinstance(module, nn.Linear) and dotted and dotted.rpartition(".")[2] in names
        if fits and not any(dotted.startswith(start) for start in inside):
            todo.append(dotted)
    if len(todo) == 0:
        raise ValueError("nothing to adapt")
    for dotted in todo:
        parent, _, name = dotted.rpartition(".")
        setattr(model.get_submodule(parent), name, LoRALinear(model.get_submodule(dotted), r, alpha))
    own = set()
    for module in model.modules():
        if isinstance(module, LoRALinear):
            own |= {id(module.A), id(module.B)}
    total = 0
    for p in model.parameters():
        p.requires_grad = id(p) in own
        total += p.numel() * p.requires_grad
    return total


def lora_state_dict(model):
    prefixes = [n + "." if n else "" for n, m in model.named_modules() if isinstance(m, LoRALinear)]
    wanted = {p + letter for p in prefixes for letter in "AB"}
    return {k: v for k, v in model.state_dict().items() if k in wanted}
