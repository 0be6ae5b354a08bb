"""What right optimizers do.

Parameters must live beside the answer, for it moves them in place; so whole
runs are sent there, and what comes back are values after each step.
"""

import torch
from torch import nn

from kata.grading import beside, check, choice, normal

SGD = {"lr": 0.1, "momentum": 0.9}
ADAMW = {"lr": 0.1, "betas": (0.8, 0.95), "weight_decay": 0.5}
BOTH = {"sgd": choice(SGD), "adamw": choice(ADAMW)}  # shown among the inputs


def walk(optimizer, values, gradients, options, groups=None, changes=None):
    """Values of the parameters after each step; where a gradient is None, there is none in that step.

    `options` by name, or by position; `groups` share the parameters evenly;
    `changes` are options that all groups get before each step.
    """
    parameters = [nn.Parameter(value.clone()) for value in values]
    given = parameters
    if groups:
        share = len(parameters) // len(groups)
        given = [{"params": parameters[i * share : (i + 1) * share], **group} for i, group in enumerate(groups)]
    made = optimizer(given, **options) if isinstance(options, dict) else optimizer(given, *options)
    after = {}
    for t, row in enumerate(gradients):
        for group in made.param_groups if changes else ():
            group.update(changes[t])
        for parameter, gradient in zip(parameters, row, strict=True):
            parameter.grad = None if gradient is None else gradient.clone()
        made.step()
        after[f"after step {t + 1}"] = [parameter.detach().clone() for parameter in parameters]
    return after


def of_both(impl, run, *args, sgd, adamw, **more):
    """What a run beside the answer gives, with each of the two optimizers."""
    there = beside(impl, run)
    return {"SGD": there(impl.SGD, *args, sgd, **more), "AdamW": there(impl.AdamW, *args, adamw, **more)}


def moved(values, after):
    """How far the parameters are from where they were, after each step."""
    return {step: [value - now for value, now in zip(values, then, strict=True)] for step, then in after.items()}


STEPS = {"T": (1, 3)}

# Stochastic gradient descent.


@check(points=1, sizes=STEPS, w=normal("2 2"), b=normal("2"), dw=normal("T 2 2"), db=normal("T 2"), lr=choice(0.1, 0.5))
def sgd_steps_against_the_gradient(impl, w, b, dw, db, lr):
    """Without momentum each step of SGD takes lr times the gradient from every parameter."""
    return beside(impl, walk)(impl.SGD, [w, b], list(zip(dw, db, strict=True)), [lr])


@check(
    points=1,
    after=sgd_steps_against_the_gradient,
    sizes=STEPS,
    w=normal("2 2"),
    b=normal("2"),
    dw=normal("T 2 2"),
    db=normal("T 2"),
    lr=choice(0.1, 0.5),
    momentum=choice(0.9, 0.5),
)
def momentum_builds_up_velocity(impl, w, b, dw, db, lr, momentum):
    """With momentum SGD moves by lr times the velocity, in which every gradient counts in full and fades with each later step."""
    return beside(impl, walk)(impl.SGD, [w, b], list(zip(dw, db, strict=True)), {"lr": lr, "momentum": momentum})


@check(
    points=1,
    after=momentum_builds_up_velocity,
    sizes=STEPS,
    w=normal("2 2"),
    b=normal("2"),
    dw=normal("T 2 2"),
    db=normal("T 2"),
    lr=choice(0.1, 0.5),
    momentum=choice(0.9, 0.5),
)
def nesterov_looks_ahead(impl, w, b, dw, db, lr, momentum):
    """With nesterov SGD moves by lr times (gradient + momentum · velocity), the velocity being that which holds this gradient already."""
    return beside(impl, walk)(impl.SGD, [w, b], list(zip(dw, db, strict=True)), [lr, momentum, True])


# Adam, and its decay.


@check(points=1, w=normal("4"), dw=normal("4"), size=choice(1.0, 1e3, 1e-3), lr=choice(0.1, 0.5))
def first_step_is_lr_long(impl, w, dw, size, lr):
    """AdamW's first step takes lr from each number whose gradient is positive and adds it where it is negative, whatever the size."""
    after = beside(impl, walk)(impl.AdamW, [w], [[dw * size]], {"lr": lr, "eps": 1e-12, "weight_decay": 0.0})
    return {"moved, in units of lr": (w - after["after step 1"][0]) / lr}


