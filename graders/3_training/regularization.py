"""What right dropout, drop path, label smoothing and averaged weights do.

Generators and models must live beside the answer; the draw is fixed by the
contract, so that masks can be compared number by number.
"""

import torch
from torch import nn

from kata.grading import beside, check, choice, failure, gradients, indices, inputs_after, normal, seed, size

HALF = choice(torch.float16, torch.bfloat16)
RATE = choice(0.1, 0.5, 0.7)


def generator_from(seed):
    """A generator of one's own."""
    return torch.Generator().manual_seed(seed)


def first_drawn(seed):
    """The first number that torch.rand draws from such a generator."""
    return torch.rand(1, generator=torch.Generator().manual_seed(seed)).item()


def with_global_seed(function, seed, *args):
    """A call after the global generator was seeded, and the numbers that come from that next."""
    torch.manual_seed(seed)
    result = function(*args)
    return result, torch.rand(3)


def transposed(function, x, *args):
    """A call on x as a view of its transpose, as attention's heads come."""
    return function(x.mT.contiguous().mT, *args)


# Dropout.


@check(points=1, sizes={"B": (2, 3), "M": (8, 5)}, shape=normal("B M"), p=RATE, seed=seed())
def dropout_keeps_where_the_draw_is_at_least_p(impl, shape, p, seed):
    """In training what is kept lies where torch.rand(x.shape, generator=generator) >= p; the next call draws on."""
    generator, x = beside(impl, generator_from)(seed), torch.ones_like(shape)
    calls = [impl.dropout(x, p, True, generator), impl.dropout(x, p, training=True, generator=generator)]
    drawn = float(beside(impl, first_drawn)(seed))
    tie = impl.dropout(x, drawn, True, beside(impl, generator_from)(seed))
    return {f"kept in call {i}": kept != 0 for i, kept in enumerate(calls, 1)} | {"where p is the first number drawn": tie != 0}


@check(points=1, after=dropout_keeps_where_the_draw_is_at_least_p, x=normal("B L M"), p=RATE, seed=seed())
def what_is_kept_is_divided(impl, x, p, seed):
    """What is kept is divided by 1 - p, so that nothing changes on average; what is dropped is zero. Any shape and view will do."""
    generator = beside(impl, generator_from)(seed)
    kept = [impl.dropout(part, p, True, generator) for part in (x, x[0, 0], x[0, 0, 0])]
    return [*kept, beside(impl, transposed)(impl.dropout, x, p, True, generator)]


# Drop path.


@check(points=1, sizes={"B": (8, 12)}, B=size("B"), p=RATE, seed=seed())
def drop_path_drops_whole_samples(impl, B, p, seed):
    """drop_path keeps or drops each sample as a whole, by one number for each: sample b is kept where torch.rand(B)[b] >= p."""
    generator, x = beside(impl, generator_from)(seed), torch.ones(B, 2, 3, dtype=torch.float64)
    drawn = float(beside(impl, first_drawn)(seed))
    tie = impl.drop_path(x, drawn, True, beside(impl, generator_from)(seed))
    return {
        "kept": impl.drop_path(x, p, training=True, generator=generator) != 0,
        "where p is the first number drawn": tie != 0,
    }


@check(points=1, after=drop_path_drops_whole_samples, sizes={"B": (3, 6)}, x=normal("B L M"), p=RATE, seed=seed())
def kept_samples_are_divided(impl, x, p, seed):
    """A sample that is kept is divided by 1 - p; x may have any number of axes from one up, and the next call draws on."""
    generator = beside(impl, generator_from)(seed)
    return [impl.drop_path(part, p, True, generator) for part in (x, x, x[..., 0], x[:, 0, 0], x[:, None])]


# What both have in common.

BOTH = (what_is_kept_is_divided, kept_samples_are_divided)


def of_both(impl, ask):
    return {"dropout": ask(impl.dropout), "drop_path": ask(impl.drop_path)}


