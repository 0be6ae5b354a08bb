"""What right losses and right inputs for teacher forcing do."""

import torch

from kata.grading import beside, booleans, check, choice, close, failure, gradients, held, index, indices, inputs_after, normal, seed

FEW = {"B": (1, 2, 3), "L": (1, 3, 4), "V": (2, 3, 5)}
ONE = {"B": (2,), "L": (4,), "V": (2, 3)}
KINDS = {"float64": torch.Tensor.double, "float32": torch.Tensor.float}
ROUNDED = close(rtol=1e-6, atol=2e-3)  # what float32 may round where scores are 1e4
STEPS = 100 / 64  # a scale that makes hundredths steps of 1/64, which float32 holds beside 1e4


def tracked(logits):
    """Logits that want a gradient."""
    return logits.requires_grad_()


# Log-softmax.


@check(points=1, x=normal("B L V", scale=3.0), dim=choice(-1, 0, 1, -2), draws=2)
def log_softmax_is_the_log_of_the_softmax(impl, x, dim):
    """log_softmax(x, dim) is the logarithm of exp(x) over its sum along dim, for any axis."""
    return impl.log_softmax(x, dim)


@check(
    points=1,
    after=log_softmax_is_the_log_of_the_softmax,
    compare=ROUNDED,
    sizes={"L": (2, 3), "V": (2, 5)},
    x=normal("L V", scale=STEPS),
    high=booleans("L V"),
    scale=choice(1.0, 256.0),
    draws=2,
)
def log_softmax_holds_at_extremes(impl, x, high, scale):
    """log_softmax is finite and right for scores around ±1e4: whole slices (x · scale ± 1e4), or x + 1e4 where high, else x - 1e4."""
    near = x * scale + 1e4
    near[0] -= 2e4
    cases = {"whole slices": near, "within a slice": x + torch.where(high, 1e4, -1e4)}
    seen = {f"{name}, {kind}": impl.log_softmax(to(x), -1) for name, x in cases.items() for kind, to in KINDS.items()}
    return seen | {"whole slices, along the first axis": impl.log_softmax(near.T, 0)}


@check(points=1, after=log_softmax_is_the_log_of_the_softmax, sizes=FEW, x=normal("L V"), dim=choice(0, -1), seed=seed())
def log_softmax_has_the_right_gradient(impl, x, dim, seed):
    """The gradient of log_softmax is right, that through the sum too."""
    return gradients(impl.log_softmax, x, dim, seed=seed)["inputs"][0]


# Cross-entropy.


@check(points=2, sizes=FEW, logits=normal("B L V", scale=3.0), targets=indices("B L", below="V"))
def cross_entropy_is_the_mean_of_minus_log_p(impl, logits, targets):
    """cross_entropy is the mean, over all targets, of minus the log of the probability that the softmax of the logits gives the target."""
    return impl.cross_entropy(logits, targets)


@check(
    points=1,
    after=cross_entropy_is_the_mean_of_minus_log_p,
    sizes={"A": (2,), "B": (3,), "L": (1, 4), "V": (5,)},
    logits=normal("A B L V"),
    targets=indices("A B L", below="V"),
)
def cross_entropy_takes_any_leading_axes(impl, logits, targets):
    """There may be any number of axes before the last, none included: logits (V,) come with a single target of shape ()."""
    places = {"(V,)": (0, 0, 0), "(N, V)": (0, 0), "(A, B, L, V)": ()}
    return {name: impl.cross_entropy(logits[place], targets[place]) for name, place in places.items()}


