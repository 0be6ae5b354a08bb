"""What a right training loop does.

Models, losses and optimizers live beside the answer. `torch.optim` does not:
it imports PyTorch's compiler at the first step.
"""

import functools
import math

import torch
import torch.nn.functional as F
from torch import nn

from kata.grading import beside, check, folder, index, normal, seed, size

# What lives beside the answer.


def toys():
    """A model, an optimizer, a schedule and a loss."""

    class Line(nn.Module):
        """A linear model with dropout, a parameter that is not used, and a buffer that counts the forward passes in training."""

        def __init__(self, width, p=0.0):
            super().__init__()
            self.weight = nn.Parameter(torch.linspace(-1, 1, width, dtype=torch.float64))
            self.bias = nn.Parameter(torch.full((), 0.5, dtype=torch.float64))
            self.unused = nn.Parameter(torch.ones(2, dtype=torch.float64))
            self.register_buffer("passes", torch.zeros((), dtype=torch.int64))
            self.dropout = nn.Dropout(p)

        def forward(self, x):
            self.passes += self.training
            return self.dropout(x) @ self.weight + self.bias

    class SGD:
        """Stochastic gradient descent with momentum, each parameter in a group of its own; it notes the rates of its steps."""

        def __init__(self, params, momentum=0.0):
            self.param_groups = [{"params": [param], "lr": 99.0 + i, "momentum": momentum} for i, param in enumerate(params)]
            self.velocities = [torch.zeros_like(group["params"][0]) for group in self.param_groups]
            self.rates, self.steps = [], 0

        def step(self):
            self.rates.append([float(group["lr"]) for group in self.param_groups])
            self.steps += 1
            with torch.no_grad():
                for group, velocity in zip(self.param_groups, self.velocities, strict=True):
                    (param,) = group["params"]
                    if param.grad is not None:
                        velocity.mul_(group["momentum"]).add_(param.grad)
                        param -= group["lr"] * velocity

        def zero_grad(self, set_to_none=True):
            for group in self.param_groups:
                for param in group["params"]:
                    param.grad = None

        def state_dict(self):
            """Laid out as in torch.optim, with numbers for parameters."""
            state = {i: {"velocity": velocity, "step": self.steps} for i, velocity in enumerate(self.velocities)}
            groups = [{"lr": g["lr"], "momentum": g["momentum"], "foreach": None, "params": [i]} for i, g in enumerate(self.param_groups)]
            return {"state": state, "param_groups": groups}

        def load_state_dict(self, saved):
            for i, velocity in enumerate(self.velocities):
                velocity.copy_(saved["state"][i]["velocity"])
                self.steps = saved["state"][i]["step"]
            for group, options in zip(self.param_groups, saved["param_groups"], strict=True):
                group.update({name: options[name] for name in ("lr", "momentum")})

    def squared_errors(model, batch):
        """The sum of the losses of a batch's tokens, and their number."""
        x, y = batch
        return (model(x) - y).square().sum(), len(x)

    def tenth(step):
        return 0.1 / (1 + step)

    return Line, SGD, tenth, squared_errors


def with_toys(impl, function):
    """A function that lives beside the answer and is handed the toys first."""
    return functools.partial(beside(impl, function), beside(impl, toys))


# Evaluation.


def evaluated(toys, evaluate, x, y, sizes, once):
    """What evaluate says of each of some data sets, cut into batches of these sizes."""
    Line, _, _, loss_fn = toys()
    found = []
    for inputs, targets in zip(x, y, strict=True):
        batches = list(zip(inputs.split(sizes), targets.split(sizes), strict=True))
        with torch.enable_grad():  # and as before afterwards, whatever evaluate leaves behind
            found.append(evaluate(Line(x.shape[-1]), iter(batches) if once else batches, loss_fn))
    return [float(loss) if isinstance(loss, float) else loss for loss in found]  # NumPy's float64 is a float too


