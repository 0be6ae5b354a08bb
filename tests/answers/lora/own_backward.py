"""The update as a function of its own, with a backward pass written by hand; marks on the parameters say what is LoRA's."""

import torch
from torch import nn
from torch.nn.functional import linear


class Update(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, A, B, scale):
        low = linear(x, A)
        ctx.save_for_backward(x, low, A, B)
        ctx.scale = scale
        return scale * linear(low, B)

    @staticmethod
    def backward(ctx, grad):
        x, low, A, B = ctx.saved_tensors
        grad = ctx.scale * grad
        flat = grad.reshape(-1, B.shape[0])
        dlow = grad @ B
        dA = dlow.reshape(-1, A.shape[0]).T @ x.reshape(-1, A.shape[1])
        return dlow @ A, dA, flat.T @ low.reshape(-1, A.shape[0]), None


class LoRALinear(nn.Module):
    def __init__(self, base, r, alpha, dropout=0.0):
        super().__init__()
        if r < 1:
            raise ValueError("r < 1")
        self.base = base.requires_grad_(requires_grad=False)
        weight = base.weight
        self.A = nn.Parameter(torch.rand(r, weight.size(1), dtype=weight.dtype, device=weight.device) * 0.2 - 0.1)
        self.B = nn.Parameter(torch.zeros(weight.size(0), r, dtype=weight.dtype, device=weight.device))
        self.A.of_lora = self.B.of_lora = True
        self.scale = alpha / r
        self.p = dropout
        self.times = 0

    def forward(self, x):
        if self.times:
            return self.base(x)
        if self.training and self.p > 0:
            keep = torch.rand_like(x) >= self.p
            x_in = torch.where(keep, x / max(1 - self.p, 1e-9), torch.zeros_like(x))
        else:
            x_in = x
        return self.base(x) + Update.apply(x_in, self.A, self.B, self.scale)

    def shift(self, times):
        if times != self.times:
            self.base.weight.data.addmm_(self.B.data, self.A.data, alpha=(times - self.times) * self.scale)
            self.times = times

    def merge(self):
        self.shift(1)

    def unmerge(self):
        self.shift(0)


def add_lora(model, names, r, alpha):
    queue, places = [model], []
    while queue:
        module = queue.pop()
        if isinstance(module, LoRALinear):
            continue
        for name, child in module.named_children():
            queue.append(child)
            if isinstance(child, nn.Linear) and name in list(names):
                places.append((module, name))
    if not places:
        raise ValueError("no such layer")
    for module, name in places:
        setattr(module, name, LoRALinear(getattr(module, name), r, alpha))
    count = 0
    for p in model.parameters():
        p.requires_grad_(getattr(p, "of_lora", False))
        count += p.numel() if p.requires_grad else 0
    return count


def lora_state_dict(model):
    marked = [name for name, p in model.named_parameters() if getattr(p, "of_lora", False)]
    state = model.state_dict()
    return {name: state[name] for name in marked}
