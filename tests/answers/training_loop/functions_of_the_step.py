"""Everything computed from the number of the step; gradients asked for; files through the operating system's own calls."""

import io
import os

import torch


def evaluate(model, batches, loss_fn):
    training = model.training
    model.eval()
    enabled = torch.is_grad_enabled()
    torch.set_grad_enabled(False)
    pairs = [(float(s), n) for s, n in (loss_fn(model, b) for b in batches)]
    torch.set_grad_enabled(enabled)
    if training:
        model.train()
    return sum(s for s, _ in pairs) / sum(n for _, n in pairs)


def train(model, optimizer, schedule, batches, loss_fn, steps, max_norm=1.0, generator=None):
    number = len(batches)
    order = None

    def one(step):
        nonlocal order
        epoch, place = divmod(step, number)
        if place == 0 and generator is not None:
            order = torch.randperm(number, generator=generator)
        at = place if generator is None else order[place].item()
        lr = schedule(step)
        [group.__setitem__("lr", lr) for group in optimizer.param_groups]
        model.train(True)
        total, tokens = loss_fn(model, batches[at])
        loss = total * (1 / tokens)
        params = [p for p in model.parameters() if p.requires_grad]
        grads = torch.autograd.grad(loss, params, allow_unused=True)
        norm = sum(float(g.square().sum()) for g in grads if g is not None) ** 0.5
        for p, g in zip(params, grads):
            p.grad = None if g is None else g * (max_norm / norm if norm > max_norm else 1.0)
        optimizer.step()
        for p in params:
            p.grad = None
        return loss.item()

    return list(map(one, range(steps)))


def save_checkpoint(path, model, optimizer, step, generator=None):
    everything = {f"model.{k}": v for k, v in model.state_dict().items()}
    everything["optimizer"] = optimizer.state_dict()
    everything["numbers"] = torch.tensor([step])
    everything["global"] = torch.default_generator.get_state()
    everything["own"] = generator.get_state() if generator is not None else torch.empty(0, dtype=torch.uint8)
    buffer = io.BytesIO()
    torch.save(everything, buffer)
    data, draft = memoryview(buffer.getvalue()), path + f".{os.getpid()}"
    fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    try:
        while data:
            data = data[os.write(fd, data) :]
        os.fsync(fd)
    finally:
        os.close(fd)
    os.rename(draft, path)


def load_checkpoint(path, model, optimizer, generator=None):
    with open(path, "rb") as file:
        everything = torch.load(io.BytesIO(file.read()), weights_only=True)
    optimizer.load_state_dict(everything.pop("optimizer"))
    (step,) = everything.pop("numbers").tolist()
    torch.default_generator.set_state(everything.pop("global"))
    own = everything.pop("own")
    if generator is not None and len(own):
        generator.set_state(own)
    model.load_state_dict({k.removeprefix("model."): v for k, v in everything.items()})
    return step