@check(points=2, sizes={"N": (4,), "A": (2, 1), "D": (3,)}, x=normal("N 7 D"), y=normal("N 7"), A=size("A"))
def evaluation_counts_each_token_once(impl, x, y, A):
    """evaluate gives the mean loss of all tokens, a float, however they are cut into batches; some of these may hold no token."""
    evaluate, sizes = with_toys(impl, evaluated), [A, 0, 6 - A, 1]
    told = {"a list": evaluate(impl.evaluate, x, y, sizes, False), "an iterator": evaluate(impl.evaluate, x, y, sizes, True)}
    types = {type(loss).__name__ for losses in told.values() for loss in losses}
    return {"type": " and ".join(sorted(types)), **{name: torch.tensor([float(loss) for loss in losses]) for name, losses in told.items()}}


def watched_evaluation(toys, evaluate, training):
    """Modes and gradients while evaluate runs, and after it."""
    Line, _, _, _ = toys()
    model = Line(2, 0.5)
    model.train(training)
    for param in model.parameters():
        param.grad = torch.full_like(param, 7.0)
    seen = []

    def loss_fn(model, x):
        loss = model(x).sum()
        seen.append((model.training, model.dropout.training, torch.is_grad_enabled(), loss.requires_grad))
        return loss, len(x)

    with torch.enable_grad():
        evaluate(model, [torch.ones(3, 2, dtype=torch.float64), torch.ones(1, 2, dtype=torch.float64)], loss_fn)
        enabled = torch.is_grad_enabled()
    name = {True: "training", False: "evaluation"}
    return {
        "modes": {
            "of the model inside": [name[each[0]] for each in seen],
            "of its dropout inside": [name[each[1]] for each in seen],
            "of the model afterwards": name[model.training],
            "of its dropout afterwards": name[model.dropout.training],
        },
        "graphs": {
            "gradients are enabled inside": [each[2] for each in seen],
            "the losses have a graph": [each[3] for each in seen],
            "gradients are enabled afterwards": enabled,
            "parameters require gradients afterwards": [param.requires_grad for param in model.parameters()],
            ".grad afterwards": [param.grad for param in model.parameters()],
        },
    }


@check(points=1)
def evaluation_is_in_evaluation_mode(impl):
    """While evaluate runs, the model and its submodules are in evaluation mode; afterwards they are in the mode in which they came."""
    watch = with_toys(impl, watched_evaluation)
    return {
        "came in training mode": watch(impl.evaluate, True)["modes"],
        "came in evaluation mode": watch(impl.evaluate, False)["modes"],
    }


@check(points=1)
def evaluation_builds_no_graph(impl):
    """While evaluate runs, gradients are disabled; afterwards they are enabled as before, and every .grad is what it was."""
    return with_toys(impl, watched_evaluation)(impl.evaluate, True)["graphs"]


# Training.


def trained(toys, train, x, y, sizes, steps, options):
    """Losses and parameters after some steps, and the rates that the optimizer saw."""
    Line, SGD, schedule, loss_fn = toys()
    model = Line(x.shape[-1])
    optimizer = SGD(model.parameters())
    batches = list(zip(x.split(sizes), y.split(sizes), strict=True))
    losses = train(model, optimizer, schedule, batches, loss_fn, steps, **options)
    return {
        "losses": losses,
        "parameters": {name: param.detach() for name, param in model.named_parameters()},
        "rates": [torch.tensor(rates) for rates in zip(*optimizer.rates, strict=False)],
    }


@check(
    points=2,
    sizes={"A": (1, 3), "D": (4,)},
    x=normal("A D"),
    more=normal("5 D"),
)
def steps_descend_the_token_mean(impl, x, more):
    """Each step descends the token mean of its own batch, and of no other; the losses are those before the updates, as floats."""
    data = torch.cat([x, more])
    seen = with_toys(impl, trained)(impl.train, data, data.sum(1).cos() + 2, [len(x), 3, 2], 3, {"max_norm": 1e9})
    return {"losses": seen["losses"], "parameters": seen["parameters"]}


