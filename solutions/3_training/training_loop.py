"""The training loop.

Everybody writes this loop in their first week, and the expensive mistakes of a
year are made in it: a gradient of the last step that was still there, a rate
that was set one step too late, an evaluation with dropout, a machine that went
down while the only checkpoint was being written, and a run that was resumed
and, nobody knew why, took another course.

Write the evaluation of a model, the loop that trains it, and checkpoints from
which training goes on as if nothing had happened, bit for bit.

A batch is whatever loss_fn takes. loss_fn(model, batch) gives the sum of the
losses of the batch's tokens, a scalar tensor, and their number, an int: batches
differ in how many tokens they hold, and each token is to count the same.

An optimizer has `param_groups`, a list of dictionaries with "params" and "lr",
and the methods step, zero_grad, state_dict and load_state_dict, like those of
torch.optim.
"""

import io
import os
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

LossFn = Callable[[nn.Module, Any], tuple[Tensor, int]]


def evaluate(model: nn.Module, batches: Iterable[Any], loss_fn: LossFn) -> float:
    """The mean loss of all tokens of all batches, in evaluation mode.

    No graph is built: gradients are disabled while loss_fn runs, and the
    model's .grad are left as they are. Afterwards gradients are enabled again,
    and the model is back in the mode, training or evaluation, in which it was.

    Args:
        model: all its submodules are in the same mode; otherwise theirs
            afterwards is not fixed.
        batches: at least one; any iterable, also one that can be walked only
            once. Some may hold no token, but not all.
        loss_fn: as above.

    Returns:
        A float: the losses of all tokens, summed, divided by the number of all
        tokens.

    Source: Goodfellow et al. 2016, "Deep Learning", section 5.1.2.

    >>> model = nn.Dropout(0.9)
    >>> def loss_fn(model, x):
    ...     return model(x).sum(), len(x)
    >>> evaluate(model, [torch.tensor([4.0]), torch.ones(15)], loss_fn), model.training
    (1.1875, True)
    """
    was_training = model.training
    model.eval()
    total, tokens = 0.0, 0
    with torch.no_grad():
        for batch in batches:
            loss_sum, count = loss_fn(model, batch)
            total += loss_sum.item()
            tokens += count
    model.train(was_training)
    return total / tokens


def train(
    model: nn.Module,
    optimizer: Any,
    schedule: Callable[[int], float],
    batches: Sequence[Any],
    loss_fn: LossFn,
    steps: int,
    max_norm: float = 1.0,
    generator: torch.Generator | None = None,
) -> list[float]:
    """Train the model for a number of steps, each on one batch.

    A step sets the learning rate, clears the gradients, computes the token mean
    of the batch's loss and its gradients, clips these, and lets the optimizer
    make its step. The model is in training mode.

    Args:
        model: has no gradients, or zeros, when it comes; some parameters may
            never get any.
        optimizer: holds the model's parameters; the rate is the "lr" of each
            of its groups.
        schedule: schedule(step) is the rate of the step, with step the number
            of updates that this call has made already: 0 for the first.
        batches: at least one. Without a generator they come in their order.
            When all have been used, they begin anew.
        loss_fn: as above; each batch holds at least one token.
        steps: how many, maybe 0.
        max_norm: where the Euclidean norm of all gradients of the model
            together is larger, they are scaled down to it.
        generator: shuffles the batches. When an epoch begins, with the call
            and whenever all batches have been used and another step is to
            follow, torch.randperm(len(batches), generator=generator) gives the
            order for the epoch.

    Returns:
        The mean loss of a token in each step's batch, before the update: a list
        of `steps` floats.

    Source: Robbins and Monro 1951, "A Stochastic Approximation Method"; for the
    clipping Pascanu et al. 2013, section 3.2.

    >>> model = nn.Linear(1, 1, bias=False)
    >>> _ = model.load_state_dict({"weight": torch.tensor([[2.0]])})
    >>> def loss_fn(model, x):
    ...     return 4 * model(x).sum(), len(x)
    >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    >>> train(model, optimizer, lambda step: 0.5, [torch.ones(3, 1)], loss_fn, steps=3, max_norm=10.0)
    [8.0, 0.0, -8.0]
    """
    model.train()
    losses: list[float] = []
    order: list[int] = []
    for step in range(steps):
        if not order:
            order = torch.randperm(len(batches), generator=generator).tolist() if generator else list(range(len(batches)))
        for group in optimizer.param_groups:
            group["lr"] = schedule(step)
        optimizer.zero_grad()
        loss_sum, tokens = loss_fn(model, batches[order.pop(0)])
        loss = loss_sum / tokens
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), max_norm)
        optimizer.step()
        losses.append(loss.item())
    return losses


def save_checkpoint(
    path: str,
    model: nn.Module,
    optimizer: Any,
    step: int,
    generator: torch.Generator | None = None,
) -> None:
    """Write all that training needs to go on: model, optimizer, step, and the states of the random generators.

    These are the one given, if any, and PyTorch's global one on the CPU, which
    dropout draws from. The one file holds all: it may be moved, and loaded by
    another process.

    The checkpoint that lies at the path is replaced at once: whoever opens it
    finds the old one whole or the new one whole, at every moment, and so does
    who comes back after the process was killed or the disk was full. An error
    in writing comes through, and a later save works again.

    Args:
        path: where the checkpoint is to lie; maybe a bare name. Files beside
            it, in the same folder, may be written on the way; nothing else may.
        model: its parameters and buffers.
        optimizer: all that its state_dict() holds.
        step: how many updates have been made.
        generator: the one that train shuffles with.

    Source: POSIX.1-2017, "rename": the new file takes the place of the old one
    without a moment between.

    >>> import tempfile
    >>> model = nn.Linear(2, 1)
    >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_checkpoint(f"{folder}/last.pt", model, optimizer, step=7)
    ...     load_checkpoint(f"{folder}/last.pt", nn.Linear(2, 1), optimizer)
    7
    """
    state = {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "step": step,
        "generator": generator.get_state() if generator else None,
        "global_generator": torch.get_rng_state(),
    }
    written = io.BytesIO()
    torch.save(state, written)
    temporary = f"{path}.tmp"
    with open(temporary, "wb") as file:
        file.write(written.getbuffer())
        file.flush()
        os.fsync(file.fileno())  # or the new name may reach the disk before the new content
    os.replace(temporary, path)


def load_checkpoint(path: str, model: nn.Module, optimizer: Any, generator: torch.Generator | None = None) -> int:
    """Bring everything back that save_checkpoint wrote, in place.

    If train is then called with the same arguments, it makes the same losses
    and the same parameters, to the last bit, as it would have made after the
    save, in whatever process.

    Args:
        path: where a checkpoint of save_checkpoint lies. It may come from
            strangers: a file that would have code of theirs called, as pickles
            can, raises an exception, and the code is not called.
        model: of the architecture of the saved one; gets its parameters and
            buffers.
        optimizer: over the parameters of `model`; gets the saved state.
        generator: given if one was given to save_checkpoint; gets its state.

    Returns:
        The step that was saved.

    Source: PyTorch documentation, "torch.load", weights_only.

    >>> load_checkpoint("nowhere.pt", nn.Linear(2, 1), None)
    Traceback (most recent call last):
    FileNotFoundError: [Errno 2] No such file or directory: 'nowhere.pt'
    """
    state = torch.load(path, weights_only=True)
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    if generator:
        generator.set_state(state["generator"])
    torch.set_rng_state(state["global_generator"])
    return state["step"]
