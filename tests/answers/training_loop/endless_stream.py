"""An endless stream of batches, inference mode, a named temporary file, and what PyTorch loads by default."""

import os
import tempfile
from itertools import islice

import torch


def evaluate(model, batches, loss_fn):
    mode = model.training
    try:
        with torch.inference_mode():
            results = [loss_fn(model.eval(), batch) for batch in batches]
            losses = torch.stack([loss for loss, _ in results])
    finally:
        model.train(mode)
    return float(losses.sum()) / sum(count for _, count in results)


def stream(batches, generator):
    while True:
        if generator is None:
            yield from batches
        else:
            for i in torch.randperm(len(batches), generator=generator):
                yield batches[int(i)]


def clip(parameters, max_norm):
    grads = [p.grad for p in parameters if p.grad is not None]
    norm = torch.stack([g.norm() for g in grads]).norm()
    if norm > max_norm:
        for g in grads:
            g.mul_(max_norm / norm)


def train(model, optimizer, schedule, batches, loss_fn, steps, max_norm=1.0, generator=None):
    losses = []
    for step, batch in enumerate(islice(stream(batches, generator), steps)):
        model.train()
        rate = schedule(step)
        for group in optimizer.param_groups:
            group.update(lr=rate)
        loss, tokens = loss_fn(model, batch)
        loss = loss / tokens
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        clip(model.parameters(), max_norm)
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses


def save_checkpoint(path, model, optimizer, step, generator=None):
    folder = os.path.dirname(os.path.abspath(path))
    states = [torch.get_rng_state()]
    if generator is not None:
        states.append(generator.get_state())
    file = tempfile.NamedTemporaryFile(dir=folder, delete=False)
    try:
        with file:
            torch.save([model.state_dict(), optimizer.state_dict(), step, states], file)
        os.replace(file.name, path)
    except BaseException:
        os.unlink(file.name)
        raise


def load_checkpoint(path, model, optimizer, generator=None):
    weights, moments, step, states = torch.load(path, map_location="cpu")
    model.load_state_dict(weights)
    optimizer.load_state_dict(moments)
    torch.random.set_rng_state(states[0])
    if generator is not None:
        generator.set_state(states[1])
    return step
