"""What right low-rank adaptation does. Layers and models to be adapted live beside the answer."""

import torch
from torch import nn

from kata.grading import (
    at_most,
    beside,
    built_in,
    check,
    choice,
    cost,
    failure,
    gradients,
    normal,
    parameters,
    seed,
    size,
    with_weights,
)

SIZES = {"I": (1, 3, 4, 5), "O": (2, 3, 4), "R": (1, 2, 3)}
ONE = {"I": (4,), "O": (3,), "R": (2,)}  # where axes are not the subject


def layer_for(impl, x, O, r, alpha, seed, dropout=0.0):
    """A LoRALinear for x, in float64, all of its weights drawn from the seed."""
    return with_weights(impl.LoRALinear(built_in(impl, "Linear", x.shape[-1], O), r, alpha, dropout), seed)


def trainable(module):
    return sorted(name for name, parameter in module.named_parameters() if parameter.requires_grad)


def same(one, other):
    return one is other


# The layer.


@check(points=1, sizes=SIZES, I=size("I"), O=size("O"), r=size("R"))
def parameters_have_their_shapes(impl, I, O, r):
    """A is (r, in), B is (out, r), and the layer that was given is kept as base, with or without a bias; there is nothing else."""
    made = {
        name: impl.LoRALinear(built_in(impl, "Linear", I, O, *bias), r, 1.0) for name, bias in {"bias": (), "no bias": (False,)}.items()
    }
    return {name: parameters(layer) for name, layer in made.items()}


@check(
    points=1,
    after=parameters_have_their_shapes,
    sizes={"L": (1, 2), "I": (4,), "O": (3, 5), "R": (2, 3)},
    x=normal("L I"),
    O=size("O"),
    r=size("R"),
)
def update_starts_at_zero(impl, x, O, r):
    """At first B is zero and A random, not zero: the layer gives what its base gives, and B can learn from the first step on."""
    layer = impl.LoRALinear(with_weights(built_in(impl, "Linear", 4, O), 1, torch.float32), r, 8.0)
    other = impl.LoRALinear(built_in(impl, "Linear", 4, O), r, 8.0)
    A = layer.A
    kinds = {
        "a row of zeros": bool((A == 0).all(-1).any()),
        "rows alike": A.unique(dim=0).shape[0] < r,
        "not finite": not A.isfinite().all(),
        "the same in every layer": bool((A == other.A).all()),
    }
    return {"B": layer.B, "A": next((kind for kind, is_so in kinds.items() if is_so), "random"), "output": layer(x.float())}


@check(points=2, sizes=SIZES, x=normal("N L I"), O=size("O"), r=size("R"), alpha=choice(0.5, 3.0, 16.0), seed=seed())
def update_is_added_and_scaled(impl, x, O, r, alpha, seed):
    """forward is base(x) + alpha / r · x Aᵀ Bᵀ, with the base's bias, for x with any number of axes before the last."""
    layer = layer_for(impl, x, O, r, alpha, seed)
    layer_for(impl, x, O, r, alpha + 1, seed + 1)  # which has nothing to do with it
    return {"(N, L, in)": layer(x), "(in,)": layer(x[0, 0]), "(1, N, L, in)": layer(x[None])}


@check(points=1, after=parameters_have_their_shapes, bias=choice(True, False))
def base_is_kept_and_frozen(impl, bias):
    """base is the very layer that was given, not a copy; weight and bias of it no longer require gradients, A and B do."""
    base = built_in(impl, "Linear", 4, 3, bias)
    layer = impl.LoRALinear(base, 2, 1.0)
    return {"trainable": beside(impl, trainable)(layer), "base is the layer given": beside(impl, same)(layer.base, base)}


@check(
    points=1,
    after=(update_is_added_and_scaled, base_is_kept_and_frozen),
    sizes=ONE,
    x=normal("N I"),
    O=size("O"),
    r=size("R"),
    seed=seed(),
)
def gradients_reach_the_update_alone(impl, x, O, r, seed):
    """Gradients flow to A, to B and through both ways to x; parameters of the base get none."""
    return gradients(layer_for(impl, x, O, r, 3.0, seed), x, seed=seed)


@check(points=1, after=parameters_have_their_shapes)
def rank_below_one_is_refused(impl):
    """A rank less than 1 raises ValueError."""
    return {f"r = {r}": failure(impl.LoRALinear, built_in(impl, "Linear", 4, 3), r, 1.0)[0] for r in (0, -1)}


