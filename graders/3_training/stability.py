"""What right clipping, loss scaling and accumulation do.

Parameters with gradients, models, losses and optimizers live beside the
answer. `torch.optim` does not: it imports PyTorch's compiler at the first step.
"""

import math

import torch
from torch import nn

from kata.grading import beside, booleans, check, choice, close, count, gradients, index, normal, seed

SHAPES = {"A": (3,), "B": (2,), "C": (2,)}  # of gradients, where they are not the subject

# Norms.


def returned_for(function, *stacks):
    """What a function of parameters returns for the first gradients of the stacks, for the second, ..."""
    found = []
    for grads in zip(*stacks, strict=True):
        params = [nn.Parameter(torch.zeros_like(grad)) for grad in grads]
        for param, grad in zip(params, grads, strict=True):
            param.grad = grad
        found.append(function(params))
    return found


@check(points=1, sizes={"N": (4,), "A": (1, 4), "B": (3, 2), "C": (2, 1)}, a=normal("N A"), b=normal("N B C"), c=normal("N"))
def norm_is_one_over_all(impl, a, b, c):
    """grad_norm is the root of the sum of the squares of all gradients, whatever their shapes: one norm for all parameters."""
    return torch.tensor([float(norm) for norm in beside(impl, returned_for)(impl.grad_norm, a, b, c)], dtype=torch.float64)


def called(function, grads, *args, once=False):
    """What a function of parameters returns, its form, and their gradients: as they are, and as one sees them who held them before."""
    params = [nn.Parameter(torch.zeros(2) if grad is None else torch.zeros_like(grad)) for grad in grads]
    for param, grad in zip(params, grads, strict=True):
        param.grad = grad
    returned = function(iter(params) if once else params, *args)
    form = f"a tensor with {returned.ndim} axes" if isinstance(returned, torch.Tensor) else type(returned).__name__
    if isinstance(returned, torch.Tensor) and returned.numel() == 1:
        returned = float(returned.detach())
    return {"returned": returned, "form": form, "gradients": [param.grad for param in params], "held before": grads}


@check(points=1, after=norm_is_one_over_all, sizes=SHAPES, a=normal("A"), b=normal("B C"))
def norm_takes_any_parameters(impl, a, b):
    """grad_norm skips parameters without a gradient, takes what can be walked only once, and changes nothing; without a gradient it is 0.

    (It is a scalar tensor, one without axes.)
    """
    call = beside(impl, called)

    def seen(grads, once=False):
        after = call(impl.grad_norm, grads, once=once)
        return {"returned": after["returned"], "form": after["form"], "gradients": after["gradients"]}

    return {
        "some without a gradient": seen([None, a, None, b]),
        "an iterator": seen([a, b], True),
        "none with a gradient": seen([None, None]),
        "no parameters": seen([]),
    }


# Clipping.


def norm_of(*grads):
    return math.sqrt(sum(float(grad.square().sum()) for grad in grads))


@check(points=2, after=norm_is_one_over_all, sizes=SHAPES, a=normal("A"), b=normal("B C"))
def clipping_scales_all_by_one_factor(impl, a, b):
    """clip_grad_norm multiplies all gradients by one factor, so that their norm together is max_norm; it returns the norm before."""
    a[0] = 2.0
    call, seen = beside(impl, called), {}
    for share in (0.25, 0.98):
        after = call(impl.clip_grad_norm, [a, b], share * norm_of(a, b))
        seen[f"max_norm {share} of the norm"] = {"gradients": after["gradients"], "returned": after["returned"]}
    return seen


@check(points=1, after=clipping_scales_all_by_one_factor, sizes=SHAPES, a=normal("A"), b=normal("B C"))
def clipping_never_scales_up(impl, a, b):
    """Gradients whose norm is below max_norm are left as they are, also when all of them are zero."""
    a[0] = 2.0
    call = beside(impl, called)

    def clipped(grads, max_norm):
        seen = call(impl.clip_grad_norm, grads, max_norm)
        return {"gradients": seen["gradients"], "returned": seen["returned"]}

    return {
        "max_norm just above the norm": clipped([a, b], 1.02 * norm_of(a, b)),
        "max_norm far above the norm": clipped([a, b], 1000 * norm_of(a, b)),
        "all zero": clipped([0 * a, 0 * b], 1.0),
    }