@check(points=1, after=BOTH, sizes={"B": (3,), "M": (2,)}, x=normal("B M"), p=choice(0.5, 1.0), seed=seed())
def evaluation_changes_nothing(impl, x, p, seed):
    """When training is false x comes back as it is, with its gradients, and no generator has moved."""
    there = beside(impl, with_global_seed)

    def ask(function):
        generator = beside(impl, generator_from)(seed)
        calls = {"with None": there(function, seed, x, p, False), "with a generator": there(function, seed, x, p, False, generator)}
        draw = function(torch.ones(9, 1), 0.5, True, generator) != 0
        return calls | {"the generator's next draw": draw, "gradients": gradients(function, x, p, False, seed=seed)["inputs"]}

    return of_both(impl, ask)


@check(points=1, after=BOTH, sizes={"B": (4,), "M": (3,)}, x=normal("B M"), p=RATE, seed=seed())
def generator_alone_is_drawn_from(impl, x, p, seed):
    """With a generator the global one is not touched; without one the draw is the global generator's, as torch.manual_seed set it."""
    there = beside(impl, with_global_seed)

    def ask(function):
        generator = beside(impl, generator_from)(seed + 1)
        given, after = there(function, seed, x, p, True, generator)
        return {"global generator after a draw from another": after, "given": given, "without one": there(function, seed, x, p, True)}

    return of_both(impl, ask)


@check(points=1, after=BOTH, sizes={"B": (1, 4), "M": (3,)}, x=normal("B M"), seed=seed())
def extremes_are_exact(impl, x, seed):
    """With p = 0 all is kept as it is; with p = 1 all is zero, not NaN, and so are the gradients."""

    def ask(function):
        grads = gradients(function, x, 1.0, True, seed=seed)["inputs"]
        return {"p = 0": function(x, 0.0, True), "p = 1": function(x, 1.0, True), "gradient at p = 1": grads}

    return of_both(impl, ask)


@check(points=1, after=BOTH, p=choice(-0.1, -1.0), above=choice(1.1, 2.0))
def p_outside_raises(impl, p, above):
    """p below 0 or above 1 raises ValueError in training."""
    x = torch.ones(2, 3)
    return of_both(impl, lambda function: {str(bad): failure(function, x, bad, True)[0] for bad in (p, above)})


@check(points=1, after=BOTH, sizes={"B": (4, 7), "M": (3, 2)}, x=normal("B M"), p=RATE, seed=seed())
def gradients_flow_through_what_is_kept(impl, x, p, seed):
    """The gradient is 1 / (1 - p) times the upstream one where x was kept, and zero where it was dropped."""
    make = beside(impl, generator_from)
    return of_both(impl, lambda function: gradients(function, x, p, True, make(seed), seed=seed)["inputs"])


@check(points=1, after=BOTH, sizes={"B": (4,), "M": (3,)}, x=normal("B M"), p=RATE, dtype=HALF, seed=seed())
def dtype_and_input_stay(impl, x, p, dtype, seed):
    """The result has the dtype of x, in half precision too, and x itself is not changed."""
    make = beside(impl, generator_from)

    def ask(function):
        return {
            "result": function(x.to(dtype), p, True, make(seed)),
            "in float32": function(x.float(), p, True, make(seed)),
            "x afterwards": inputs_after(function, x, p, True)[0],
        }

    return of_both(impl, ask)


# Smoothed targets.


@check(points=1, sizes={"V": (2, 3, 5)}, targets=indices("B", below="V"), V=size("V"), epsilon=choice(0.1, 0.3))
def epsilon_is_shared_by_all(impl, targets, V, epsilon):
    """Each of the V classes gets epsilon / V, and the right one 1 - epsilon besides; every row sums to one, in float32."""
    return impl.smooth_targets(targets, V, epsilon)


@check(points=1, after=epsilon_is_shared_by_all, sizes={"V": (1, 2, 5)}, targets=indices("A B L", below="V"), V=size("V"))
def smoothing_has_its_limits(impl, targets, V):
    """epsilon 0 gives one-hot rows, epsilon 1 the same to all classes; targets may have any shape, and are not changed."""
    return {
        "epsilon 0": impl.smooth_targets(targets, V, 0.0),
        "epsilon 1": impl.smooth_targets(targets[0, 0], num_classes=V, epsilon=1.0),
        "a single target": impl.smooth_targets(targets[0, 0, 0], V, 0.2),
        "targets afterwards": inputs_after(impl.smooth_targets, targets, V, 0.1)[0],
    }