@check(points=1, after=update_starts_at_zero)
def update_has_the_dtype_of_the_base(impl):
    """A and B are made in the dtype of the base's weight, and so is the output."""
    seen = {}
    for name, dtype in {"float64": torch.float64, "bfloat16": torch.bfloat16}.items():
        layer = impl.LoRALinear(with_weights(built_in(impl, "Linear", 4, 3), 1, dtype), 2, 1.0)
        seen[name] = {"A · 0": layer.A * 0, "B": layer.B, "output": layer(torch.ones(2, 4, dtype=dtype))}
    return seen


@check(points=1, after=update_is_added_and_scaled, compare=at_most(1.25, least=0.9), M=choice(32))
def update_costs_little(impl, M):
    """The update goes through r numbers for each token: B A, as large as the weight, is not made; once merged it costs nothing."""
    x = torch.linspace(-1, 1, 2 * M, dtype=torch.float64).view(2, M)
    layer = layer_for(impl, x, M, 2, 1.0, 0)
    found = {"forward": cost(layer, x)}
    layer.merge()
    return found | {"forward, merged": cost(layer, x)}


def sums(LoRALinear, dropout):
    """For 1, 2, 4 … 32 as the input: what the update lets through of it, in training, by its gradient, and in evaluation."""
    base = nn.Linear(6, 1, bias=False)
    layer = LoRALinear(base, 1, 2.0, dropout)
    with torch.no_grad():
        base.weight.fill_(100.0)
        layer.A.fill_(1.0)
        layer.B.fill_(1.0)
    x = (2.0 ** torch.arange(6)).repeat(20, 10, 1).requires_grad_()
    trained, again, evaluated = layer.train()(x), layer(x), layer.eval()(x)
    slopes = torch.autograd.grad(trained.sum(), x)[0] - 100
    found = trained - base(x), (slopes * x).sum(-1, keepdim=True), evaluated - base(x), again - trained
    return [each.detach().flatten(0, 1) / 2 for each in found]


@check(points=1, after=update_is_added_and_scaled, dropout=choice(0.25, 0.5), draws=2)
def dropout_is_for_the_updates_input(impl, dropout):
    """In training, numbers of the update's input are dropped, each by itself, and others divided by 1 - dropout; base(x) is whole.

    (The input is 1, 2, 4, 8, 16, 32, and A and B are ones, so the sum tells which of them were kept.)
    """
    trained, by_gradient, evaluated, difference = beside(impl, sums)(impl.LoRALinear, dropout)
    kept = trained[:, 0].double() * (1 - dropout)
    whole = bool(((kept - kept.round()).abs() < 0.01).all() and (kept > -0.01).all() and (kept < 63.01).all())
    share = (kept.round().long().clamp(0, 63)[:, None] >> torch.arange(6) & 1).double().mean(0)
    return {
        "kept numbers are divided by 1 - dropout": whole,
        "each is dropped by itself": kept.unique().numel() > 24,
        "others in the next call": bool((difference.abs() > 0.1).any()),
        "share of dropped numbers": "dropout" if bool(((1 - share) - dropout).abs().max() < 0.2) else "another",
        "gradient": "through the kept numbers"
        if bool(((by_gradient - trained).abs() < 0.05).all())
        else "not through the kept numbers alone",
        "update in evaluation": evaluated[0],
    }


@check(points=1, after=update_is_added_and_scaled, sizes=ONE | {"N": (2,)}, x=normal("N I"), O=size("O"), seed=seed())
def dropout_of_everything_leaves_the_base(impl, x, O, seed):
    """With dropout=1 the update and its gradients are zero in training, and whole in evaluation; what the base gives is always whole."""
    layer = layer_for(impl, x, O, 2, 3.0, seed, dropout=1.0)
    layer.train()
    found = {"in training": layer(x), "gradients": gradients(layer, x, seed=seed)}
    layer.eval()
    return found | {"in evaluation": layer(x)}


# Merging.


@check(
    points=2,
    after=update_is_added_and_scaled,
    sizes=SIZES,
    x=normal("N I"),
    O=size("O"),
    r=size("R"),
    alpha=choice(0.5, 3.0, 16.0),
    seed=seed(),
)
def merging_folds_the_update_in(impl, x, O, r, alpha, seed):
    """After merge() the weight of base has alpha / r · B A added, and forward gives the same as before, without adding it twice."""
    layer = layer_for(impl, x, O, r, alpha, seed)
    layer.merge()
    return {"base.weight": layer.base.weight, "forward": layer(x)}