@check(
    points=2,
    after=cross_entropy_is_the_mean_of_minus_log_p,
    sizes={"B": (1, 2, 3), "L": (2, 3, 4), "V": (2, 3, 5)},
    logits=normal("B L V", scale=3.0),
    targets=indices("B L", below="V"),
    ignored=booleans("B L"),
    pad=index("V"),
)
def ignored_targets_do_not_count(impl, logits, targets, ignored, pad):
    """A target equal to ignore_index, -100 if not given and maybe a class, counts neither in the sum nor in the number of tokens.

    (Of the first two targets one is ignored, the other is not.)
    """
    ignored[0, 0], ignored[0, 1] = True, False
    targets[0, 1] = (pad + 1) % logits.shape[-1]
    others = targets.masked_fill(ignored, -100)
    return {
        "ignore_index not given": impl.cross_entropy(logits, others),
        "ignore_index=-1": impl.cross_entropy(logits, others.clamp(min=-1), ignore_index=-1),
        f"ignore_index={pad}": impl.cross_entropy(logits, others.where(others >= 0, pad), pad),
        "ignore_index=1000": impl.cross_entropy(logits, others.where(others >= 0, 1000), 1000),
    }


@check(
    points=1,
    after=cross_entropy_is_the_mean_of_minus_log_p,
    sizes={"B": (2,), "L": (1, 3), "V": (2, 3, 5)},
    logits=normal("B L V", scale=3.0),
    targets=indices("B L", below="V"),
    smoothing=choice(0.1, 0.4),
)
def smoothing_gives_every_class_its_share(impl, logits, targets, smoothing):
    """With label_smoothing=ε, from 0 to 1, every class, the target too, is wanted with ε / V, and the target with 1 - ε on top."""
    return {f"ε = {e:g}": impl.cross_entropy(logits, targets, label_smoothing=e) for e in (smoothing, 1.0)}


@check(
    points=1,
    after=(ignored_targets_do_not_count, smoothing_gives_every_class_its_share),
    sizes=ONE,
    logits=normal("B L V", scale=3.0),
    targets=indices("B L", below="V"),
    ignored=booleans("B L"),
    pad=index("V"),
)
def smoothing_is_for_targets_that_count(impl, logits, targets, ignored, pad):
    """With both, an ignored target costs nothing at all; ε / V still goes to every class, also to one that is the ignore_index."""
    ignored[0, 0], ignored[0, 1] = True, False
    targets[0, 1] = (pad + 1) % logits.shape[-1]
    return {
        "ignore_index=-100": impl.cross_entropy(logits, targets.masked_fill(ignored, -100), label_smoothing=0.3),
        f"ignore_index={pad}": impl.cross_entropy(logits, targets.masked_fill(ignored, pad), pad, 0.3),
        "ignore_index=1000": impl.cross_entropy(logits, targets.masked_fill(ignored, 1000), 1000, 0.3),
    }


@check(
    points=1,
    after=cross_entropy_is_the_mean_of_minus_log_p,
    sizes=ONE,
    logits=normal("B L V", scale=3.0),
    targets=indices("B L", below="V"),
    ignored=booleans("B L"),
    seed=seed(),
)
def cross_entropy_has_the_right_gradient(impl, logits, targets, ignored, seed):
    """The gradient that flows back to the logits is right: plain, with ignored targets, and with smoothing."""
    ignored[0, 0], ignored[0, 1] = True, False
    some = targets.masked_fill(ignored, -100)
    return {
        "plain": gradients(impl.cross_entropy, logits, targets, seed=seed)["inputs"][0],
        "some ignored": gradients(impl.cross_entropy, logits, some, seed=seed)["inputs"][0],
        "some ignored, smoothed": gradients(impl.cross_entropy, logits, some, label_smoothing=0.2, seed=seed)["inputs"][0],
    }


