"""Clipping, loss scaling and accumulation.

A run of three weeks dies at night. One batch had a gradient a thousand times
as long as usual and threw the weights out of the valley they had found; a
second run, in float16, first stood still, because its gradients were too small
for the format, and then turned to NaN, because they were too large; a third, on
a smaller GPU, cut each batch into pieces and reached a worse loss with, as it
seemed, the same data.

Write what keeps such runs alive: the norm of all gradients and clipping by it,
a loss scaler that finds its own scale, gradients that are accumulated over
micro-batches of unequal length, and one step of training in mixed precision
that does all of this in the right order.

`params` is any iterable of parameters, also one that can be walked only once,
such as model.parameters(). A parameter whose .grad is None takes no part.
Gradients are float32 or float64.
"""

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn


def grad_norm(params: Iterable[Tensor]) -> Tensor:
    """The Euclidean norm of all gradients together, as if they were one long vector.

    Args:
        params: parameters of any shapes, maybe none at all.

    Returns:
        Scalar, a tensor without axes; 0 if there is no gradient. No gradient
        is changed.

    Source: Pascanu et al. 2013, "On the difficulty of training recurrent
    neural networks", section 3.2.

    >>> a, b = torch.zeros(2, requires_grad=True), torch.zeros(1, requires_grad=True)
    >>> a.grad, b.grad = torch.tensor([2.0, 3.0]), torch.tensor([6.0])
    >>> grad_norm([a, b])
    tensor(7.)
    """
    # TODO: write it as described above.
    raise NotImplementedError


def clip_grad_norm(params: Iterable[Tensor], max_norm: float) -> Tensor:
    """Scale the gradients down so that their norm is max_norm, if it is larger.

    All are multiplied by the same number, so that their direction stays. They
    are changed in place: whoever holds a .grad sees it change. Gradients whose
    norm is max_norm or less are left as they are, and so are all gradients if
    the norm is not finite: then it is for the caller to skip the step.

    Args:
        params: parameters of any shapes, maybe none at all.
        max_norm: above 0.

    Returns:
        Scalar: what grad_norm gave before.

    Source: Pascanu et al. 2013, "On the difficulty of training recurrent
    neural networks", algorithm 1.

    >>> weight = torch.zeros(2, requires_grad=True)
    >>> weight.grad = torch.tensor([3.0, 4.0])
    >>> clip_grad_norm([weight], max_norm=1.0), weight.grad
    (tensor(5.), tensor([0.6000, 0.8000]))
    """
    # TODO: write it as described above.
    raise NotImplementedError


class LossScaler:
    """A factor for the loss that keeps small gradients from vanishing in float16, and finds its own size.

    A step of training calls scale before the backward pass, then unscale, if
    one wants to see or to clip the gradients, then step, and last update. A
    step overflowed if unscale, called by the user or by step, found a gradient
    that is not finite.

    Args:
        init_scale: the factor at first.
        growth_factor: what the factor is multiplied by after growth_interval
            steps in a row without overflow.
        backoff_factor: what the factor is multiplied by after a step with one.
        growth_interval: counted anew after each growth and each overflow.

    `value` is the factor at present, a float.

    Source: Micikevicius et al. 2018, "Mixed Precision Training", section 3.2.

    >>> scaler = LossScaler(init_scale=8.0, growth_interval=2)
    >>> weight = torch.ones(1, requires_grad=True)
    >>> for factor in (1.0, 1.0, math.inf):
    ...     weight.grad = None
    ...     scaler.scale(factor * weight.sum()).backward()
    ...     overflow = scaler.unscale([weight])
    ...     scaler.update()
    ...     print(weight.grad, overflow, scaler.value)
    tensor([1.]) False 8.0
    tensor([1.]) False 16.0
    tensor([inf]) True 8.0
    """

    def __init__(
        self,
        init_scale: float = 2.0**16,
        growth_factor: float = 2.0,
        backoff_factor: float = 0.5,
        growth_interval: int = 2000,
    ) -> None:
        # TODO: make the parameters and whatever else it takes.
        raise NotImplementedError

    def scale(self, loss: Tensor) -> Tensor:
        """The loss times value, with its graph."""
        # TODO: write it as described above.
        raise NotImplementedError

    def unscale(self, params: Iterable[Tensor]) -> bool:
        """Divide the gradients by value, in place.

        Returns:
            True if any gradient holds a number that is not finite, else
            False. What the other gradients then hold is not fixed.

        Raises:
            RuntimeError: the gradients of this step are unscaled already, by
                unscale or by step, and update has not been called since. They
                are left as they are.
        """
        # TODO: write it as described above.
        raise NotImplementedError

    def step(self, optimizer: Any, params: Iterable[Tensor]) -> bool:
        """optimizer.step(), but not after an overflow.

        Unscales the gradients of params if that has not been done in this
        step.

        Returns:
            True if the optimizer made its step; False if it was skipped.
        """
        # TODO: write it as described above.
        raise NotImplementedError

    def update(self) -> None:
        """Adjust value to how the step went, and begin the next step.

        What it does in a step that was never unscaled is not fixed.
        """
        # TODO: write it as described above.
        raise NotImplementedError