@check(
    points=2,
    after=first_step_is_lr_long,
    sizes=STEPS,
    w=normal("2 2"),
    b=normal("2"),
    dw=normal("T 2 2"),
    db=normal("T 2"),
    lr=choice(0.1, 0.5),
    betas=choice((0.9, 0.99), (0.5, 0.8)),
)
def adam_follows_running_means(impl, w, b, dw, db, lr, betas):
    """AdamW moves by lr times the running mean of the gradient over the root of that of its square, each corrected by its own beta."""
    return beside(impl, walk)(impl.AdamW, [w, b], list(zip(dw, db, strict=True)), [lr, betas, 1e-8, 0.0])


@check(
    points=1,
    after=adam_follows_running_means,
    sizes=STEPS,
    w=normal("2"),
    dw=normal("T 2"),
    lr=choice(0.1),
    betas=choice((0.8, 0.95)),
    eps=choice(0.1, 1.0),
)
def eps_is_added_to_the_root(impl, w, dw, lr, betas, eps):
    """eps is added to the root of the corrected mean of squares: not under the root, and not before the correction."""
    return beside(impl, walk)(impl.AdamW, [w], dw[:, None], {"lr": lr, "betas": betas, "eps": eps, "weight_decay": 0.0})


@check(
    points=1,
    after=first_step_is_lr_long,
    sizes=STEPS,
    w=normal("2"),
    none=normal("T 2", scale=0.0),
    lr=choice(0.1, 0.5),
    weight_decay=choice(0.2, 0.6),
)
def decay_is_no_gradient(impl, w, none, lr, weight_decay):
    """Where gradients are zero, each step of AdamW shrinks the parameter by lr · weight_decay times itself, and does nothing else."""
    return beside(impl, walk)(impl.AdamW, [w], none[:, None], {"lr": lr, "weight_decay": weight_decay})


@check(
    points=1,
    after=(decay_is_no_gradient, adam_follows_running_means),
    sizes=STEPS,
    w=normal("2"),
    dw=normal("T 2"),
    lr=choice(0.5),
    betas=choice((0.8, 0.95)),
    weight_decay=choice(0.2, 0.6),
)
def decay_stands_beside_the_step(impl, w, dw, lr, betas, weight_decay):
    """With gradients the decay is taken from the value before the step, and Adam's own step is what it is without decay."""
    return beside(impl, walk)(impl.AdamW, [w], dw[:, None], {"lr": lr, "betas": betas, "weight_decay": weight_decay})


@check(points=1, after=decay_stands_beside_the_step, w=normal("3"), dw=normal("3 3"))
def defaults_are_the_usual(impl, w, dw):
    """By default AdamW has lr 0.001, betas (0.9, 0.999), eps 1e-8 and weight_decay 0.01."""
    walks = {"zero": 0 * dw, "ordinary": dw, "tiny": dw * 1e-8}
    there = beside(impl, walk)
    seen = {f"moved by {size} gradients, times 1000": moved([w], there(impl.AdamW, [w], g[:, None], {})) for size, g in walks.items()}
    return {name: {step: 1000 * by[0] for step, by in steps.items()} for name, steps in seen.items()}


# Groups and what is remembered.


@check(
    points=1,
    after=(momentum_builds_up_velocity, decay_stands_beside_the_step),
    values=normal("6 1"),
    gradients=normal("2 6 1"),
    sgd=BOTH["sgd"],
    sgd_groups=choice([{"momentum": 0.5, "nesterov": True}, {"lr": 0.2}, {"lr": 0.05, "momentum": 0.0}]),
    adamw=BOTH["adamw"],
    adamw_groups=choice([{"weight_decay": 0.0}, {"weight_decay": 2.0, "lr": 0.3}, {"betas": (0.5, 0.6), "eps": 0.5}]),
)
def groups_have_their_own_options(impl, values, gradients, sgd, sgd_groups, adamw, adamw_groups):
    """A group's own options count for its parameters, here two each; what it leaves out is what the optimizer was made with."""
    there = beside(impl, walk)
    values, gradients = [values[0, 0], *values[1:]], [[row[0, 0], *row[1:]] for row in gradients]  # the first is a single number
    return {
        "SGD": there(impl.SGD, values, gradients, sgd, sgd_groups),
        "AdamW": there(impl.AdamW, values, gradients, adamw, adamw_groups),
    }


def from_generators(optimizer, values, gradients, options):
    """Like walk, with parameters and groups that can be gone through only once."""
    seen = {}
    for kind in ("parameters", "groups"):
        parameters = [nn.Parameter(value.clone()) for value in values]
        given = (parameter for parameter in parameters)
        if kind == "groups":
            given = ({"params": (p for p in part)} for part in (parameters[:1], [], parameters[1:]))
        made = optimizer(given, **options)
        for row in gradients:
            for parameter, gradient in zip(parameters, row, strict=True):
                parameter.grad = gradient.clone()
            made.step()
        seen[f"{kind} from a generator"] = [parameter.detach().clone() for parameter in parameters]
    return seen