@check(points=1, after=clipping_scales_all_by_one_factor, sizes=SHAPES, a=normal("A"), b=normal("B C"))
def clipping_works_in_place(impl, a, b):
    """Gradients are changed in place: whoever held a .grad before the call sees it clipped."""
    a[0] = 2.0
    return beside(impl, called)(impl.clip_grad_norm, [a, b], 0.5)["held before"]


@check(points=1, after=clipping_scales_all_by_one_factor, sizes=SHAPES, a=normal("A"), b=normal("B C"))
def clipping_takes_any_parameters(impl, a, b):
    """clip_grad_norm takes what can be walked only once, such as model.parameters(), and skips parameters without a gradient."""
    a[0] = 2.0
    call = beside(impl, called)

    def clipped(grads, once):
        seen = call(impl.clip_grad_norm, grads, 0.5, once=once)
        return {"gradients": [grad for grad in seen["gradients"] if grad is not None], "returned": seen["returned"], "form": seen["form"]}

    return {
        "an iterator": clipped([a, b], True),
        "some without a gradient": clipped([None, a, None, b], False),
        "no parameters": clipped([], False),
    }


@check(points=1, after=clipping_scales_all_by_one_factor, sizes=SHAPES, a=normal("A"), b=normal("B C"), place=index("A"))
def clipping_leaves_what_is_not_finite(impl, a, b, place):
    """If the norm is infinite or NaN, no gradient is changed, and that norm is returned."""
    call, seen = beside(impl, called), {}
    for bad in (math.inf, -math.inf, math.nan):
        a[place] = bad
        after = call(impl.clip_grad_norm, [b, a], 1.0)
        seen[f"a gradient holds {bad}"] = {"gradients": after["gradients"], "returned": after["returned"]}
    return seen


# The scaler.


@check(points=1, sizes={"N": (4,)}, losses=normal("N"), scale=choice(3.0, 2.0**10), seed=seed())
def scale_multiplies_the_loss(impl, losses, scale, seed):
    """scale gives the loss times value, and keeps its graph; value is init_scale at first."""
    scaler = impl.LossScaler(scale)
    return {
        "value": scaler.value,
        "scaled": torch.stack([scaler.scale(loss) for loss in losses]),
        "gradient": gradients(scaler.scale, losses[0], seed=seed)["inputs"],
    }


@check(points=1, after=scale_multiplies_the_loss, sizes=SHAPES, a=normal("A"), b=normal("B C"), scale=choice(3.0, 2.0**10))
def unscale_divides_by_value(impl, a, b, scale):
    """unscale divides all gradients by value, in place, and gives False when all are finite; it takes whatever grad_norm takes."""
    call, seen = beside(impl, called), {}
    for name, grads, once in (
        ("a list", [a, b], False),
        ("an iterator", [a, b], True),
        ("some without a gradient", [None, a, None], False),
        ("huge but finite, in float32", [1e30 * a.float(), b.float()], False),
    ):
        after = call(impl.LossScaler(scale).unscale, grads, once=once)
        seen[name] = {"gradients": [grad for grad in after["held before"] if grad is not None], "overflow": after["returned"]}
    return seen


def scaled_step(LossScaler, unscale_first, *grads, mended=False):
    """One step of SGD with scaled gradients: what step returns, the parameters, and how often the optimizer made its step.

    `mended`: after unscale what is not finite is set to zero.
    """

    class SGD:
        steps = 0

        def step(self):
            self.steps += 1
            with torch.no_grad():
                for param in params:
                    param -= param.grad

        def zero_grad(self, set_to_none=True):
            pass

    params = [nn.Parameter(torch.ones_like(grad)) for grad in grads]
    for param, grad in zip(params, grads, strict=True):
        param.grad = grad
    optimizer, scaler, seen = SGD(), LossScaler(4.0), {}
    if unscale_first:
        seen["unscale returns"] = scaler.unscale(params)
    for param in params if mended else ():
        param.grad.nan_to_num_(0.0, 0.0, 0.0)
    seen["step returns"] = scaler.step(optimizer, params if unscale_first else iter(params))
    return seen | {"steps of the optimizer": optimizer.steps, "parameters": [param.detach() for param in params]}


@check(points=1, after=unscale_divides_by_value, sizes=SHAPES, a=normal("A"), b=normal("B C"))
def step_is_the_optimizers(impl, a, b):
    """Where gradients are finite, step makes the optimizer's step on unscaled gradients and gives True; it unscales only what is not."""
    take = beside(impl, scaled_step)
    return {"unscaled before": take(impl.LossScaler, True, a, b), "not unscaled before": take(impl.LossScaler, False, a, b)}