def accumulate_gradients(
    model: nn.Module,
    micro_batches: Iterable[Any],
    loss_fn: Callable[[nn.Module, Any], tuple[Tensor, int]],
) -> float:
    """The gradients of one big batch, from its pieces; the model stays in the mode in which it is.

    Args:
        model: its gradients have been cleared; what becomes of earlier ones is
            not fixed. Some parameters may get none.
        micro_batches: the pieces, at least one; any iterable, also one that can
            be walked only once. They hold different numbers of tokens, some
            maybe none, but not all.
        loss_fn: loss_fn(model, micro_batch) gives the sum of the losses of its
            tokens, a scalar with a graph, and their number, an int.

    Returns:
        The mean loss of all tokens, a float. The .grad of each parameter is
        the gradient of this mean, as if all tokens had been in one batch.

    Source: the gradient of a sum is the sum of the gradients.

    >>> model = nn.Linear(1, 1, bias=False)
    >>> def loss_fn(model, x):
    ...     return (model(x) - model.weight + 1).sum(), len(x)
    >>> accumulate_gradients(model, [torch.ones(1, 1), torch.ones(3, 1)], loss_fn), model.weight.grad
    (1.0, tensor([[0.]]))
    """
    # TODO: write it as described above.
    raise NotImplementedError


def mixed_precision_step(
    model: nn.Module,
    batch: Any,
    loss_fn: Callable[[nn.Module, Any], tuple[Tensor, int]],
    optimizer: Any,
    scaler: LossScaler,
    max_norm: float,
) -> dict[str, Any]:
    """One step of training on the token mean of the loss, with bfloat16 in the forward pass.

    In this order: the forward pass under autocast to bfloat16, and it alone;
    scaler.scale, the backward pass, scaler.unscale, clipping to max_norm,
    scaler.step and scaler.update, each once. When the gradients overflow, no
    parameter changes and the scaler backs off.

    Args:
        model: parameters in float32, gradients cleared; it stays in the mode,
            training or evaluation, in which it is.
        batch: whatever loss_fn takes.
        loss_fn: loss_fn(model, batch) runs the forward pass and gives the sum
            of the losses of the tokens, a scalar with a graph, and their
            number, an int, at least 1.
        optimizer: has step() and zero_grad(); holds the model's parameters.
        scaler: has the methods and the value of LossScaler.
        max_norm: for the norm of the gradients as they are without scaling.

    Returns:
        A dictionary with "loss", the mean loss of a token before the step, a
        float that does not depend on the scale; "grad_norm", the norm of the
        gradients, unscaled and not yet clipped, a float; and "stepped", True
        or False.

    Source: Micikevicius et al. 2018, "Mixed Precision Training", section 3;
    Kalamkar et al. 2019, "A Study of BFLOAT16 for Deep Learning Training".

    >>> model = nn.Linear(2, 1)
    >>> def loss_fn(model, x):
    ...     return model(x).float().square().sum(), len(x)
    >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    >>> mixed_precision_step(model, torch.ones(3, 2), loss_fn, optimizer, LossScaler(), max_norm=1.0)["stepped"]
    True
    """
    # TODO: write it as described above.
    raise NotImplementedError
