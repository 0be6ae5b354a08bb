"""SGD and AdamW.

The backward pass has left a gradient beside every weight; now the weights have
to move. One optimizer takes the gradient as it is and builds up speed, the
other gives every single number a step size of its own. A run takes weeks and
will be interrupted; matrices are to shrink a little with every step and
normalisation weights are not; somebody changes the learning rate as it goes.

Write SGD with momentum and AdamW, such that after every step the weights are
those that PyTorch's optimizers would give; parameter groups with options of
their own; a state that can be saved and loaded, after which a run goes on as
if nothing had happened; and the function that sorts a model's parameters into
those that decay and those that do not.
"""

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn


class Optimizer:
    """What SGD and AdamW have in common; both must have all of it, and may have it from here.

    Both have a step(), which moves every parameter that has a gradient, in
    place: the Parameter objects stay the same and remain leaves, without a
    graph. Gradients are left as they are, and may be overwritten afterwards. A
    parameter whose gradient is None is left alone: it does not move nor decay,
    and nothing that is remembered of it changes, its count of steps included.

    Args:
        params: parameters, or groups of parameters: any iterable, of tensors
            or of dicts. A group has its parameters, any iterable, under
            "params", and beside them options by their names. It may be empty.
        defaults: the options of parameters without a group, and those that a
            group leaves out.

    Attributes:
        param_groups: a list of dicts, one a group (one in all if none were
            given): the parameters themselves, a list, under "params", and
            every option by its name. An option that is changed there counts
            from the next step on: that is how a schedule sets "lr".

    Source: Kingma and Ba 2015, "Adam", algorithm 1, and Loshchilov and Hutter
    2019, "Decoupled Weight Decay Regularization", algorithm 2: what is
    remembered for each parameter.

    >>> weight, bias = nn.Parameter(torch.ones(2, 3)), nn.Parameter(torch.ones(3))
    >>> optimizer = AdamW([{"params": [weight], "lr": 0.5}, {"params": [bias]}], lr=0.1)
    >>> [group["lr"] for group in optimizer.param_groups]
    [0.5, 0.1]
    """

    def __init__(self, params: Iterable[Tensor] | Iterable[dict[str, Any]], defaults: dict[str, Any]):
        given: list[Any] = list(params)
        groups = given if isinstance(given[0], dict) else [{"params": given}]
        self.param_groups = [{**defaults, **group, "params": list(group["params"])} for group in groups]
        self.state: dict[Tensor, dict[str, Any]] = {}  # what is remembered of each parameter

    def _parameters(self) -> list[Tensor]:
        return [p for group in self.param_groups for p in group["params"]]

    def _with_gradient(self) -> Iterator[tuple[Tensor, Tensor, dict[str, Any], dict[str, Any]]]:
        """Each parameter that has a gradient, with it, what is remembered, and its options."""
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    yield p, p.grad, self.state.setdefault(p, {}), group

    def zero_grad(self) -> None:
        """Forget the gradients of all parameters: each is then None or zero; one that was None stays None."""
        for p in self._parameters():
            p.grad = None

    def state_dict(self) -> dict[str, Any]:
        """All that a later run needs to go on from here, the options of the groups included.

        Returns:
            A dict that is made of dicts, lists, tuples, numbers, strings and
            tensors alone, so that torch.load(..., weights_only=True) reads it;
            of what kind is up to you. It is a snapshot: later steps and
            changed options do not change it.
        """
        options = [{name: value for name, value in group.items() if name != "params"} for group in self.param_groups]
        return {"options": options, "state": [_copy(self.state.get(p, {})) for p in self._parameters()]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from where another optimizer stood.

        Args:
            state: the state_dict of an optimizer of the same class with as
                many groups, of as many parameters in the same order. The
                values of the parameters are not part of it.

        Afterwards this optimizer does exactly what the other one would have
        done. Whatever it held before, options included, is gone; its
        parameters stay. `state` can be loaded again, for no step changes it.
        """
        for group, options in zip(self.param_groups, state["options"], strict=True):
            group.update(options)
        self.state = {p: _copy(held) for p, held in zip(self._parameters(), state["state"], strict=True)}


def _copy(held: dict[str, Any]) -> dict[str, Any]:
    return {name: value.clone() if isinstance(value, Tensor) else value for name, value in held.items()}


class SGD(Optimizer):
    """Gradient descent, with momentum if wanted.

    With momentum each parameter has a velocity: zero at first, in each step
    multiplied by `momentum` before the gradient is added, both in full. The
    parameter moves by lr times the velocity, against it. With `nesterov` it
    moves by lr times the sum of the gradient and `momentum` times the velocity
    that has just been updated. The learning rate is no part of the velocity.

    Args:
        params: parameters or groups, as for Optimizer.
        lr: learning rate.
        momentum: 0, which is plain gradient descent, or more, less than 1.
        nesterov: look ahead; only with momentum.

    Source: Sutskever et al. 2013, "On the importance of initialization and
    momentum in deep learning", section 2, with the learning rate taken out of
    the velocity, as PyTorch does.

    >>> w = nn.Parameter(torch.tensor([1.0]))
    >>> optimizer = SGD([w], lr=0.1, momentum=0.5)
    >>> for _ in range(2):
    ...     w.grad = torch.tensor([2.0])
    ...     optimizer.step()
    >>> w.data  # 1 - 0.1 * 2 - 0.1 * (0.5 * 2 + 2)
    tensor([0.5000])
    """

    def __init__(self, params: Iterable[Tensor] | Iterable[dict[str, Any]], lr: float, momentum: float = 0.0, nesterov: bool = False):
        super().__init__(params, {"lr": lr, "momentum": momentum, "nesterov": nesterov})

    def step(self) -> None:
        """Move the parameters as the class says, by the rules of Optimizer."""
        with torch.no_grad():
            for p, grad, held, group in self._with_gradient():
                direction, momentum = grad, group["momentum"]
                if momentum:
                    velocity = held.setdefault("velocity", torch.zeros_like(p))
                    velocity.mul_(momentum).add_(grad)
                    direction = grad + momentum * velocity if group["nesterov"] else velocity
                p.sub_(group["lr"] * direction)


class AdamW(Optimizer):
    """Adam with decoupled weight decay.

    Adam keeps a running mean of each number's gradient and one of its square,
    both zero at first, and moves by lr times the one over the root of the
    other, against it. Both means are corrected for the zeros that they began
    with, by the number of steps in which this parameter had a gradient, so
    that the first step is about lr long, however large the gradient.

    The decay is no part of the gradient: beside Adam's step a parameter loses
    lr * weight_decay times the value that it had before the step, also where
    the gradient is zero.

    Args:
        params: parameters or groups, as for Optimizer.
        lr: learning rate.
        betas: the shares of the old mean that stay in each step, of the
            gradient's and of the square's.
        eps: added to the root of the corrected mean of squares.
        weight_decay: how strong the decay is.

    Source: Loshchilov and Hutter 2019, "Decoupled Weight Decay
    Regularization", algorithm 2; as in PyTorch, lr multiplies both Adam's
    step and the decay.

    >>> w = nn.Parameter(torch.tensor([1.0, -1.0]))
    >>> optimizer = AdamW([w], lr=0.1, weight_decay=0.5)
    >>> w.grad = torch.tensor([300.0, 0.0])
    >>> optimizer.step()
    >>> w.data  # 1 - 0.1 * 0.5 - 0.1; and -1 + 0.1 * 0.5
    tensor([ 0.8500, -0.9500])
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.01,
    ):
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})

    def step(self) -> None:
        """Move the parameters as the class says, by the rules of Optimizer."""
        with torch.no_grad():
            for p, grad, held, group in self._with_gradient():
                lr, eps, (beta1, beta2) = group["lr"], group["eps"], group["betas"]
                if not held:
                    held.update(t=0, mean=torch.zeros_like(p), square=torch.zeros_like(p))
                held["t"] += 1
                held["mean"].mul_(beta1).add_((1 - beta1) * grad)
                held["square"].mul_(beta2).add_((1 - beta2) * grad * grad)
                mean = held["mean"] / (1 - beta1 ** held["t"])  # as if they had not begun at zero
                square = held["square"] / (1 - beta2 ** held["t"])
                p.mul_(1 - lr * group["weight_decay"])
                p.sub_(lr * mean / (square.sqrt() + eps))