@check(points=2, after=step_is_the_optimizers, sizes=SHAPES, a=normal("A"), b=normal("B C"), place=index("A"))
def overflow_skips_the_step(impl, a, b, place):
    """If one gradient anywhere is infinite or NaN, unscale gives True, and step leaves the parameters alone and gives False."""
    take, seen = beside(impl, scaled_step), {}
    for bad in (math.inf, -math.inf, math.nan):
        a[place] = bad
        seen[f"{bad} in the first parameter"] = take(impl.LossScaler, True, a, b)
        seen[f"{bad} in the last"] = take(impl.LossScaler, True, b, a)
        seen[f"{bad} found by unscale, then set to 0"] = take(impl.LossScaler, True, a, b, mended=True)
        seen[f"{bad}, not unscaled before"] = take(impl.LossScaler, False, a, b)
    return seen


def unscaled_again(LossScaler, grad):
    """What becomes of a second unscale in one step, and in the next."""

    def tried(action, *args):
        try:
            action(*args)
        except NotImplementedError:
            raise
        except RuntimeError:
            return "RuntimeError"
        except Exception as error:
            return type(error).__name__
        return "nothing is raised"

    class Optimizer:
        def step(self):
            pass

    seen = {}
    for name in ("after unscale", "after step", "after an overflow", "after a step that was skipped"):
        param, scaler = nn.Parameter(torch.zeros_like(grad)), LossScaler(4.0, backoff_factor=1.0)
        param.grad = grad * math.inf if name in ("after an overflow", "after a step that was skipped") else grad.clone()
        if "step" in name:
            scaler.step(Optimizer(), [param])
        else:
            scaler.unscale([param])
        seen[name] = {"raised": tried(scaler.unscale, [param]), "gradient": param.grad}
        scaler.update()
        param.grad = grad.clone()
        seen[f"{name}, then update"] = {"raised": tried(scaler.unscale, [param]), "gradient": param.grad}
    return seen


@check(points=1, after=unscale_divides_by_value, sizes={"A": (4,)}, grad=normal("A", mean=9.0))
def unscaling_twice_is_refused(impl, grad):
    """A second unscale in one step, also after step, raises RuntimeError and leaves the gradients alone; update begins a new step."""
    return beside(impl, unscaled_again)(impl.LossScaler, grad)


def values_after(LossScaler, options, overflows):
    """value at first and after each step; a step unscales, or makes a step, or both, in turn; another scaler is made meanwhile."""

    class Optimizer:
        def step(self):
            pass

    param, scaler = nn.Parameter(torch.zeros(2)), LossScaler(**options)
    values = [float(scaler.value)]
    for step, overflow in enumerate(overflows):
        LossScaler(5.0, 7.0, 0.125, 11)
        param.grad = torch.tensor([1.0, math.inf if overflow else 1.0])
        if step % 3 != 0:
            scaler.unscale([param])
        if step % 3 != 1:
            scaler.step(Optimizer(), [param])
        scaler.update()
        values.append(float(scaler.value))
    return values


@check(
    points=2,
    after=overflow_skips_the_step,
    sizes={"T": (1, 14)},
    overflow=booleans("T", share=0.25),
    growth_interval=count(3),
    draws=3,
)
def value_follows_the_steps(impl, overflow, growth_interval):
    """value grows after growth_interval good steps in a row, and backs off at once after an overflow; both begin the count anew."""
    options = {"init_scale": 8.0, "growth_factor": 3.0, "backoff_factor": 0.25, "growth_interval": growth_interval}
    follow = beside(impl, values_after)
    large = options | {"init_scale": 2.0**24, "growth_interval": 1}
    runs = {
        "these steps": (options, overflow.tolist()),
        "an overflow in each step": (options, [True] * 4),
        "good steps at 2 ** 24": (large, [False] * 2),
    }
    return {name: torch.tensor(follow(impl.LossScaler, *run), dtype=torch.float64) for name, run in runs.items()}


def defaults_of(LossScaler):
    import inspect

    legal = inspect.signature(LossScaler).parameters
    names = ("init_scale", "growth_factor", "backoff_factor", "growth_interval")
    return {name: float(legal[name].default) for name in names if name in legal and legal[name].default is not legal[name].empty}


@check(points=1, after=value_follows_the_steps)
def scaler_has_its_defaults(impl):
    """Unless told otherwise the scaler begins at 2 ** 16, doubles after 2000 good steps, and halves after an overflow."""
    found = beside(impl, values_after)(impl.LossScaler, {"growth_interval": 1}, [False, True])
    return {"value after a good step and a bad one": found, "defaults": beside(impl, defaults_of)(impl.LossScaler)}