@check(
    points=1,
    after=cross_entropy_has_the_right_gradient,
    compare=ROUNDED,
    sizes={"L": (3, 4), "V": (2, 3)},
    x=normal("L V", scale=STEPS),
    high=booleans("L V"),
    targets=indices("L", below="V"),
    seed=seed(),
)
def cross_entropy_holds_at_extremes(impl, x, high, targets, seed):
    """With logits of ±1e4 (x + 1e4 where high) loss and gradient are finite and right, in their dtype; sure and right pays 0."""
    sure = 1e4 * torch.nn.functional.one_hot(targets, x.shape[-1]).double() - 5e3
    logits = x + torch.where(high, 1e4, -1e4)
    found = {"sure and right": impl.cross_entropy(sure, targets), "sure and wrong": impl.cross_entropy(-sure, targets)}
    for kind, to in KINDS.items():
        found[f"loss, {kind}"] = impl.cross_entropy(to(logits), targets)
        found[f"loss, smoothed, {kind}"] = impl.cross_entropy(to(logits), targets, label_smoothing=0.25)
        found[f"gradient, {kind}"] = gradients(impl.cross_entropy, to(logits), targets, seed=seed)["inputs"][0]
    return found


@check(
    points=1,
    after=ignored_targets_do_not_count,
    sizes={"B": (1, 2), "L": (1, 3), "V": (3,)},
    logits=normal("B L V"),
    targets=indices("B L", below="V"),
    pad=index("V"),
    seed=seed(),
)
def loss_of_nothing_is_zero(impl, logits, targets, pad, seed):
    """If no target counts, the loss is 0, not NaN; it is part of the graph still, so that backward() works, and its gradient is zero."""
    nothing = torch.full_like(targets, -100)
    loss = held(impl.cross_entropy, held(beside(impl, tracked), logits), nothing)
    return {
        "loss": impl.cross_entropy(logits, nothing),
        "loss where the class is ignored": impl.cross_entropy(logits, nothing + 100 + pad, pad, 0.1),
        "gradient": gradients(impl.cross_entropy, logits, nothing, seed=seed)["inputs"][0],
        "loss.requires_grad": loss.requires_grad,
        "loss.is_leaf": loss.is_leaf,
    }


# Its gradient, by hand.


@check(points=2, sizes={"N": (1, 2, 4), "V": (2, 3, 5)}, logits=normal("N V", scale=3.0), targets=indices("N", below="V"))
def backward_is_the_gradient_of_the_mean(impl, logits, targets):
    """cross_entropy_backward is the gradient of cross_entropy: what the loss gains per logit, as a mean over the rows."""
    return impl.cross_entropy_backward(logits, targets)


@check(
    points=1,
    after=backward_is_the_gradient_of_the_mean,
    sizes={"N": (3, 5), "V": (2, 3)},
    logits=normal("N V", scale=3.0),
    targets=indices("N", below="V"),
    ignored=booleans("N"),
    pad=index("V"),
)
def backward_is_zero_for_ignored_rows(impl, logits, targets, ignored, pad):
    """Rows whose target is ignored get zeros and are not in the number that is divided by; if none counts, all is zero, not NaN."""
    ignored[0], ignored[1] = True, False
    targets[1] = (pad + 1) % logits.shape[-1]
    return {
        "ignore_index not given": impl.cross_entropy_backward(logits, targets.masked_fill(ignored, -100)),
        f"ignore_index={pad}": impl.cross_entropy_backward(logits, targets.masked_fill(ignored, pad), ignore_index=pad),
        "ignore_index=1000": impl.cross_entropy_backward(logits, targets.masked_fill(ignored, 1000), 1000),
        "none counts": impl.cross_entropy_backward(logits, torch.full_like(targets, -100)),
    }


@check(
    points=1,
    after=backward_is_the_gradient_of_the_mean,
    compare=ROUNDED,
    sizes={"N": (3, 4), "V": (2, 3)},
    x=normal("N V", scale=STEPS),
    high=booleans("N V"),
    targets=indices("N", below="V"),
)
def backward_holds_at_extremes(impl, x, high, targets):
    """cross_entropy_backward is finite and right for logits of ±1e4 (x + 1e4 where high), in float64 and float32."""
    logits = x + torch.where(high, 1e4, -1e4)
    return {kind: impl.cross_entropy_backward(to(logits), targets) for kind, to in KINDS.items()}