@check(points=1, after=steps_descend_the_token_mean, sizes={"D": (3,)}, x=normal("4 D"))
def rate_is_set_before_the_step(impl, x):
    """The optimizer's step number i, from 0, sees schedule(i) as the rate of all groups."""
    rates = with_toys(impl, trained)(impl.train, x, x.sum(1), [2, 2], 5, {})["rates"]
    return {"first group": rates[0], "second group": rates[1]}


@check(points=1, after=steps_descend_the_token_mean, sizes={"D": (4,)}, x=normal("6 D"))
def gradients_are_clipped(impl, x):
    """Before each step the gradients are scaled down to max_norm, if their norm together is larger; max_norm is 1 if not told otherwise."""
    run, y = with_toys(impl, trained), 9 + x.sum(1)
    cases = {
        "max_norm = 0.05": {"max_norm": 0.05},
        "max_norm = 12": {"max_norm": 12.0},
        "max_norm = 90": {"max_norm": 90.0},
        "none given": {},
    }
    return {name: run(impl.train, x, y, [3, 3], 3, options)["parameters"] for name, options in cases.items()}


def visited(toys, train, number, calls, seed):
    """Which batches each call of train works on, and in which modes of the model."""
    Line, SGD, schedule, _ = toys()
    model, seen, modes, counts = Line(1), [], [], []
    model.eval()
    generator = None if seed is None else torch.Generator().manual_seed(seed)

    def loss_fn(model, batch):
        seen[-1].append(batch)
        modes.append("training" if model.training else "evaluation")
        return model(torch.ones(1, 1, dtype=torch.float64)).sum(), 1

    for steps in calls:
        seen.append([])
        losses = train(model, SGD(model.parameters()), schedule, list(range(number)), loss_fn, steps, generator=generator)
        counts.append(len(losses))
    return {"batches": seen, "modes": modes, "losses": counts}


@check(points=1, sizes={"N": (3, 1)}, N=size("N"))
def batches_come_in_turn(impl, N):
    """Each step takes one batch, in order and from the first again after the last; there are as many losses as steps, maybe none."""
    seen = with_toys(impl, visited)(impl.train, N, [2 * N + 1, N - 1, 0], None)
    return {"batches": seen["batches"], "losses": seen["losses"]}


@check(points=1, after=batches_come_in_turn, sizes={"N": (5, 3)}, N=size("N"), seed=seed())
def generator_shuffles_each_epoch(impl, N, seed):
    """With a generator each epoch, also the one that begins with a call, goes in the order of a torch.randperm drawn from it then."""
    calls = [2 * N + 1, 2 * N, N]
    seen = with_toys(impl, visited)(impl.train, N, calls, seed)["batches"]
    return {f"batches of a call with {steps} steps": batches for steps, batches in zip(calls, seen, strict=True)}


@check(points=1)
def training_is_in_training_mode(impl):
    """The model is in training mode in each step, also if it came in evaluation mode."""
    return with_toys(impl, visited)(impl.train, 2, [3], None)["modes"]


# Checkpoints.


def path_of(impl):
    return folder(impl) + "/checkpoint"


def restored(toys, save_checkpoint, load_checkpoint, path, x, step):
    """What a checkpoint brings back to a model and an optimizer that were made anew; last, one that is given by its bare name."""
    import os

    Line, SGD, _, _ = toys()

    def made(rate):
        model = Line(x.shape[-1])
        optimizer = SGD(model.parameters(), 0.9)
        for group in optimizer.param_groups:
            group["lr"] = rate
        return model, optimizer

    model, optimizer = made(0.125)
    for row in x:
        optimizer.zero_grad()
        model(row).square().backward()
        optimizer.step()
    save_checkpoint(path, model, optimizer, step)
    os.rename(path, path + "-moved")
    model, optimizer = made(5.0)
    save_checkpoint(path, model, optimizer, step + 1)
    seen = {"returned": load_checkpoint(path + "-moved", model, optimizer)}
    state, rates = model.state_dict(), [group["lr"] for group in optimizer.param_groups]
    seen |= {
        "parameters": [state["weight"], state["bias"]],
        "buffer": state["passes"],
        "optimizer": {"momentum": list(optimizer.velocities), "rates": rates, "steps": optimizer.steps},
    }
    here = os.getcwd()
    os.chdir(os.path.dirname(path))
    try:
        save_checkpoint("last.pt", model, optimizer, step)
        seen["returned for the path 'last.pt'"] = load_checkpoint("last.pt", model, optimizer)
    finally:
        os.chdir(here)
    return seen