def seen(layer, x):
    return {"base.weight": layer.base.weight, "forward": layer(x)}


@check(points=1, after=merging_folds_the_update_in, sizes=ONE | {"N": (2,)}, x=normal("N I"), O=size("O"), seed=seed())
def unmerging_restores_the_weight(impl, x, O, seed):
    """After unmerge() weight and forward are what they were before merge(), A and B learn again, and what they learned is merged next."""
    layer = layer_for(impl, x, O, 2, 3.0, seed)
    layer.merge()
    layer.unmerge()
    found = {"merged, unmerged": seen(layer, x), "gradients": gradients(layer, x, seed=seed)["parameters"]}
    with_weights(layer, seed + 1)
    layer.merge()
    return found | {"and merged again, with other A and B": seen(layer, x)}


@check(points=1, after=merging_folds_the_update_in, sizes=ONE | {"N": (2,)}, x=normal("N I"), O=size("O"), seed=seed())
def merging_twice_changes_nothing(impl, x, O, seed):
    """merge() of what is merged and unmerge() of what is not change nothing; nor does either change another layer."""
    layer, other = (layer_for(impl, x, O, 2, 3.0, seed + i) for i in (0, 1))
    layer.unmerge()
    found = {"unmerged at first": seen(layer, x)}
    layer.merge()
    layer.merge()
    found |= {"merged twice": seen(layer, x), "another layer": seen(other, x)}
    layer.unmerge()
    layer.unmerge()
    return found | {"unmerged twice": seen(layer, x)}


@check(points=1, after=merging_folds_the_update_in, sizes=ONE | {"N": (2,)}, x=normal("N I"), O=size("O"), seed=seed())
def merged_layer_drops_nothing(impl, x, O, seed):
    """While it is merged, forward is base(x) in training as in evaluation: there is no dropout, also with dropout=0.5.

    (train() and eval() neither merge nor unmerge.)
    """
    layer = layer_for(impl, x, O, 2, 3.0, seed, dropout=0.5)
    layer.train()
    layer.merge()
    found = {"merged, in training": layer(x), "trainable": beside(impl, trainable)(layer)}
    layer.eval()
    layer.train()
    found |= {"merged, in training again": seen(layer, x), "gradients to x": gradients(layer, x, seed=seed)["inputs"]}
    layer.unmerge()
    layer.eval()
    return found | {"unmerged, in evaluation": seen(layer, x)}


# The model.


def toy(D):
    """A model with linear layers called q_proj, proj, 0, 2 and lm_head, and with parameters A and B of its own."""

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = nn.LayerNorm(D)
            self.q_proj = nn.Linear(D, D + 1, bias=False)
            self.proj = nn.Linear(D + 1, D)
            self.A = nn.Parameter(torch.ones(D))

        def forward(self, x):
            return x + self.A * self.proj(torch.tanh(self.q_proj(self.norm(x))))

    class Toy(nn.Module):
        def __init__(self):
            super().__init__()
            self.blocks = nn.ModuleList([Block(), Block()])
            self.mlp = nn.Sequential(nn.Linear(D, 3), nn.Tanh(), nn.Linear(3, D))
            self.A, self.B = nn.Parameter(torch.ones(D)), nn.Parameter(torch.zeros(D))  # as a LoRALinear, which this is not
            self.lm_head = nn.Linear(D, 5)

        def forward(self, x):
            for block in self.blocks:
                x = block(x)
            return self.lm_head(self.A * x + self.mlp(x) + self.B)

    return Toy()


CASES = ["q_proj"], ["proj", "0"], ["lm_head", "q_proj"], ["2", "not_there", "norm"]
NAMES = choice(*CASES)


def adapted(impl, D, names, r=2, alpha=3.0):
    """A toy model and what add_lora returned for it."""
    model = beside(impl, toy)(D)
    return model, impl.add_lora(model, names, r, alpha)


def called_base():
    return nn.Sequential(nn.ModuleDict({"base": nn.Linear(4, 3), "out": nn.Linear(3, 4)}))


def with_a_set(add_lora, model, names):
    return add_lora(model, frozenset(names), 2, 3.0)