@check(points=1, after=groups_have_their_own_options, sizes={"T": (1, 2)}, values=normal("3 1"), gradients=normal("T 3 1"), **BOTH)
def any_iterable_will_do(impl, values, gradients, sgd, adamw):
    """Parameters, groups and a group's "params" may come from generators, which end after one pass; and a group may be empty."""
    return of_both(impl, from_generators, values, gradients, sgd=sgd, adamw=adamw)


@check(
    points=1,
    after=(momentum_builds_up_velocity, decay_stands_beside_the_step),
    values=normal("2 2"),
    gradients=normal("4 2 2"),
    sgd=BOTH["sgd"],
    sgd_changes=choice([{}, {"lr": 0.3}, {"momentum": 0.5}, {"nesterov": True}]),
    adamw=BOTH["adamw"],
    adamw_changes=choice([{"weight_decay": 0.0}, {"lr": 0.3, "weight_decay": 1.0}, {"lr": 0.0}, {"lr": 0.2, "eps": 0.5}]),
)
def options_may_change_on_the_way(impl, values, gradients, sgd, sgd_changes, adamw, adamw_changes):
    """What is written into param_groups counts from the next step on: lr, and the other options too."""
    there = beside(impl, walk)
    return {
        "SGD": there(impl.SGD, values, gradients, sgd, changes=sgd_changes),
        "AdamW": there(impl.AdamW, values, gradients, adamw, changes=adamw_changes),
    }


@check(points=1, after=(momentum_builds_up_velocity, decay_stands_beside_the_step), values=normal("2 2"), gradients=normal("4 2 2"), **BOTH)
def without_gradient_nothing_changes(impl, values, gradients, sgd, adamw):
    """A parameter without a gradient, here the second in step 1 and the first in step 3, does not move or decay; its memory stays.

    (A gradient of zeros, here the second's in step 4, is a gradient like any other.)
    """
    rows = [list(row) for row in gradients]
    rows[0][1] = rows[2][0] = None
    rows[3][1] = 0 * rows[3][1]
    return of_both(impl, walk, values, rows, sgd=sgd, adamw=adamw)


def forget(optimizer, values, options):
    """What is left of gradients after zero_grad, and what the next backward makes of it."""
    parameters = [nn.Parameter(value.clone()) for value in values]
    used, unused, second = parameters
    made = optimizer([{"params": [used, unused]}, {"params": [second]}], **options)

    def left(parameter):
        return "none or zero" if parameter.grad is None or not parameter.grad.any() else parameter.grad.clone()

    (used.square().sum() + second.square().sum()).backward()
    made.zero_grad()
    seen = {"gradient after zero_grad": left(used), "in the second group": left(second)}
    seen["gradient that was None"] = "None" if unused.grad is None else unused.grad.clone()
    (3 * used).sum().backward()
    seen["after the next backward of 3·w"] = used.grad.clone()
    return seen


@check(points=1, after=groups_have_their_own_options, values=normal("3 2", mean=5.0), **BOTH)
def zero_grad_forgets_gradients(impl, values, sgd, adamw):
    """After zero_grad every gradient, of all groups, is None or zero; one that was None is still None."""
    return of_both(impl, forget, values, sgd=sgd, adamw=adamw)


def look_at(optimizer, value, gradient, options):
    """The parameter itself after a step, and what can be seen of it in param_groups."""
    parameter = nn.Parameter(value.clone())
    made = optimizer([parameter], **options)
    parameter.grad = gradient.clone()
    made.step()
    lists = [made.param_groups, *(group["params"] for group in made.param_groups)]
    return {
        "value": parameter.detach().clone(),
        "it is a leaf": parameter.is_leaf,
        "it requires a gradient": parameter.requires_grad,
        "what is computed from it has a graph": (2 * parameter).requires_grad,
        "it is the one in param_groups": [p is parameter for group in made.param_groups for p in group["params"]],
        "param_groups and params are lists": all(isinstance(each, list) for each in lists),
        "options in param_groups": {name: made.param_groups[0].get(name, "missing") for name in options},
    }


@check(points=1, after=groups_have_their_own_options, w=normal("2"), dw=normal("2"), **BOTH)
def parameters_move_in_place(impl, w, dw, sgd, adamw):
    """The parameter that was given is the one that moves, still a leaf; param_groups lists it, with all options by their names."""
    return of_both(impl, look_at, w, dw, sgd=sgd | {"nesterov": False}, adamw=adamw | {"eps": 1e-8})