@check(points=2, sizes={"D": (4,)}, x=normal("3 D"), step=index(1000))
def checkpoints_bring_the_run_back(impl, x, step):
    """load_checkpoint returns the saved step; parameters, buffers and the optimizer's state are what they were at the save.

    (The file alone holds them: it is moved, and another is saved in its place, before it is loaded. A path may be a bare name.)
    """
    return with_toys(impl, restored)(impl.save_checkpoint, impl.load_checkpoint, path_of(impl), x, step)


def regenerated(toys, save_checkpoint, load_checkpoint, path, seed):
    """Numbers that generators would have given after a save, and those that they give after the load."""
    Line, SGD, _, _ = toys()
    model = Line(2)
    optimizer, generator = SGD(model.parameters()), torch.Generator().manual_seed(seed)
    torch.manual_seed(seed + 1)
    torch.rand(3), torch.rand(5, generator=generator)  # so that the states are no longer those of a seed
    save_checkpoint(path, model, optimizer, 1, generator)
    wanted = torch.rand(4, generator=generator), torch.rand(4)
    generator.manual_seed(seed + 2)
    torch.manual_seed(seed + 3)
    load_checkpoint(path, model, optimizer, generator)
    seen = {
        "the generator goes on": [wanted[0], torch.rand(4, generator=generator)],
        "the global generator goes on": [wanted[1], torch.rand(4)],
    }
    save_checkpoint(path, model, optimizer, 1)
    wanted = torch.rand(4)
    torch.manual_seed(seed + 4)
    load_checkpoint(path, model, optimizer)
    return seen | {"the global generator goes on, with no other given": [wanted, torch.rand(4)]}


@check(points=1, after=checkpoints_bring_the_run_back, seed=seed())
def checkpoints_bring_the_generators_back(impl, seed):
    """The generator that is given, and PyTorch's global one, give after the load the numbers that they would have given after the save."""
    return with_toys(impl, regenerated)(impl.save_checkpoint, impl.load_checkpoint, path_of(impl), seed)


def resumed(toys, train, save_checkpoint, load_checkpoint, path, x, y, seed):
    """Losses and models of a run that went on, and of one that began anew from its checkpoint."""
    Line, SGD, schedule, loss_fn = toys()
    batches = list(zip(x.split(2), y.split(2), strict=True))

    def made(seed):
        torch.manual_seed(seed)
        model = Line(x.shape[-1], 0.4)
        return model, SGD(model.parameters(), 0.9), torch.Generator().manual_seed(seed)

    def go_on(model, optimizer, generator):
        losses = train(model, optimizer, schedule, batches, loss_fn, 5, 10.0, generator)
        return losses, [value.clone() for value in model.state_dict().values()]

    model, optimizer, generator = made(seed)
    train(model, optimizer, schedule, batches, loss_fn, 4, 10.0, generator)
    save_checkpoint(path, model, optimizer, 4, generator)
    losses, state = go_on(model, optimizer, generator)
    model, optimizer, generator = made(seed + 1)
    load_checkpoint(path, model, optimizer, generator)
    losses_again, state_again = go_on(model, optimizer, generator)
    return losses, losses_again, state, state_again


