"""A trainer with state that the functions wrap, and checkpoints that keep the one before."""

import os
import shutil
from collections import deque

import torch
from torch import nn


class Trainer:
    def __init__(self, model, optimizer, loss_fn, max_norm):
        self.model, self.optimizer, self.loss_fn, self.max_norm = model, optimizer, loss_fn, max_norm
        self.losses = []

    def mean(self, batch):
        total, tokens = self.loss_fn(self.model, batch)
        return total / tokens

    def step(self, batch, lr):
        for i in range(len(self.optimizer.param_groups)):
            self.optimizer.param_groups[i]["lr"] = float(lr)
        self.optimizer.zero_grad()
        loss = self.mean(batch)
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(self.model.parameters(), self.max_norm, norm_type=2.0)
        self.optimizer.step()
        self.losses.append(loss.detach().item())


def evaluate(model, batches, loss_fn):
    was = model.training
    model.train(False)
    loss_sum = token_sum = 0
    for batch in batches:
        with torch.no_grad():
            s, n = loss_fn(model, batch)
        loss_sum, token_sum = loss_sum + s, token_sum + n
    model.train(was)
    return (loss_sum / token_sum).item()


def train(model, optimizer, schedule, batches, loss_fn, steps, max_norm=1.0, generator=None):
    trainer = Trainer(model.train(), optimizer, loss_fn, max_norm)
    waiting = deque()
    for step in range(steps):
        if not waiting:
            numbers = range(len(batches)) if generator is None else torch.randperm(len(batches), generator=generator).tolist()
            waiting.extend(batches[i] for i in numbers)
        trainer.step(waiting.popleft(), schedule(step))
    return trainer.losses


def save_checkpoint(path, model, optimizer, step, generator=None):
    payload = {"step": int(step), "model": model.state_dict(), "optim": optimizer.state_dict()}
    payload["rng"] = {"torch": torch.get_rng_state(), "own": None if generator is None else generator.get_state()}
    new = os.path.join(os.path.dirname(path), "new-" + os.path.basename(path))
    torch.save(payload, new)
    torch.load(new, weights_only=True)  # it can be read again
    if os.path.exists(path):
        shutil.copy2(path, path + ".bak")
    os.replace(new, path)


def load_checkpoint(path, model, optimizer, generator=None):
    payload = torch.load(path, weights_only=True)
    missing = model.load_state_dict(payload["model"], strict=True)
    assert not missing.missing_keys
    optimizer.load_state_dict(payload["optim"])
    if generator is not None:
        generator.set_state(payload["rng"]["own"])
    torch.set_rng_state(payload["rng"]["torch"])
    return payload["step"]