# Accumulation.


def accumulated(accumulate_gradients, x, y, sizes, once=False, training=True):
    """The mean loss that accumulating over pieces of x and y gives, and the gradients."""

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.linspace(-1, 1, x.shape[1], dtype=x.dtype))
            self.bias = nn.Parameter(torch.full((), 0.5, dtype=x.dtype))
            self.frozen = nn.Parameter(torch.ones((), dtype=x.dtype), requires_grad=False)
            self.unused = nn.Parameter(torch.ones(2, dtype=x.dtype))

        def forward(self, x):
            off = 0.0 if self.training else 9.0
            return torch.tanh(x @ self.weight) + self.frozen * self.bias + off

    def loss_fn(model, batch):
        x, y = batch
        return (model(x) - y).square().sum(), len(x)

    model = Model().train(training)
    pieces = list(zip(x.split(sizes), y.split(sizes), strict=True))
    loss = accumulate_gradients(model, iter(pieces) if once else pieces, loss_fn)
    named = [(name, param) for name, param in model.named_parameters() if param.requires_grad]
    loss = float(loss) if isinstance(loss, float) else loss  # NumPy's float64 is a float too
    return {"loss": loss, "gradients": {name: torch.zeros_like(p) if p.grad is None else p.grad for name, p in named}}


@check(points=2, sizes={"A": (1, 2), "B": (5,), "C": (2,), "D": (4,)}, a=normal("A D"), b=normal("B D"), c=normal("C D"))
def pieces_equal_the_big_batch(impl, a, b, c):
    """However unequal the micro-batches, gradients and mean loss are those of all their tokens in one batch."""
    x = torch.cat([a, b, c])
    sizes = [len(a), len(b), len(c)]
    return beside(impl, accumulated)(impl.accumulate_gradients, x, x.sum(1).cos(), sizes)


@check(points=1, after=pieces_equal_the_big_batch, sizes={"A": (2,), "B": (3,), "D": (4,)}, a=normal("A D"), b=normal("B D"))
def pieces_may_be_few_or_empty(impl, a, b):
    """Micro-batches may come from an iterator, there may be only one, and some may hold no token; the model stays in its mode."""
    x = torch.cat([a, b])
    accumulate, y = beside(impl, accumulated), x.sum(1).cos()
    return {
        "an iterator": accumulate(impl.accumulate_gradients, x, y, [len(a), len(b)], True),
        "one piece": accumulate(impl.accumulate_gradients, x, y, [len(x)]),
        "some without tokens": accumulate(impl.accumulate_gradients, x, y, [0, len(a), 0, len(b), 0]),
        "in evaluation mode": accumulate(impl.accumulate_gradients, x, y, [len(a), len(b)], training=False),
    }


# A step in mixed precision.


def trained(mixed_precision_step, LossScaler, options, x, y, max_norm):
    """Steps on one batch after another: what each returns, the scale and the parameters after it."""

    class SGD:
        def __init__(self, params):
            self.param_groups = [{"params": list(params), "lr": 0.5}]

        def step(self):
            with torch.no_grad():
                for param in self.param_groups[0]["params"]:
                    if param.grad is not None:
                        param -= 0.5 * param.grad

        def zero_grad(self, set_to_none=True):
            for param in self.param_groups[0]["params"]:
                param.grad = None

    def loss_fn(model, batch):
        x, y = batch
        return (model(x)[:, 0].float() - y).square().sum(), len(x)

    model = nn.Linear(x.shape[-1], 1)
    with torch.no_grad():
        model.weight.copy_(torch.linspace(-1, 1, x.shape[-1])[None])
        model.bias.fill_(0.25)
    model.unused = nn.Parameter(torch.ones(2))
    optimizer, scaler, seen = SGD(model.parameters()), LossScaler(**options), {}
    for step, batch in enumerate(zip(x, y, strict=True), start=1):
        optimizer.zero_grad()
        told = mixed_precision_step(model, batch, loss_fn, optimizer, scaler, max_norm)
        told = {name: told[name] for name in ("loss", "grad_norm", "stepped")}
        after = {"weight": model.weight.detach().clone(), "bias": model.bias.detach().clone(), "scaler.value": float(scaler.value)}
        seen[f"step {step}"] = {"returned": told, "afterwards": after}
    return seen