@check(
    points=2,
    after=(checkpoints_bring_the_generators_back, generator_shuffles_each_epoch),
    sizes={"D": (4,)},
    x=normal("6 D"),
    seed=seed(),
)
def resuming_is_exact(impl, x, seed):
    """A run that is resumed makes, bit for bit, the losses and the model of the one that went on, with dropout and shuffling."""
    resume = with_toys(impl, resumed)
    losses, again, state, state_again = resume(impl.train, impl.save_checkpoint, impl.load_checkpoint, path_of(impl), x, x.sum(1), seed)
    return {
        "losses of the run that went on": torch.tensor(losses),
        "losses of the run that was resumed": torch.tensor(again),
        "the same losses, bit for bit": losses == again,
        "the same model, bit for bit": all(map(torch.equal, state, state_again)),
    }


def interrupted(toys, save_checkpoint, load_checkpoint, path):
    """What can be loaded after a save that broke off in the middle, for the disk was full."""
    Line, SGD, _, _ = toys()

    class Broken:  # where the size of files cannot be limited
        def __reduce__(self):
            raise OSError("the disk is full")

    def saved(step):
        model = Line(300)
        with torch.no_grad():
            model.weight.fill_(step if type(step) is int else 0)
        save_checkpoint(path, model, SGD(model.parameters()), step)

    def broken_off():
        try:
            import resource
        except ImportError:
            return saved(Broken())
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))  # bytes: what is written beyond them fails
        try:
            saved(2)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    def loaded():
        model = Line(300)
        try:
            step = load_checkpoint(path, model, SGD(model.parameters()))
        except NotImplementedError:
            raise
        except Exception as error:
            return f"none that can be loaded ({type(error).__name__})"
        return f"that of step {step}" if bool((model.weight == step).all()) else "a mixture"

    saved(1)
    try:
        broken_off()
        told = "as if all went well"
    except NotImplementedError:
        raise
    except Exception:  # whichever is raised
        told = "with an exception"
    seen = {"the save that broke off ends": told, "the checkpoint that is there then": loaded()}
    saved(3)
    return seen | {"after another save": loaded()}


@check(points=2, after=checkpoints_bring_the_run_back)
def broken_save_leaves_the_old(impl):
    """A save of step 2 that breaks off in the middle raises, and leaves the checkpoint of step 1 whole; later saves work again."""
    return with_toys(impl, interrupted)(impl.save_checkpoint, impl.load_checkpoint, path_of(impl))


def replaced(toys, save_checkpoint, path):
    """How the second checkpoint takes the place of the first."""
    import os

    Line, SGD, _, _ = toys()
    model, gone = Line(3), []
    optimizer = SGD(model.parameters())
    save_checkpoint(path, model, optimizer, 1)
    first, real = os.stat(path).st_ino, {name: getattr(os, name) for name in ("rename", "replace")}

    def looking(move):
        def moved(*args, **kwargs):
            gone.append(not os.path.exists(path))
            move(*args, **kwargs)
            gone.append(not os.path.exists(path))

        return moved

    for name, move in real.items():
        setattr(os, name, looking(move))
    try:
        save_checkpoint(path, model, optimizer, 2)
    finally:
        for name, move in real.items():
            setattr(os, name, move)
    return {
        "the old file": "was written over" if os.stat(path).st_ino == first else "was replaced by another",
        "until then": "there was none for a moment" if any(gone) else "it was there",
    }


@check(points=1, after=broken_save_leaves_the_old)
def checkpoint_is_replaced_at_once(impl):
    """The old checkpoint is neither removed first nor written over: a new file, complete, takes its place in one move."""
    return with_toys(impl, replaced)(impl.save_checkpoint, path_of(impl))


