"""Context managers for modes, rates and files; a loop over epochs with a loop over batches inside."""

import contextlib
import pathlib

import torch
from torch import nn


@contextlib.contextmanager
def mode(model: nn.Module, training: bool):
    before = {name: module.training for name, module in model.named_modules()}
    model.train(training)
    try:
        yield model
    finally:
        for name, module in model.named_modules():
            module.training = before[name]


class Mean:
    def __init__(self):
        self.sum, self.count = torch.zeros((), dtype=torch.float64), 0

    def add(self, loss_sum, count):
        self.sum += loss_sum.detach()
        self.count += count

    @property
    def value(self) -> float:
        return (self.sum / self.count).item()


@torch.no_grad()
def evaluate(model, batches, loss_fn):
    mean = Mean()
    with mode(model, False):
        for batch in iter(batches):
            mean.add(*loss_fn(model, batch))
    return mean.value


def epoch_order(number, generator):
    if generator is None:
        return torch.arange(number)
    return torch.randperm(number, generator=generator)


def train(model, optimizer, schedule, batches, loss_fn, steps, max_norm=1.0, generator=None):
    model.train()
    history = []
    while len(history) < steps:
        for place in epoch_order(len(batches), generator).tolist():
            if len(history) == steps:
                break
            model.zero_grad()
            mean = Mean()
            loss_sum, count = loss_fn(model, batches[place])
            mean.add(loss_sum, count)
            loss_sum.div(count).backward()
            parameters = [p for p in model.parameters() if p.grad is not None]
            norm = torch.linalg.vector_norm(torch.cat([p.grad.flatten() for p in parameters]))
            factor = min(1.0, max_norm / (norm.item() + 1e-6))
            for p in parameters:
                p.grad = p.grad * factor
            for group in optimizer.param_groups:
                group["lr"] = schedule(len(history))
            optimizer.step()
            history.append(mean.value)
    return history


@contextlib.contextmanager
def replacing(path):
    target = pathlib.Path(path)
    draft = target.with_name(target.name + ".partial")
    with draft.open("wb") as file:
        yield file
    draft.replace(target)


def save_checkpoint(path, model, optimizer, step, generator=None):
    state = dict(model=model.state_dict(), optimizer=optimizer.state_dict(), step=step, rng=torch.get_rng_state())
    if generator:
        state["generator"] = generator.get_state()
    with replacing(path) as file:
        torch.save(state, file)


def load_checkpoint(path, model, optimizer, generator=None):
    with open(path, "rb") as file:
        state = torch.load(file, weights_only=True)
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    torch.set_rng_state(state["rng"])
    if generator and "generator" in state:
        generator.set_state(state["generator"])
    return state["step"]