# Averaged weights.


def follow(EMA, decay, weights):
    """What a fresh model gets from the average before any update and after each, while the model goes through the weights."""

    def model(weight):
        made = nn.Linear(weight.shape[0], 1, bias=False, dtype=weight.dtype)
        made.weight.data.copy_(weight)
        return made

    followed = model(weights[0])
    ema = EMA(followed, decay)
    seen = []
    for weight in weights:
        followed.weight.data.copy_(weight)
        if len(seen):
            ema.update(followed)
        fresh = model(torch.full_like(weight, 9.0))
        ema.copy_to(fresh)
        seen.append(fresh.weight.detach()[0].clone())
    return {("before any update" if i == 0 else f"after update {i}"): average for i, average in enumerate(seen)}


@check(points=2, sizes={"T": (2, 4), "M": (1, 3)}, weights=normal("T M"), decay=choice(0.9, 0.5))
def average_follows_the_weights(impl, weights, decay):
    """The average begins with the first weights, and each update makes it decay · average + (1 - decay) · weights; decay is 0 to 1."""
    seen = beside(impl, follow)
    return {f"decay {share}": seen(impl.EMA, share, weights) for share in (decay, 0.0, 1.0)}


def normalised(EMA, values, counts):
    """Buffers of many kinds, one of them in a module within, as a fresh model gets them after two updates."""

    def model(value, count):
        made = nn.Linear(1, 1)
        made.register_buffer("running_mean", value.clone())
        made.register_buffer("num_batches", torch.tensor(count))
        made.register_buffer("seen", torch.tensor(count % 2 == 1))
        made.within = nn.Module()
        made.within.register_buffer("running_mean", -value)
        return made

    models = [model(value, count) for value, count in zip(values, counts, strict=True)]
    ema = EMA(models[0], 0.5)
    ema.update(models[1])
    ema.update(models[2])
    ema.copy_to(models[3])
    return dict(models[3].named_buffers())


@check(points=1, after=average_follows_the_weights, running_means=normal("4 2"), counts=choice([0, 3, 7, 20], [1, 2, 10, 31]))
def buffers_are_copied(impl, running_means, counts):
    """Buffers are copied as they were at the last update, not averaged: integers, booleans, and those of modules within."""
    return beside(impl, normalised)(impl.EMA, running_means, counts)


def tied(EMA, weights, decay):
    """Averages of a model whose head is its embedding, and whose scale is frozen."""

    def model(weight):
        made = nn.Module()
        made.embedding = nn.Embedding(2, 2, dtype=weight.dtype)
        made.embedding.weight.data.copy_(weight.view(2, 2))
        made.scale = nn.Parameter(weight[:1].clone(), requires_grad=False)
        made.head = nn.Linear(2, 2, bias=False)
        made.head.weight = made.embedding.weight
        return made

    models = [model(weight) for weight in weights]
    ema = EMA(models[0], decay)
    ema.update(models[1])
    ema.update(models[2])
    ema.copy_to(models[3])
    named = models[3].named_parameters(remove_duplicate=False)
    seen = {name if p.requires_grad else f"{name}, frozen": p.detach().clone() for name, p in named}
    return seen | {"head and embedding are one": models[3].head.weight is models[3].embedding.weight}


@check(points=1, after=average_follows_the_weights, weights=normal("4 4"), decay=choice(0.9, 0.5))
def tied_and_frozen_ones_are_averaged_once(impl, weights, decay):
    """A parameter that is used in two places is averaged once; one that requires no gradient is averaged like all others."""
    return beside(impl, tied)(impl.EMA, weights, decay)


