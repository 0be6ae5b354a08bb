"""Merging puts a new parameter in the place of the weight; the update is computed on flattened rows; a search by (module, name) pairs."""

from torch import nn


def is_free_linear(module):
    return isinstance(module, nn.Linear)


class LoRALinear(nn.Module):
    merged = property(lambda self: self._original is not None)

    def __init__(self, base, r, alpha, dropout=0.0):
        super().__init__()
        if r < 1:
            raise ValueError("rank")
        O, I = base.weight.shape
        base.requires_grad_(False)
        self.add_module("base", base)
        self.register_parameter("A", nn.Parameter(nn.init.normal_(base.weight.new_zeros((r, I)), 0.0, 0.02)))
        self.register_parameter("B", nn.Parameter(base.weight.new_zeros((O, r))))
        self.s = float(alpha) / r
        self.dropout = nn.Dropout(p=dropout)
        self._original = None

    def forward(self, x):
        out = self.base(x)
        if self.merged:
            return out
        rows = self.dropout(x).reshape(-1, x.shape[-1])
        update = (self.B @ (self.A @ rows.t())).t()
        return out + (self.s * update).reshape(out.shape)

    def merge(self):
        if self.merged:
            return
        self._original = [self.base.weight]  # in a list, lest it becomes a parameter
        new = self.base.weight.detach() + self.s * self.B.detach() @ self.A.detach()
        self.base.weight = nn.Parameter(new, requires_grad=False)

    def unmerge(self):
        if self.merged:
            self.base.weight = self._original.pop()
            self._original = None


def add_lora(model, names, r, alpha):
    names = set(names)
    adapted = [m for m in model.modules() if isinstance(m, LoRALinear)]
    bases = {m.base for m in adapted}
    found = [(p, n, c) for p in model.modules() for n, c in p.named_children() if n in names and is_free_linear(c) and c not in bases]
    if not found:
        raise ValueError(sorted(names))
    for p in model.parameters():
        p.requires_grad = False
    for parent, name, child in found:
        new = LoRALinear(child, r, alpha)
        parent.add_module(name, new)
        adapted.append(new)
    for m in adapted:
        m.A.requires_grad = m.B.requires_grad = True
    return sum(m.A.numel() + m.B.numel() for m in adapted)


def lora_state_dict(model):
    state = {}
    for dotted, m in model.named_modules():
        if type(m).__name__ == "LoRALinear":
            for letter in ("A", "B"):
                state[".".join(filter(None, (dotted, letter)))] = getattr(m, letter).data
    return state
