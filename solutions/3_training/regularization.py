"""Dropout, stochastic depth, label smoothing and averaged weights.

A model that can learn its training set by heart will. Four old remedies are
still in use: take numbers away at random, so that no unit can rely on another;
take whole layers away; do not ask for certainty; and judge not the last
weights, which are as noisy as the last batch, but an average over many.

Write dropout for single numbers and for whole samples, such that nothing
changes on average and the draw can be repeated from a generator; targets that
are smoothed over the classes; and the running average of a model's weights,
which a copy of the model can take over.

B batch, V number of classes; `...` stands for any number of axes, none
included. No function changes a tensor that it is given.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def _kept(shape: tuple[int, ...], p: float, generator: torch.Generator | None, x: Tensor) -> Tensor:
    """1 / (1 - p) with probability 1 - p, else 0."""
    keep = torch.rand(shape, generator=generator, device=x.device) >= p
    return keep.to(x.dtype) / (1 - p if p < 1 else 1)


def _check(p: float) -> None:
    if not 0 <= p <= 1:
        raise ValueError(f"p is {p}; a probability from 0 to 1 is wanted")


def dropout(x: Tensor, p: float, training: bool, generator: torch.Generator | None = None) -> Tensor:
    """Set each number to zero with probability p, and divide the others by 1 - p.

    Args:
        x: (...), floating point.
        p: probability of being dropped, from 0, where x comes back, to 1,
            where zeros do.
        training: if false, x comes back and nothing is drawn.
        generator: where the draw comes from, and nothing else is drawn from or
            changed: kept is what lies where
            torch.rand(x.shape, generator=generator) >= p. With None that is
            PyTorch's global generator.

    Returns:
        (...), dtype of x. Gradients flow through what was kept, scaled like
        it, and are zero elsewhere.

    Raises:
        ValueError: in training p is not within 0 .. 1.

    Source: Srivastava et al. 2014, "Dropout: A Simple Way to Prevent Neural
    Networks from Overfitting", sections 4 and 10 (the scaling).

    >>> generator = torch.Generator().manual_seed(0)
    >>> dropout(torch.ones(5), 0.5, training=True, generator=generator)
    tensor([0., 2., 0., 0., 0.])
    """
    if not training:
        return x
    _check(p)
    return x * _kept(x.shape, p, generator, x)


def drop_path(x: Tensor, p: float, training: bool, generator: torch.Generator | None = None) -> Tensor:
    """Set each sample to zero as a whole with probability p, and divide the others by 1 - p.

    Where x is what a residual branch adds, a dropped sample skips that layer.

    Args:
        x: (B, ...), floating point; a sample is x[b].
        p: probability of being dropped, from 0 to 1, as for dropout.
        training: if false, x comes back and nothing is drawn.
        generator: as for dropout; kept are the samples b where
            torch.rand(B, generator=generator) >= p, one number for each.

    Returns:
        (B, ...), dtype of x.

    Raises:
        ValueError: in training p is not within 0 .. 1.

    Source: Huang et al. 2016, "Deep Networks with Stochastic Depth", section
    3, per sample, and scaled in training instead of at the end.

    >>> generator = torch.Generator().manual_seed(0)
    >>> drop_path(torch.ones(4, 2), 0.5, training=True, generator=generator)[:, 0]
    tensor([0., 2., 0., 0.])
    """
    if not training:
        return x
    _check(p)
    return x * _kept((x.shape[0], *[1] * (x.ndim - 1)), p, generator, x)


def smooth_targets(targets: Tensor, num_classes: int, epsilon: float) -> Tensor:
    """Distributions over the classes that give epsilon to all together and the rest to the right one.

    Args:
        targets: (...), integers from 0 to V - 1.
        num_classes: V.
        epsilon: from 0, where all goes to the right class, to 1, where all
            classes get the same. It is shared by all V classes alike, the
            right one too.

    Returns:
        (..., V), float32; each row sums to one.

    Source: Szegedy et al. 2016, "Rethinking the Inception Architecture for
    Computer Vision", section 7.

    >>> smooth_targets(torch.tensor([2, 0]), num_classes=4, epsilon=0.2)
    tensor([[0.0500, 0.0500, 0.8500, 0.0500],
            [0.8500, 0.0500, 0.0500, 0.0500]])
    """
    return (1 - epsilon) * F.one_hot(targets, num_classes).float() + epsilon / num_classes


class EMA:
    """An exponential moving average of a model's weights.

    It begins as a copy of what the model holds when the average is made. The
    average is its own: whatever is done to a model afterwards changes it only
    through update. Neither the model that was given is kept, nor any autograd
    graph.

    Args:
        model: any module.
        decay: the share of the old average that stays in each update, from 0
            to 1. It is the same in every update.

    Source: Polyak and Juditsky 1992, "Acceleration of Stochastic Approximation
    by Averaging", for the average; Tarvainen and Valpola 2017, "Mean teachers
    are better role models", section 2, for its exponential form.

    >>> model = nn.Linear(1, 1, bias=False)
    >>> nn.init.zeros_(model.weight).item()
    0.0
    >>> ema = EMA(model, decay=0.9)
    >>> nn.init.ones_(model.weight).item()
    1.0
    >>> ema.update(model)
    >>> ema.copy_to(model)
    >>> round(model.weight.item(), 4)
    0.1
    """

    def __init__(self, model: nn.Module, decay: float):
        self.decay = decay
        self.averages = {name: p.detach().clone() for name, p in model.named_parameters()}
        self.buffers = {name: b.detach().clone() for name, b in model.named_buffers()}

    def update(self, model: nn.Module) -> None:
        """Take a step of 1 - decay towards the model's present weights.

        Args:
            model: the one of the constructor, or one that is built alike. It
                is not changed.

        Every parameter is averaged, those that require no gradient too; one
        that is used in several places is one parameter. Buffers are no
        weights, and may be integers: they are copied as they are.
        """
        with torch.no_grad():
            for name, p in model.named_parameters():
                self.averages[name].mul_(self.decay).add_((1 - self.decay) * p)
            for name, buffer in model.named_buffers():
                self.buffers[name].copy_(buffer)

    def copy_to(self, model: nn.Module) -> None:
        """Write the averages and the buffers of the last update into a model.

        Args:
            model: the one of the constructor, or one that is built alike. Its
                values are changed, and nothing else: the Parameter objects
                stay the same, with their requires_grad and their gradients,
                and so does the mode.
        """
        with torch.no_grad():
            for name, p in model.named_parameters():
                p.copy_(self.averages[name])
            for name, buffer in model.named_buffers():
                buffer.copy_(self.buffers[name])