@check(points=2, after=parameters_have_their_shapes)
def layers_are_chosen_by_name(impl):
    """add_lora replaces every nn.Linear that its parent holds under one of the names, anywhere in the tree, and nothing else.

    The name is to be equal: "proj" is not "q_proj".
    """
    seen = {f"names {names}": parameters(adapted(impl, 4, names)[0]) for names in CASES}
    model = beside(impl, called_base)()
    beside(impl, with_a_set)(impl.add_lora, model, ["base", "q_proj"])
    return seen | {"names {'base', 'q_proj'}, a set": parameters(model)}


@check(points=1, after=layers_are_chosen_by_name, names=NAMES, r=choice(1, 3), draws=4)
def all_else_is_frozen(impl, names, r):
    """After add_lora only the A's and B's can be trained: no other layer, no bias, no norm. It returns how many numbers they hold."""
    model, count = adapted(impl, 4, names, r)
    return {"returned": count, "trainable": beside(impl, trainable)(model)}


@check(
    points=1,
    after=(layers_are_chosen_by_name, update_is_added_and_scaled),
    sizes={"N": (2,)},
    x=normal("N 4"),
    names=NAMES,
    seed=seed(),
    draws=2,
)
def model_is_adapted_with_r_and_alpha(impl, x, names, seed):
    """add_lora keeps the layers' weights, so at first the model gives what it gave; r and alpha are those of every LoRALinear."""
    model = with_weights(beside(impl, toy)(4), seed)
    impl.add_lora(model, names, 2, 3.0)
    found = {"at first": model(x)}
    return found | {"with some A and B": with_weights(model, seed)(x)}


@check(points=1, after=all_else_is_frozen)
def no_choice_is_refused(impl):
    """If no nn.Linear has one of the names, add_lora raises ValueError and leaves the model as it was: nothing is frozen."""
    seen = {}
    for names in (["k_proj"], ["lm", "proj_"], ["blocks", "norm"], ["blocks.0.proj"]):
        model = beside(impl, toy)(4)
        kind = failure(impl.add_lora, model, names, 2, 3.0)[0]
        seen[f"names {names}"] = {"raised": kind, "trainable afterwards": beside(impl, trainable)(model)}
    return seen


@check(points=1, after=all_else_is_frozen, r=choice(1, 3))
def nothing_is_adapted_twice(impl, r):
    """A second add_lora adapts other layers; adapted ones stay as they are, trainable and counted, and their base is left alone."""
    model, _ = adapted(impl, 4, ["q_proj"])
    again = failure(impl.add_lora, model, ["q_proj", "base"], r, 1.0)[0]
    count = impl.add_lora(model, ["q_proj", "base", "lm_head"], r, 1.0)
    return {
        "the same names again": again,
        "returned for another name": count,
        "parameters": parameters(model),
        "trainable": beside(impl, trainable)(model),
    }


@check(points=1, after=layers_are_chosen_by_name, names=NAMES, seed=seed(), draws=2)
def state_holds_the_updates_alone(impl, names, seed):
    """lora_state_dict gives the A and B of each LoRALinear under their dotted names; a parameter of the model called A or B is none."""
    model, _ = adapted(impl, 4, names)
    layer = with_weights(impl.LoRALinear(built_in(impl, "Linear", 4, 3), 2, 1.0), seed)
    found = {"of a model": impl.lora_state_dict(with_weights(model, seed)), "of a layer": impl.lora_state_dict(layer)}
    layer.merge()
    return found | {"of a merged layer": impl.lora_state_dict(layer)}


def carried_over(lora_state_dict, source, target):
    """Loads what one model has learned into another."""
    state = lora_state_dict(source)
    found = target.load_state_dict({name: tensor.clone() for name, tensor in state.items()}, strict=False)
    return {"unexpected": list(found.unexpected_keys), "part of a graph": [name for name, tensor in state.items() if tensor.requires_grad]}


@check(points=1, after=state_holds_the_updates_alone, sizes={"N": (2,)}, x=normal("N 4"), names=NAMES, seed=seed())
def state_loads_into_another_model(impl, x, names, seed):
    """load_state_dict(..., strict=False) puts the state into another model with the same layers adapted; its tensors are in no graph."""
    source, target = (with_weights(adapted(impl, 4, names)[0], seed + i) for i in (0, 1))
    found = beside(impl, carried_over)(impl.lora_state_dict, source, target)
    return found | {"output of the other model": target(x)}