def invaded(toys, save_checkpoint, load_checkpoint, path):
    """What comes of loading files with code in them: of torch.save, of pickle, and of save_checkpoint itself."""
    import builtins
    import functools
    import os
    import pickle

    Line, SGD, _, _ = toys()
    model, trace = Line(3), path + "-guest"

    class Guest:
        def __reduce__(self):
            return exec, ("import builtins; builtins.kata_guest_was_here = True",)

    class Quiet:
        def __reduce__(self):
            return os.mkdir, (trace,)

    class Host(SGD):
        def state_dict(self):
            return {"state": {}, "param_groups": [Guest()]}

    def left():
        called = builtins.__dict__.pop("kata_guest_was_here", False) or os.path.exists(trace)
        if os.path.exists(trace):
            os.rmdir(trace)
        return "was called" if called else "was not called"

    def told(function, *args):
        try:
            function(*args)
        except NotImplementedError:
            raise
        except Exception:  # whichever is raised
            return "raises an exception"
        return "goes through"

    seen = {}
    for guest, kind in ((Guest, "exec"), (Quiet, "os.mkdir")):
        state = {"model": guest(), "optimizer": guest(), "step": 1, "generator": None}
        for writer, write in (("torch.save", torch.save), ("pickle.dump", functools.partial(pickle.dump, protocol=2))):
            with open(path, "wb") as file:
                write(state, file)
            seen[f"a file of {writer} with {kind}"] = {
                "the load": told(load_checkpoint, path, model, SGD(model.parameters())),
                "it": left(),
            }
    told(save_checkpoint, path, model, Host(model.parameters()), 1)  # may raise, as loading may: all that counts is the guest
    left()
    told(load_checkpoint, path, model, SGD(model.parameters()))
    return seen | {"a file of save_checkpoint with exec": left()}


@check(points=1, after=checkpoints_bring_the_run_back)
def foreign_code_is_not_called(impl):
    """A file that would have a function called when it is unpickled is refused, whoever wrote it, and the function is not called."""
    return with_toys(impl, invaded)(impl.save_checkpoint, impl.load_checkpoint, path_of(impl))


# The proof.

SYMBOLS, LENGTH, NOISE = 8, 16, 0.25
KEPT = 1 - NOISE + NOISE / SYMBOLS  # how often a token is the one that the rule gives
FLOOR = -KEPT * math.log(KEPT) - (1 - KEPT) * math.log(NOISE / SYMBOLS)  # entropy of a token: 0.95; guessing gives 2.08
STEPS, PEAK = 120, 0.025


def noisy_rows(number, seed):
    """Rows of tokens, each (last + 3 · last but one) modulo SYMBOLS, or with probability NOISE any."""
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randint(SYMBOLS, (number, LENGTH), generator=generator)
    noisy = torch.rand(number, LENGTH, generator=generator) < NOISE
    for t in range(2, LENGTH):
        rows[:, t] = torch.where(noisy[:, t], rows[:, t], (rows[:, t - 1] + 3 * rows[:, t - 2]) % SYMBOLS)
    return rows


class TwoTokens(nn.Module):
    """Predicts each token from the two before it."""

    def __init__(self, symbols):
        super().__init__()
        self.embedding = nn.Embedding(symbols, 16)
        self.up = nn.Linear(32, 64)
        self.dropout = nn.Dropout(0.1)
        self.down = nn.Linear(64, symbols)

    def forward(self, ids):
        pairs = torch.cat([self.embedding(ids[:, 1:-1]), self.embedding(ids[:, :-2])], dim=-1)
        return self.down(self.dropout(torch.relu(self.up(pairs))))


class Adam:
    """Adam, as short as it gets."""

    def __init__(self, params):
        self.params, self.t = list(params), 0
        self.param_groups = [{"params": self.params, "lr": 0.0}]
        self.moments = [(torch.zeros_like(param), torch.zeros_like(param)) for param in self.params]

    def zero_grad(self, set_to_none=True):
        for param in self.params:
            param.grad = None

    def step(self):
        self.t += 1
        with torch.no_grad():
            for param, (first, second) in zip(self.params, self.moments, strict=True):
                if param.grad is None:
                    continue
                first.lerp_(param.grad, 0.1)
                second.lerp_(param.grad.square(), 0.01)
                size = (second / (1 - 0.99**self.t)).sqrt() + 1e-8
                param -= self.param_groups[0]["lr"] * first / (1 - 0.9**self.t) / size