@check(
    points=1,
    after=(cross_entropy_is_the_mean_of_minus_log_p, backward_is_the_gradient_of_the_mean),
    sizes={"N": (3,), "V": (4,)},
    logits=normal("N V"),
    targets=indices("N", below="V"),
    bos=choice(7),
)
def arguments_are_left_alone(impl, logits, targets, bos):
    """Arguments are the same after the call as before it: logits, targets, the ignored ones (the first) too, ids, and lists."""
    targets[0] = -100
    return {
        "log_softmax": inputs_after(impl.log_softmax, logits, 1)[:1],
        "cross_entropy": inputs_after(impl.cross_entropy, logits, targets),
        "cross_entropy_backward": inputs_after(impl.cross_entropy_backward, logits, targets),
        "next_token_pairs": inputs_after(impl.next_token_pairs, targets[1:, None] + torch.arange(3)),
        "shift_right": inputs_after(impl.shift_right, targets[1:, None] + torch.arange(3), bos)[:1],
        "perplexity": inputs_after(impl.perplexity, [4.0, 0.0, 1.0], [3, 0, 1]),
    }


# Teacher forcing.


@check(points=1, sizes={"B": (1, 2, 3), "L": (2, 3, 5)}, ids=indices("B L", below=50, unique=True))
def each_token_is_asked_for_the_next(impl, ids):
    """next_token_pairs gives inputs and targets, both (B, L - 1): the target at each place is the token that follows the input there."""
    inputs, targets = impl.next_token_pairs(ids)
    return {"inputs": inputs, "targets": targets, "of int32 ids": impl.next_token_pairs(ids.int())}


@check(
    points=1,
    after=(each_token_is_asked_for_the_next, cross_entropy_is_the_mean_of_minus_log_p),
    sizes={"B": (2, 3), "L": (2, 4), "V": (5,)},
    ids=indices("B L", below="V"),
    logits=normal("B L V"),
)
def pairs_go_straight_into_the_loss(impl, ids, logits):
    """cross_entropy takes the targets as next_token_pairs has cut them from a text, slices of a larger tensor maybe."""
    _, targets = held(impl.next_token_pairs, ids)
    return impl.cross_entropy(logits[:, 1:], targets)


@check(points=1, sizes={"B": (1, 2, 3), "L": (1, 2, 4)}, targets=indices("B L", below=50, start=10), bos_id=choice(0, 1, 7))
def decoder_reads_the_targets_before(impl, targets, bos_id):
    """shift_right puts bos_id in front of each row and drops its last token: shape and dtype stay, and no place reads its own target."""
    return impl.shift_right(targets, bos_id), impl.shift_right(targets.int(), bos_id)


# Perplexity.


@check(points=1, sizes={"N": (1, 2, 5)}, nll_sums=normal("N", mean=20.0, scale=3.0), token_counts=indices("N", below=30, start=5))
def perplexity_weighs_tokens_alike(impl, nll_sums, token_counts):
    """perplexity is exp of the mean loss of a token, a Python float, however many tokens each batch has."""
    sums, counts = nll_sums.tolist(), token_counts.tolist()
    return {
        "these batches": impl.perplexity(sums, counts),
        "all in one batch": impl.perplexity([sum(sums)], [sum(counts)]),
        "and two without tokens": impl.perplexity([0.0, *sums, 0.0], [0, *counts, 0]),
        "scaled to a mean loss of 40": impl.perplexity([40 * nll * sum(counts) / sum(sums) for nll in sums], counts),
        "a thousand times as many tokens": impl.perplexity([1000 * nll for nll in sums], [1000 * n for n in counts]),
        "a single token": impl.perplexity([sums[0] / counts[0], 0.0], [1, 0]),
    }


@check(points=1, after=perplexity_weighs_tokens_alike, batches=choice(2))
def perplexity_of_nothing_is_refused(impl, batches):
    """Without any tokens, in no batch or in some, perplexity raises ValueError."""
    return {
        "no batch": failure(impl.perplexity, [], [])[0],
        f"{batches} without tokens": failure(impl.perplexity, [0.0] * batches, [0] * batches)[0],
    }