def look_at(EMA, weights):
    """The model after an update, and after it was given the average."""
    model = nn.Linear(2, 1, dtype=weights.dtype)
    model.weight.data.copy_(weights[0])
    model.bias.requires_grad_(False)
    weight = model.weight
    ema = EMA(model, 0.5)
    model.weight.data.copy_(weights[1])
    model.weight.grad = torch.ones_like(model.weight)
    ema.update(model)
    seen = {"weight after update": model.weight.detach().clone(), "graphs are recorded after update": torch.is_grad_enabled()}
    ema.copy_to(model)
    seen |= {
        "graphs are recorded after copy_to": torch.is_grad_enabled(),
        "weight after copy_to": model.weight.detach().clone(),
        "the same Parameter": model.weight is weight,
        "requires_grad of weight and bias": [model.weight.requires_grad, model.bias.requires_grad],
        "a leaf": model.weight.is_leaf,
        "its gradient": None if model.weight.grad is None else model.weight.grad.clone(),
    }
    for training, mode in ((True, "training mode"), (False, "evaluation mode")):
        model.train(training)
        ema.update(model)
        kept = [model.training is training]
        ema.copy_to(model)
        seen[f"stays in {mode} after update and copy_to"] = [*kept, model.training is training]
    return seen


@check(points=1, after=average_follows_the_weights, weights=normal("2 2"))
def model_is_changed_by_copy_to_alone(impl, weights):
    """update leaves the model alone; copy_to changes values only: same Parameter objects, with requires_grad and gradient, same mode."""
    return beside(impl, look_at)(impl.EMA, weights)


def part(EMA, weights):
    """What a fresh model gets from the average, after models that it was made from, given or copied to went on."""

    def model(weight):
        made = nn.Linear(2, 1, bias=False, dtype=weight.dtype)
        made.register_buffer("running_mean", weight.clone())
        made.weight.data.copy_(weight)
        return made

    def go_on(made):
        made.weight.data.add_(100.0)
        made.running_mean.add_(100.0)

    def given(ema):
        made = model(torch.zeros_like(weights[0]))
        ema.copy_to(made)
        return made

    def values(made):
        return {"weight": made.weight.detach()[0].clone(), "buffer": made.running_mean.clone()}

    seen, first = {}, model(weights[0])
    ema = EMA(first, 0.5)
    go_on(first)
    seen["the model that it was made of went on"] = values(given(ema))
    EMA(model(torch.full_like(weights[0], 7.0)), 0.25)
    seen["another average was made"] = values(given(ema))
    second = model(weights[1])
    ema.update(second)
    go_on(second)
    seen["the model of the last update went on"] = values(given(ema))
    go_on(given(ema))
    seen["a model that it was copied to went on"] = values(given(ema))
    return seen


@check(points=1, after=buffers_are_copied, weights=normal("2 2"))
def average_is_its_own(impl, weights):
    """Whatever is done in place to a model, before or after update and copy_to, does not reach into the average; nor do others."""
    return beside(impl, part)(impl.EMA, weights)


def reached(EMA, weight):
    """What can be reached from an average after updates in a training loop: how many tensors with a graph, and whether the model."""
    import gc

    model = nn.Linear(2, 1)
    ema = EMA(model, 0.5)
    for _ in range(2):
        model(weight).sum().backward()
        ema.update(model)
    waiting, seen, graphs = [ema], set(), 0
    while waiting:
        thing = waiting.pop()
        if id(thing) in seen:
            continue
        seen.add(id(thing))
        if isinstance(thing, torch.Tensor):
            graphs += thing.grad_fn is not None
        elif isinstance(thing, dict):
            waiting += thing.values()
        elif isinstance(thing, (list, tuple, set)):
            waiting += thing
        elif isinstance(thing, (nn.Module, type(ema))):
            waiting += gc.get_referents(thing)  # its attributes, in a __dict__ or in slots
    own = [model, *model.parameters()]
    return {"tensors with a graph": graphs, "the model, or parameters of it": any(id(thing) in seen for thing in own)}


@check(points=1, after=average_follows_the_weights, weight=normal("1 2", dtype=torch.float32))
def neither_graph_nor_model_is_kept(impl, weight):
    """The average holds no autograd graph, or memory would grow with every update, and not the model that it was made of."""
    return beside(impl, reached)(impl.EMA, weight)