def refill(optimizer, value, gradients, options):
    """Values and gradients after each step, where one tensor holds every gradient in turn, as with zero_grad in place."""
    parameter = nn.Parameter(value.clone())
    parameter.grad = torch.zeros_like(value)
    made = optimizer([parameter], **options)
    seen = {}
    for t, gradient in enumerate(gradients, 1):
        parameter.grad.copy_(gradient)
        made.step()
        seen[f"after step {t}"] = {"gradient": parameter.grad.clone(), "value": parameter.detach().clone()}
    return seen


@check(
    points=1, after=(momentum_builds_up_velocity, adam_follows_running_means), sizes=STEPS, w=normal("2"), gradients=normal("T 2"), **BOTH
)
def gradients_are_left_alone(impl, w, gradients, sgd, adamw):
    """step does not write to a gradient, and does not keep the tensor: the next backward may write to it."""
    nesterov = beside(impl, refill)(impl.SGD, w, gradients, sgd | {"nesterov": True})
    return of_both(impl, refill, w, gradients, sgd=sgd, adamw=adamw) | {"SGD, nesterov": nesterov}


# The state.


def relay(optimizer, values, gradients, options, stop, used):
    """Values after each step from `stop` on, made by another optimizer that has loaded the state of the first from a file.

    There are two groups, the second with an lr of its own. The other optimizer
    knows of no options; but if it is `used`, it has those of the first, and
    has made a step before.
    """
    import io

    def step(made, parameters, row):
        for parameter, gradient in zip(parameters, row, strict=True):
            parameter.grad = None if gradient is None else gradient.clone()
        made.step()

    parameters, copies = ([nn.Parameter(value.clone()) for value in values] for _ in range(2))
    made = optimizer([{"params": parameters[:1]}, {"params": parameters[1:]}], **options)
    for row in gradients[:stop]:
        step(made, parameters, row)
    made.param_groups[1]["lr"] = 0.07
    file = io.BytesIO()
    torch.save(made.state_dict(), file)
    file.seek(0)
    other = optimizer([{"params": copies[:1]}, {"params": copies[1:]}], **(options if used else {}) | {"lr": 1.0})
    if used:
        step(other, copies, gradients[-1])
    for copy, parameter in zip(copies, parameters, strict=True):
        copy.data.copy_(parameter.data)
    other.load_state_dict(torch.load(file, weights_only=True))
    after = {}
    for t, row in enumerate(gradients[stop:], stop + 1):
        step(other, copies, row)
        after[f"after step {t}"] = [copy.detach().clone() for copy in copies]
    return after


@check(
    points=2,
    after=(options_may_change_on_the_way, without_gradient_nothing_changes),
    values=normal("3 2"),
    gradients=normal("5 3 2"),
    **BOTH,
)
def saved_state_resumes_exactly(impl, values, gradients, sgd, adamw):
    """A state that torch.save has written and torch.load(weights_only=True) has read goes on in a fresh optimizer, options included."""
    rows = [list(row) for row in gradients]
    rows[0][1] = rows[1][1] = None  # nothing is remembered of one of them when the state is saved
    return of_both(impl, relay, values, rows, stop=2, used=False, sgd=sgd | {"nesterov": True}, adamw=adamw | {"eps": 0.1})


@check(points=1, after=saved_state_resumes_exactly, values=normal("3 2"), gradients=normal("4 3 2"), **BOTH)
def loading_replaces_what_was_held(impl, values, gradients, sgd, adamw):
    """An optimizer that has made steps and then loads a state holds that state and nothing of its own past."""
    rows = [list(row) for row in gradients]
    rows[0][1] = None  # nothing is remembered of one of them when the state is saved
    saved = {"saved after a step": 1, "saved before any": 0}
    return {name: of_both(impl, relay, values, rows, stop=stop, used=True, sgd=sgd, adamw=adamw) for name, stop in saved.items()}


def heirs(optimizer, values, gradients, options):
    """Two optimizers load one state, one after the other, and the one that gave it goes on before either does."""

    def run(made, parameters):
        for row in gradients[1:]:
            for parameter, gradient in zip(parameters, row, strict=True):
                parameter.grad = gradient.clone()
            made.step()
        return [parameter.detach().clone() for parameter in parameters]

    parameters = [nn.Parameter(value.clone()) for value in values]
    made = optimizer(parameters, **options)
    for parameter, gradient in zip(parameters, gradients[0], strict=True):
        parameter.grad = gradient.clone()
    made.step()
    state, saved = made.state_dict(), [parameter.detach().clone() for parameter in parameters]
    seen = {"the one that was saved goes on": run(made, parameters)}
    made.param_groups[0]["lr"] = 5.0
    for name in ("the state is loaded", "the state is loaded again"):
        copies = [nn.Parameter(value.clone()) for value in saved]
        heir = optimizer(copies, lr=1.0)
        heir.load_state_dict(state)
        seen[name] = run(heir, copies)
        heir.param_groups[0]["lr"] = 6.0
    seen["a new one for parameters of the first"] = run(optimizer(parameters, **options), parameters)
    return seen


