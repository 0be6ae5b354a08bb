"""Low-rank adaptation.

A model with billions of weights is to learn one more task, on a machine that
could not even hold the gradients of all of them, and fifty customers each
want a version of their own. Freeze the model, and let each chosen linear layer
learn only the product of two thin matrices, which is added to what it does.
Write such a layer, which can also be folded into the weight it adapts; the
function that puts it into a model; and the one that collects what was
learned, to be stored.
"""

from collections.abc import Collection

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class LoRALinear(nn.Module):
    """A frozen linear layer and a low-rank update that is learned.

    Args:
        base: the layer that is adapted, with weight (out, in), with or without
            a bias.
        r: rank of the update, at least 1.
        alpha: the update is multiplied by alpha / r.
        dropout: in training each number of the update's input is zero with
            this probability, from 0 to 1, and the others are divided by
            1 - dropout. What goes through base is not dropped, and in
            evaluation nothing is.

    Raises:
        ValueError: r is less than 1.

    `base` is the very layer that was given; its parameters no longer require
    gradients. Two parameters are new, in the dtype of the base's weight: `A`,
    (r, in), which holds random numbers at first, and `B`, (out, r), zeros at
    first, so that nothing changes until something is learned.

    forward(x) takes x, (..., in), and gives (..., out):

        base(x) + alpha / r · dropout(x) Aᵀ Bᵀ.

    The update goes through r numbers for each token: no tensor as large as the
    weight is made.

    merge() adds alpha / r · B A to the weight of base. Forward is then base(x)
    alone, without an update and without dropout, in training too. unmerge()
    takes it out again: the weight is what it was, to rounding, and forward as
    before. Merging what is merged, or unmerging what is not, changes nothing.
    A and B may not be changed while they are merged.

    Source: Hu et al. 2021, "LoRA: Low-Rank Adaptation of Large Language
    Models", section 4.1.

    >>> layer = LoRALinear(nn.Linear(6, 4), r=2, alpha=4.0)
    >>> layer(torch.zeros(3, 5, 6)).shape, layer.A.shape, layer.B.shape
    (torch.Size([3, 5, 4]), torch.Size([2, 6]), torch.Size([4, 2]))
    """

    def __init__(self, base: nn.Linear, r: int, alpha: float, dropout: float = 0.0):
        super().__init__()
        if r < 1:
            raise ValueError(f"the rank of an update is at least 1, not {r}")
        out_features, in_features = base.weight.shape
        self.base = base.requires_grad_(False)
        self.A = nn.Parameter(base.weight.new_empty(r, in_features).normal_(std=in_features**-0.5))
        self.B = nn.Parameter(base.weight.new_zeros(out_features, r))
        self.scale = alpha / r
        self.dropout = dropout
        self.merged = False

    def forward(self, x: Tensor) -> Tensor:
        if self.merged:
            return self.base(x)
        dropped = F.dropout(x, self.dropout, self.training)
        return self.base(x) + self.scale * (dropped @ self.A.T @ self.B.T)

    @torch.no_grad()
    def _add_to_weight(self, factor: float) -> None:
        self.base.weight += factor * self.scale * (self.B @ self.A)

    def merge(self) -> None:
        """Add the update to the weight of base, if it is not in there."""
        if not self.merged:
            self._add_to_weight(1)
        self.merged = True

    def unmerge(self) -> None:
        """Take the update out of the weight of base, if it is in there."""
        if self.merged:
            self._add_to_weight(-1)
        self.merged = False


def add_lora(model: nn.Module, names: Collection[str], r: int, alpha: float) -> int:
    """Put a LoRALinear in the place of chosen linear layers; nothing else can be trained from then on.

    Args:
        model: changed in place. Its nn.Linear layers may be anywhere in the
            tree of modules, in containers too; none is held in two places.
        names: what chosen layers are called: the attribute under which a
            module holds them, the last part of their dotted name. "proj"
            chooses "proj" and "blocks.0.proj", not "q_proj".
        r: for each LoRALinear.
        alpha: for each LoRALinear.

    Returns:
        The number of trainable parameters in the model afterwards, counting
        single numbers.

    All parameters but the A's and B's no longer require gradients. A LoRALinear
    that is in the model already stays as it is and stays trainable; its base is
    not adapted again, whatever it is called.

    Raises:
        ValueError: no layer was chosen; the model is as it was before.

    Source: Hu et al. 2021, section 4.2.

    >>> model = nn.ModuleDict({"up": nn.Linear(4, 8), "down": nn.Linear(8, 4)})
    >>> add_lora(model, ["up"], r=2, alpha=4.0)
    24
    """
    chosen = [
        (parent, name, layer)
        for parent in model.modules()
        if not isinstance(parent, LoRALinear)
        for name, layer in parent.named_children()
        if name in names and isinstance(layer, nn.Linear)
    ]
    if not chosen:
        raise ValueError(f"no nn.Linear in the model is called {' or '.join(map(str, names))}")
    for parent, name, layer in chosen:
        setattr(parent, name, LoRALinear(layer, r, alpha))
    model.requires_grad_(False)
    for module in model.modules():
        if isinstance(module, LoRALinear):
            module.A.requires_grad_(True)
            module.B.requires_grad_(True)
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def lora_state_dict(model: nn.Module) -> dict[str, Tensor]:
    """What was learned: the A and B of every LoRALinear, under their dotted names in the model.

    Other parameters do not belong to it, even if they are called A or B. The
    tensors are those of model.state_dict(): they belong to no graph, and
    model.load_state_dict(..., strict=False) puts them back, into another copy of
    the model with the same layers adapted too.

    Args:
        model: a model to which add_lora was applied, or a LoRALinear itself.

    Returns:
        For instance {"blocks.0.q_proj.A": (r, in), "blocks.0.q_proj.B": (out, r)}.

    Source: Hu et al. 2021, section 4.2 (what a checkpoint holds).

    >>> model = nn.ModuleDict({"up": nn.Linear(4, 8), "down": nn.Linear(8, 4)})
    >>> _ = add_lora(model, ["up"], r=2, alpha=4.0)
    >>> {name: tuple(tensor.shape) for name, tensor in lora_state_dict(model).items()}
    {'up.A': (2, 4), 'up.B': (8, 2)}
    """
    found = {}
    for name, module in model.named_modules():
        if isinstance(module, LoRALinear):
            start = f"{name}." if name else ""
            found |= {f"{start}A": module.A.detach(), f"{start}B": module.B.detach()}
    return found