def next_tokens(model, ids):
    """The sum of the losses of the tokens from the third on, and their number."""
    logits, targets = model(ids), ids[:, 2:]
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="sum"), targets.numel()


def learned(train, evaluate, Model, Adam, loss_fn, symbols, rows, unseen, steps, peak, seed):
    """The model's weights before and after training, its losses on the way, and what evaluate says of it."""

    def schedule(step):
        return peak * min((step + 1) / 10, (steps - step) / (steps - 10))

    torch.manual_seed(seed)
    model = Model(symbols)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    generator = torch.Generator().manual_seed(seed)
    losses = train(model, Adam(model.parameters()), schedule, rows.split(32), loss_fn, steps, 1.0, generator)
    with torch.enable_grad():
        told = float(evaluate(model, unseen.split(300), loss_fn))
    return {"before": before, "after": model.state_dict(), "losses": losses, "told": told}


def loss_of(weights, rows):
    """The loss of a model with these weights, as this process measures it."""
    model = TwoTokens(SYMBOLS)
    model.load_state_dict(weights)
    model.eval()
    with torch.no_grad():
        loss, tokens = next_tokens(model, rows)
    return float(loss) / tokens


def rule_loss(rows):
    """The loss of one who knows rule and noise: the floor, on just these rows."""
    kept = rows[:, 2:] == (rows[:, 1:-1] + 3 * rows[:, :-2]) % SYMBOLS
    return float(torch.where(kept, -math.log(KEPT), -math.log(NOISE / SYMBOLS)).mean())


@check(
    points=2,
    after=(  # all that is known of the loop: a wrong one is told at once
        evaluation_counts_each_token_once,
        evaluation_is_in_evaluation_mode,
        steps_descend_the_token_mean,
        rate_is_set_before_the_step,
        gradients_are_clipped,
        generator_shuffles_each_epoch,
        training_is_in_training_mode,
    ),
    wanted="the model knows all that can be known",
    slow=True,
    seed=seed(),
)
def reaches_the_entropy_floor(impl, seed):
    """A small model that is trained on a noisy rule gets down to the entropy of the noise on unseen data, and not below."""
    rows, unseen = noisy_rows(1280, seed), noisy_rows(900, seed + 1)
    parts = [beside(impl, part) for part in (TwoTokens, Adam, next_tokens)]
    seen = beside(impl, learned)(impl.train, impl.evaluate, *parts, SYMBOLS, rows, unseen, STEPS, PEAK, seed)
    floor, start, end, told = rule_loss(unseen), loss_of(seen["before"], unseen), loss_of(seen["after"], unseen), seen["told"]
    measured = f"before training {start:.2f}, after {STEPS} steps {end:.2f}; the floor is {floor:.2f}"
    if not math.isfinite(end):
        return f"the weights are no longer finite: the steps were too long ({measured})"
    if abs(end - told) > 0.005 * max(1.0, end):
        below = ", which is below the floor, where nobody can be" if told < floor - 0.02 else ""
        return f"evaluate says {told:.3f}{below}, but the loss of the trained model on unseen data is {end:.3f}"
    if end < floor - 0.02:
        return f"a loss below the floor: the model has seen what it is to predict ({measured})"
    if end < floor + 0.06:
        return "the model knows all that can be known"
    moved = max(float((seen["after"][name] - value).abs().max()) for name, value in seen["before"].items())
    if moved == 0:
        return f"no weight has moved: there was no gradient, no step, or a rate of zero ({measured})"
    if end > start:
        return f"training made it worse: the steps go uphill or are too long ({measured})"
    return f"it stays above the floor: the steps are too short, too long, or not along the gradient of their batch ({measured})"