@check(points=1, after=saved_state_resumes_exactly, values=normal("2 2"), gradients=normal("3 2 2"), **BOTH)
def state_is_a_snapshot(impl, values, gradients, sgd, adamw):
    """A state_dict stays what it was, whatever steps the optimizer that gave it, or one that loaded it, makes; a new one begins anew."""
    return of_both(impl, heirs, values, gradients, sgd=sgd, adamw=adamw)


# Who decays.


def zoo():
    """A model with parameters of many kinds."""
    model = nn.Module()
    model.embedding = nn.Embedding(5, 3)
    model.convolution = nn.Conv1d(3, 3, 2)
    model.blocks = nn.ModuleList([nn.Linear(3, 2), nn.LayerNorm(2), nn.LayerNorm(2)])  # the last two begin alike
    model.plane_norm = nn.LayerNorm((2, 3))
    model.temperature = nn.Parameter(torch.tensor(1.0))
    model.head_bias = nn.Parameter(torch.zeros(1, 3))
    model.weight = nn.Parameter(torch.zeros(3))
    model.register_buffer("table", torch.zeros(3, 3))
    return model


def tied():
    """A language model's shape: the head is the embedding, a block stands in two places, the positions and a scale are frozen."""
    model = nn.Module()
    model.embedding = nn.Embedding(5, 3)
    model.positions = nn.Embedding(4, 3).requires_grad_(False)
    model.block = nn.Sequential(nn.Linear(3, 3), nn.LayerNorm(3))
    model.block[1].weight.requires_grad_(False)
    model.same_block = model.block
    model.head = nn.Linear(3, 5)
    model.head.weight = model.embedding.weight
    return model


def decays(decay_groups, make, weight_decay):
    """For each parameter the decay of every place where it stands in the groups."""
    model = make()
    groups = decay_groups(model, weight_decay)
    lists = all(isinstance(group["params"], list) for group in groups)
    groups = [{**group, "params": list(group["params"])} for group in groups]
    own = {id(p): f"{name}, shape {tuple(p.shape)}" for name, p in model.named_parameters()}
    found = {name: [] for name in own.values()}
    strange = 0
    for group in groups:
        for p in group["params"]:
            if id(p) in own:
                found[own[id(p)]].append(group.get("weight_decay", "no weight_decay given"))
            else:
                strange += 1
    return {"weight_decay of": found, "tensors that are no parameters": strange, "params are lists": lists}


@check(points=1, weight_decay=choice(0.1, 0.3))
def two_axes_or_more_decay(impl, weight_decay):
    """Parameters with two axes or more are in a group with the weight_decay given, all others in one with 0.0, whatever their names."""
    return beside(impl, decays)(impl.decay_groups, beside(impl, zoo), weight_decay)


@check(points=1, after=two_axes_or_more_decay, weight_decay=choice(0.1, 0.3))
def each_stands_once_and_frozen_ones_nowhere(impl, weight_decay):
    """A parameter that is used in several places stands in the groups once; one that requires no gradient does not stand there."""
    return beside(impl, decays)(impl.decay_groups, beside(impl, tied), weight_decay)


def orders(decay_groups, weight_decay):
    """The order in which each of four models that are built alike finds its parameters in its groups."""
    models = [nn.ParameterList([nn.Parameter(torch.zeros([2] * (1 + i % 2))) for i in range(12)]) for _ in range(4)]
    seen = []
    for model in models:
        names = {id(p): name for name, p in model.named_parameters()}
        seen.append([[names[id(p)] for p in group["params"]] for group in decay_groups(model, weight_decay)])
    return all(order == seen[0] for order in seen)


@check(points=1, after=each_stands_once_and_frozen_ones_nowhere, weight_decay=choice(0.1, 0.3))
def order_depends_on_the_model_alone(impl, weight_decay):
    """The groups of models that are built alike list their parameters in one order, so that a saved state meets its own parameters."""
    return {"the same order in four models that are built alike": beside(impl, orders)(impl.decay_groups, weight_decay)}