@check(
    points=2,
    after=(clipping_scales_all_by_one_factor, value_follows_the_steps),
    compare=close(rtol=1e-2, atol=1e-3),
    sizes={"B": (3,), "D": (4,)},
    x=normal("3 B D", dtype=torch.float32),
    max_norm=choice(0.25, 1e4),
    draws=2,
)
def step_is_that_of_the_clipped_mean(impl, x, max_norm):
    """Each step descends the token mean of the loss, its true gradient clipped to max_norm; loss and grad_norm do not show the scale."""
    options = {"init_scale": 2.0**8, "growth_interval": 2}
    return beside(impl, trained)(impl.mixed_precision_step, impl.LossScaler, options, x, 2 + x.sum(-1).cos(), max_norm)


def recorded(mixed_precision_step, x, max_norm, training=True):
    """What happens in a step, in order, and where autocast is on."""

    def autocast():
        return str(torch.get_autocast_dtype("cpu")).removeprefix("torch.") if torch.is_autocast_enabled("cpu") else "off"

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(x.shape[1], 1))

        def forward(self, x):
            out = x @ self.weight
            happened.append("forward" if self.training else "forward in evaluation mode")
            during["the forward pass"] = autocast()
            during["its matrix product"] = str(out.dtype).removeprefix("torch.")
            return out

    class Optimizer:
        def __init__(self, params):
            self.param_groups = [{"params": list(params), "lr": 0.5}]

        def step(self):
            norm = float(model.weight.grad.detach().norm())
            happened.append("the optimizer's step, gradients " + ("clipped" if norm < 1.01 * max_norm else "not clipped"))
            during["the optimizer's step"] = autocast()

        def zero_grad(self, set_to_none=True):
            pass

    class Scaler:
        value = 64.0

        def scale(self, loss):
            happened.append("scaler.scale")
            return loss * self.value

        def unscale(self, params):
            norm = float(model.weight.grad.detach().norm())
            happened.append("scaler.unscale" if norm > 64 * max_norm else "scaler.unscale, gradients already clipped")
            for param in params:
                param.grad /= self.value
            return False

        def step(self, optimizer, params):
            happened.append("scaler.step")
            optimizer.step()
            return True

        def update(self):
            happened.append("scaler.update")

    def backward(grad):
        happened.append("backward")
        during["the backward pass"] = autocast()

    def loss_fn(model, x):
        return (model(x)[:, 0].float() + 9).square().sum(), len(x)

    happened, during, model = [], {}, Model().train(training)
    model.weight.register_hook(backward)
    mixed_precision_step(model, x, loss_fn, Optimizer(model.parameters()), Scaler(), max_norm)
    return {"happened": happened, "autocast in": during}


@check(points=2, after=clipping_scales_all_by_one_factor, sizes={"B": (2,), "D": (3,)}, x=normal("B D", mean=5.0, dtype=torch.float32))
def step_keeps_the_order(impl, x):
    """A step is: forward, scale, backward, unscale, clip, step, update; each once, through the scaler's methods, in the model's mode."""
    record = beside(impl, recorded)
    modes = {"in training mode": True, "in evaluation mode": False}
    return {name: record(impl.mixed_precision_step, x, 0.5, training)["happened"] for name, training in modes.items()}


@check(points=1, after=clipping_scales_all_by_one_factor, sizes={"B": (2,), "D": (3,)}, x=normal("B D", mean=5.0, dtype=torch.float32))
def forward_alone_is_in_bfloat16(impl, x):
    """The forward pass runs under autocast to bfloat16; the backward pass and the optimizer's step do not."""
    return beside(impl, recorded)(impl.mixed_precision_step, x, 0.5)["autocast in"]


@check(
    points=1,
    after=(step_is_that_of_the_clipped_mean, overflow_skips_the_step),
    compare=close(rtol=1e-2, atol=1e-3),
    sizes={"B": (3,), "D": (4,)},
    x=normal("2 B D", dtype=torch.float32),
)
def overflow_costs_one_step(impl, x):
    """If the scale was too high, that step changes no parameter, `stepped` is False and the scaler backs off; the next goes well."""
    options = {"init_scale": 2.0**127, "backoff_factor": 2.0**-120}
    steps = beside(impl, trained)(impl.mixed_precision_step, impl.LossScaler, options, x, 100 + x.sum(-1), 1.0)
    told = steps["step 1"]["returned"]
    told["grad_norm"] = "finite" if math.isfinite(told["grad_norm"]) else "not finite"
    return steps