def decay_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """A model's parameters as groups for AdamW, by whether they are to decay.

    A parameter decays if it has two axes or more, such as the weights of
    linear layers, embeddings and convolutions. Those with fewer do not: biases
    and the weights of normalisations. Only the number of axes counts, not the
    name, and not the module where it stands.

    Args:
        model: any module. Parameters that require no gradient are left out;
            one that stands in several places is one parameter.
        weight_decay: for those that decay.

    Returns:
        Groups, each with "params", a list, and "weight_decay", 0.0 for those
        that do not decay. Each parameter is in one group, once. The order
        depends on the model alone: for one built alike it is the same, so that
        a saved state meets its own parameters again. A group may be empty.

    Source: Radford et al. 2018, "Improving Language Understanding by
    Generative Pre-Training", section 4.1: decay on all weights that are no
    bias or gain.

    >>> groups = decay_groups(nn.Sequential(nn.Linear(2, 3), nn.LayerNorm(3)), weight_decay=0.1)
    >>> [(group["weight_decay"], [tuple(p.shape) for p in group["params"]]) for group in groups]
    [(0.1, [(3, 2)]), (0.0, [(3,), (3,), (3,)])]
    """
    trained = [p for p in model.parameters() if p.requires_grad]
    decaying = [p for p in trained if p.ndim >= 2]
    others = [p for p in trained if p.ndim < 2]
    return [{"params": decaying, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]
