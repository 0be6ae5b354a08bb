"""What a right Transformer does.

Names, norms and positions are the learner's, so no logits are compared with
the reference's: a check compares a model with itself, and returns words or
a pattern that is the same for every right model.
"""

import itertools
import math

import torch
import torch.nn.functional as F

from kata.grading import check, choice, gradients, index, indices, initialized, parameters, seed, size, trained, with_weights

SIZES = {"src_vocab": 11, "tgt_vocab": 7, "d_model": 12, "num_heads": 3, "num_layers": 1, "d_hidden": 16}


def evaluated(impl, seed, **options):
    """A small model with random weights, in evaluation mode."""
    model = with_weights(impl.Transformer(**SIZES | options), seed, torch.float32)
    model.eval()
    return model


def changed(one, other):
    """For each position whether its vector differs by more than rounding does; NaN always does."""
    return ~((one - other).abs().amax(-1) <= 2e-5 * (1 + other.abs().max()))


def word(different):
    return "changed" if bool(different.any()) else "unchanged"


def word_of_all(different):
    return "changed" if bool(different.all()) else "unchanged"


def without(pad_id, ids):
    """Ids of any kind made ids that are not padding."""
    return ids + (ids >= pad_id)


def with_each_altered(ids, vocab, pad_id=0):
    """A sequence, and below it the sequences in which token 0, 1, ... is another; none becomes padding."""
    rows = ids.repeat(len(ids) + 1, 1)
    for i in range(len(ids)):
        rows[i + 1, i] = without(pad_id, (rows[i + 1, i] + (rows[i + 1, i] < pad_id).long()) % (vocab - 1))
    return rows


def with_each_swapped(ids, upto):
    """A sequence, and below it the sequences in which two tokens before `upto` have changed places."""
    pairs = list(itertools.combinations(range(upto), 2))
    rows = ids.repeat(len(pairs) + 1, 1)
    for row, (i, j) in zip(rows[1:], pairs, strict=True):
        row[[i, j]] = ids[[j, i]]
    return rows


# Shapes and the two halves.


@check(
    points=1,
    sizes={"B": (2,), "S": (1,), "L": (3,), "V": (4, 9), "W": (6,)},
    src=indices("B S", below="V", start=1),
    tgt=indices("B L", below="W", start=1),
    V=size("V"),
    W=size("W"),
    seed=seed(),
)
def shapes_are_right(impl, src, tgt, V, W, seed):
    """The memory is (B, S, d_model), logits are (B, L, tgt_vocab), whichever vocabulary is larger; the highest ids work."""
    model = with_weights(impl.Transformer(V, W, 12, 3, 1, 16, 0.0, 9, 0), seed, torch.float32)
    src[0, -1], tgt[0, -1] = V - 1, W - 1
    memory, logits = model.encode(src), model(src, tgt)
    return {
        "memory": list(memory.shape),
        "logits": list(logits.shape),
        "numbers": "finite" if bool(memory.isfinite().all() and logits.isfinite().all()) else "not finite",
    }


@check(points=1, after=shapes_are_right, sizes={"N": (2, 700)}, max_len=size("N"), seed=seed())
def sequences_may_be_max_len_long(impl, max_len, seed):
    """A source and a target of max_len tokens work, be it 2 or 700; it is 256 if nothing is said."""
    models = {max_len: evaluated(impl, seed, max_len=max_len), 256: evaluated(impl, seed)}
    ids = torch.arange(700)[None] % 6 + 1
    return [list(model(ids[:, :n], ids[:, :n]).shape) for n, model in models.items()]


@check(
    points=1,
    after=shapes_are_right,
    sizes={"B": (2,), "S": (4,), "L": (3, 1)},
    src=indices("B S", below=11, start=1),
    tgt=indices("B L", below=7, start=1),
    seed=seed(),
)
def forward_is_decode_of_encode(impl, src, tgt, seed):
    """model(src, tgt) is decode(tgt, encode(src), src), and the same again when called again, after another source too."""
    model = evaluated(impl, seed)
    src[1, 1:] = 0
    halves = model.decode(tgt, model.encode(src), src)
    seen = {"forward": word(changed(model(src, tgt), halves))}
    other = src.flip(0)
    seen["forward of another source"] = word(changed(model(other, tgt), model.decode(tgt, model.encode(other), other)))
    return seen | {"forward again": word(changed(model(src, tgt), halves))}


@check(
    points=1,
    after=shapes_are_right,
    sizes={"S": (4,), "L": (3,)},
    src=indices("2 S", 11, start=1),
    tgt=indices("2 L", 7, start=1),
    seed=seed(),
)
def logits_are_logits(impl, src, tgt, seed):
    """What comes out are logits, no probabilities."""
    sums = evaluated(impl, seed)(src, tgt).sum(-1)
    return "probabilities" if bool(((sums - 1).abs() < 1e-4).all()) else "logits"


@check(
    points=1,
    after=shapes_are_right,
    sizes={"S": (4,), "L": (3,)},
    src=indices("3 S", below=11, start=1),
    tgt=indices("3 L", below=7, start=1),
    i=index(3),
    seed=seed(),
)
def samples_do_not_see_each_other(impl, src, tgt, i, seed):
    """Another source and target in sample i of a batch changes the logits of sample i, and of no other."""
    model = evaluated(impl, seed)
    before = model(src, tgt)
    src[i], tgt[i] = src[i] % 10 + 1, tgt[i] % 6 + 1
    return {"changed": changed(model(src, tgt), before).any(-1)}


# What the decoder sees of the target.


@check(
    points=2,
    after=shapes_are_right,
    sizes={"S": (3,), "L": (4,)},
    src=indices("S", below=11, start=1),
    tgt=indices("L", below=7, start=1),
    seed=seed(),
)
def logits_see_the_past_and_not_the_future(impl, src, tgt, seed):
    """Another target token i (row) changes the logits at every position t ≥ i (column), and at none before it."""
    rows = with_each_altered(tgt, 7)
    logits = evaluated(impl, seed, num_layers=2)(src.repeat(len(rows), 1), rows)
    return {"changed": changed(logits[1:], logits[:1])}


@check(
    points=1,
    after=logits_see_the_past_and_not_the_future,
    sizes={"S": (3,), "L": (4,)},
    src=indices("S", below=11, start=1),
    tgt=indices("L", below=7, start=1, unique=True),
    seed=seed(),
)
def order_of_the_target_matters(impl, src, tgt, seed):
    """The last logits change when two of the earlier target tokens change places."""
    rows = with_each_swapped(tgt, len(tgt) - 1)
    last = evaluated(impl, seed)(src.repeat(len(rows), 1), rows)[:, -1]
    return {"changed": changed(last[1:], last[:1])}


# What the encoder sees, and what reaches the decoder.


@check(points=1, after=shapes_are_right, sizes={"S": (4,), "P": (0, 5)}, src=indices("S", below=10), pad_id=size("P"), seed=seed())
def memory_sees_the_whole_source(impl, src, pad_id, seed):
    """Another source token i (row) changes the memory at every position (column), before it and after it, whatever pad_id is."""
    memory = evaluated(impl, seed, pad_id=pad_id).encode(with_each_altered(without(pad_id, src), 11, pad_id))
    return {"changed": changed(memory[1:], memory[:1])}


@check(
    points=2,
    after=shapes_are_right,
    sizes={"S": (4,), "L": (3,), "P": (0, 5)},
    src=indices("S", below=10),
    tgt=indices("L", below=6),
    pad_id=size("P"),
    seed=seed(),
)
def source_reaches_every_logit(impl, src, tgt, pad_id, seed):
    """Another source token i (row) changes the logits at every position of the target (column), the first included."""
    rows = with_each_altered(without(pad_id, src), 11, pad_id)
    logits = evaluated(impl, seed, pad_id=pad_id)(rows, without(pad_id, tgt).repeat(len(rows), 1))
    return {"changed": changed(logits[1:], logits[:1])}


@check(
    points=1,
    after=source_reaches_every_logit,
    sizes={"S": (3, 10), "L": (2,)},
    src=indices("S", below=11, start=1, unique=True),
    tgt=indices("L", below=7, start=1),
    seed=seed(),
)
def order_of_the_source_matters(impl, src, tgt, seed):
    """All logits change when two tokens of the source change places."""
    rows = with_each_swapped(src, len(src))
    logits = evaluated(impl, seed)(rows, tgt.repeat(len(rows), 1))
    return {"changed": changed(logits[1:], logits[:1])}


@check(
    points=1,
    after=shapes_are_right,
    sizes={"S": (4,), "L": (3,)},
    src=indices("2 S", below=11, start=1),
    tgt=indices("2 L", below=7, start=1),
    seed=seed(),
)
def decode_reads_its_memory(impl, src, tgt, seed):
    """decode works from the memory that it is given; of src it takes only where padding is."""
    model = evaluated(impl, seed)
    memory, other = model.encode(src), src % 10 + 1
    before = model.decode(tgt, memory, src)
    return {
        "logits with another memory": word(changed(model.decode(tgt, model.encode(other), src), before)),
        "logits with another src, memory as it was": word(changed(model.decode(tgt, memory, other), before)),
    }


# Padding.


@check(
    points=2,
    after=shapes_are_right,
    sizes={"S": (3,), "L": (2,), "P": (0, 6)},
    src=indices("S", below=6),
    longer=indices("6", below=6),
    tgt=indices("L", below=6),
    pad_id=size("P"),
    seed=seed(),
)
def padding_of_the_source_changes_nothing(impl, src, longer, tgt, pad_id, seed):
    """The memory of real tokens and all logits are the same without padding, with it, and beside a longer source, whatever pad_id is."""
    src, longer, tgt = ((ids + (pad_id == 0)) for ids in (src, longer, tgt))  # no real token is padding; 0 is real if pad_id is not
    S, more = len(src), len(longer)
    model = evaluated(impl, seed, num_layers=2, pad_id=pad_id)
    alone, padded = src[None], torch.cat([src, src.new_full((more - S,), pad_id)])
    memory, logits = model.encode(alone), model(alone, tgt[None])
    model.encode(longer[None])  # as long as the next, without padding: nothing of it may be kept
    filled = model.encode(padded[None])
    real_memory = torch.cat([memory, filled[:, S:]], dim=1)
    beside, pair = torch.stack([longer, padded]), tgt.expand(2, -1)
    return {
        "memory, padded": word(changed(filled[:, :S], memory)),
        "logits, padded": word(changed(model(padded[None], tgt[None]), logits)),
        "memory, beside a longer source": word(changed(model.encode(beside)[1:, :S], memory)),
        "logits, beside a longer source": word(changed(model(beside, pair)[1:], logits)),
        "logits, only the memory padded": word(changed(model.decode(tgt[None], real_memory, padded[None]), logits)),
    }


@check(
    points=1,
    after=shapes_are_right,
    sizes={"S": (3,), "L": (3,), "P": (0, 6)},
    src=indices("S", below=6),
    tgt=indices("L", below=6),
    longer=indices("5", below=6),
    pad_id=size("P"),
    seed=seed(),
)
def padding_of_the_target_changes_nothing(impl, src, tgt, longer, pad_id, seed):
    """The logits at real target tokens are the same with padding after them, beside a longer target too; at padding they are finite."""
    src, tgt, longer = ((ids + (pad_id == 0)) for ids in (src, tgt, longer))
    L = len(tgt)
    model = evaluated(impl, seed, num_layers=2, pad_id=pad_id)
    beside = torch.stack([longer, torch.cat([tgt, tgt.new_full((len(longer) - L,), pad_id)])])
    alone, logits = model(src[None], tgt[None]), model(src.expand(2, -1), beside)
    return {
        "logits at real tokens": word(changed(logits[1:, :L], alone)),
        "all logits": "finite" if bool(logits.isfinite().all()) else "not finite",
    }


# Weights.


def with_layers_constant(impl, value, seed, **options):
    """A model whose matrices are all this number, but those that have a vocabulary among their sizes."""
    model = impl.Transformer(**SIZES | options)
    model.eval()
    shapes = parameters(model)
    kept = [name for name, shape in shapes.items() if {SIZES["src_vocab"], SIZES["tgt_vocab"]} & set(shape)]
    inner = [name for name, shape in shapes.items() if name not in kept and is_matrix(shape)]
    constant = {name: value for name in inner if not any(name in other for other in kept)}  # a part of a name would do
    return with_weights(model, seed, torch.float32, constant)


def is_matrix(shape):
    """Of whatever layout; what has no more than 2 M numbers may be a bias, and that of keys has no gradient."""
    return len(shape) > 1 and math.prod(shape) > 2 * SIZES["d_model"]


def matrices_without_gradient(model, src, tgt, seed):
    found = gradients(model, src, tgt, seed=seed)["parameters"]
    return [name for name, gradient in found.items() if is_matrix(gradient.shape) and float(gradient.abs().max()) < 1e-9]


def tables_without_gradient(model, src, tgt, seed):
    """Those in which token 0 gets no gradient; a table is told by its shape."""
    vocabularies = SIZES["src_vocab"], SIZES["tgt_vocab"]
    for name, gradient in gradients(model, src, tgt, seed=seed)["parameters"].items():
        for axis, n in enumerate(gradient.shape):
            if n in vocabularies and not gradient.select(axis, 0).any():
                yield name


@check(
    points=2,
    after=shapes_are_right,
    sizes={"S": (5,), "L": (4,)},
    src=indices("2 S", below=11, start=1),
    tgt=indices("2 L", below=7, start=1),
    seed=seed(),
)
def gradients_reach_all_weights(impl, src, tgt, seed):
    """Gradients of the logits reach every weight matrix, those of the encoder through the memory, and token 0 if it is not padding."""
    silent = matrices_without_gradient(evaluated(impl, seed, num_layers=2), src, tgt, seed)
    src, tgt = src.where(src != 6, 0), tgt.where(tgt != 6, 0)
    src[0, 0] = tgt[0, 0] = 0
    unlearnt = tables_without_gradient(evaluated(impl, seed, pad_id=6), src, tgt, seed)
    return {
        "weights without a gradient": ", ".join(sorted(silent)) or "none",
        "without one for token 0, where padding is 6": ", ".join(sorted(unlearnt)) or "none",
    }


@check(
    points=1,
    after=shapes_are_right,
    sizes={"S": (4,), "L": (3,)},
    src=indices("S", below=11, start=1),
    tgt=indices("L", below=7, start=1),
    seed=seed(),
)
def residuals_run_past_everything(impl, src, tgt, seed):
    """With all matrices of all layers zero, memory and logits still tell their own token: residuals carry it there."""
    model = with_layers_constant(impl, 0.0, seed, num_layers=2)
    srcs, tgts = with_each_altered(src, 11), with_each_altered(tgt, 7)
    memory, logits = model.encode(srcs), model(src.repeat(len(tgts), 1), tgts)
    return {
        "memory with another token": word_of_all(changed(memory[1:], memory[:1]).diagonal()),
        "logits with another token": word_of_all(changed(logits[1:], logits[:1]).diagonal()),
    }


@check(points=1, after=shapes_are_right, sizes={"S": (5,)}, ids=indices("2 S", below=7, start=1), seed=seed())
def sublayers_are_normalised(impl, ids, seed):
    """With weights of ±1000000 in all layers memory and logits are finite: normalised, numbers do not grow from layer to layer."""
    models = [with_layers_constant(impl, value, seed, num_layers=2) for value in (1e6, -1e6)]
    return ["finite" if bool(model.encode(ids).isfinite().all() and model(ids, ids).isfinite().all()) else "not finite" for model in models]


@check(
    points=1,
    after=source_reaches_every_logit,
    sizes={"S": (8,)},
    src=indices("S", below=11, start=1, unique=True),
    seed=seed(),
)
def questions_to_the_memory_are_normalised(impl, src, seed):
    """With the target's embedding 3000 times as large, attention to the memory is spread as before: what asks is normalised."""
    model = impl.Transformer(**SIZES | {"num_heads": 1})
    model.eval()
    large = {name: 3000.0 for name, shape in parameters(model).items() if SIZES["tgt_vocab"] in shape}
    with_weights(model, seed, torch.float32, times=large)
    firsts = torch.arange(1, 7)[:, None]
    memory = model.encode(src.expand(len(firsts), -1))
    felt = gradients(model.decode, firsts, memory, src.expand(len(firsts), -1), seed=seed)["inputs"][0].norm(dim=-1)
    mattering = (felt > 1e-3 * felt.amax(-1, keepdim=True)).sum(-1)  # tokens of the memory
    return "many tokens of the memory matter" if int((mattering > 2).sum()) >= 4 else "one token of the memory takes all"


WIDE = 17  # d_hidden where feed-forward networks are told by it: no other size is a multiple


def with_feed_forward(impl, seed, inwards, outwards, vectors, told_by="layout"):
    """A model in whose feed-forward networks matrices to and from the hidden channels, and vectors of them, are these times as large.

    Which way a matrix goes is told by its layout or, as both may have the same, by its order: in and out take turns.
    """
    model = impl.Transformer(**SIZES | {"d_hidden": WIDE})
    model.eval()
    times, turns = {}, itertools.cycle((True, False))
    for name, shape in parameters(model).items():
        if any(n % WIDE == 0 for n in shape):
            goes_in = len(shape) > 1 and (next(turns) if told_by == "order" else shape[0] % WIDE == 0)
            times[name] = vectors if len(shape) == 1 else inwards if goes_in else outwards
    return with_weights(model, seed, torch.float32, times=times)


@check(
    points=1,
    after=shapes_are_right,
    sizes={"S": (3,), "L": (2,)},
    src=indices("1 S", below=11, start=1),
    tgt=indices("1 L", below=7, start=1),
    seed=seed(),
)
def feed_forward_has_an_activation(impl, src, tgt, seed):
    """The two matrices of a feed-forward network times -2 and -1/2 give something else: an activation stands between them."""
    model = with_feed_forward(impl, seed, 1, 1, 1)
    ways = itertools.product((-2, -0.5), ("layout", "order"))
    others = [with_feed_forward(impl, seed, -2, -0.5, vectors, told_by) for vectors, told_by in ways]
    memory = model.encode(src)
    logits = model.decode(tgt, memory, src)
    return {  # in a linear layer the matrix inwards has d_hidden rows; others store it the other way round, and one of these fits
        "memory": word(torch.stack([changed(other.encode(src), memory).any() for other in others]).all()),
        "logits": word(torch.stack([changed(other.decode(tgt, memory, src), logits).any() for other in others]).all()),
    }


@check(
    points=1,
    after=shapes_are_right,
    sizes={"S": (3,), "L": (3,)},
    src=indices("S", below=11, start=1, unique=True),
    tgt=indices("L", below=7, start=1, unique=True),
    seed=seed(),
)
def attention_is_added_to_its_input(impl, src, tgt, seed):
    """Without feed-forward networks tokens still hear of one another, through each of the three attentions: what one adds is not lost."""
    model = with_feed_forward(impl, seed, 0, 0, 0)
    srcs, tgts = with_each_altered(src, 11), with_each_altered(tgt, 7)
    memory = model.encode(srcs)
    short = src[None, :1].repeat(len(tgts), 1)  # from one token cross-attention takes the same, whoever asks
    logits = model.decode(tgts, memory[:1, :1].repeat(len(tgts), 1, 1), short)
    return {
        "memory of another token": word(changed(memory[1:], memory[:1])[0, -1]),
        "logits after another token": word(changed(logits[1:], logits[:1])[0, -1]),
        "logits with another source": word(changed(*(model.decode(tgt[None], memory[i][None], srcs[i][None]) for i in (0, 1)))),
    }


@check(
    points=1,
    after=(gradients_reach_all_weights, logits_see_the_past_and_not_the_future),
    sizes={"S": (4,)},
    src=indices("1 S", below=11, start=1),
    tgt=indices("1 2", below=7, start=1, unique=True),
    seed=seed(),
)
def target_token_attends_to_itself(impl, src, tgt, seed):
    """A target token attends to itself too: of two tokens the second has a choice, so all four projections of self-attention learn."""
    M = 32
    model = evaluated(impl, seed, d_model=M, num_heads=2, d_hidden=1, max_len=4)
    found = [gradient.abs() for gradient in gradients(model, src, tgt, seed=seed)["parameters"].values() if gradient.ndim > 1]
    least = 1e-8 * max(float(gradient.max()) for gradient in found)
    at_work = sum(int((gradient > least).sum()) for gradient in found)
    return "itself" if at_work > 11.3 * M * M else "nothing"  # three attentions are 12; queries and keys without a choice learn nothing


def number_of_weights(impl, **options):
    model = evaluated(impl, 0, **options)
    ids = torch.ones(1, 1, dtype=torch.long)
    return sum(g.numel() for g in gradients(model, ids, ids)["parameters"].values())  # what is shared counts once


@check(points=1, after=shapes_are_right, heads=choice(1, 2, 3))
def each_layer_has_its_own_weights(impl, heads):
    """Encoder and decoder both grow with num_layers: one more layer in each, with parameters of its own. Both grow with d_hidden."""
    M, F = 48, 2  # biases and gains do not make up for a missing matrix
    sizes = {"d_model": M, "num_heads": heads}
    one, two, three = (number_of_weights(impl, num_layers=n, d_hidden=F, **sizes) for n in (1, 2, 3))
    wider = number_of_weights(impl, d_hidden=F + 1, **sizes)
    least = 3 * 4 * M * M + 2 * 2 * M * F  # three attentions, two feed-forward networks
    return {
        "weights in one more layer": "as many as it takes" if two - one >= least else "too few",
        "the next layer": "as large" if three - two == two - one else "of another size",
        "weights with one more hidden channel": "as many as it takes" if wider - one >= 4 * M else "too few",
    }


@check(
    points=1,
    after=shapes_are_right,
    sizes={"S": (4,), "L": (4,)},
    src=indices("6 S", below=11, start=1),
    tgt=indices("6 L", below=7, start=1),
    seed=seed(),
)
def heads_are_used_everywhere(impl, src, tgt, seed):
    """With the same weights, another num_heads gives another memory, another self-attention and another cross-attention."""
    few, many = (evaluated(impl, seed, num_heads=heads) for heads in (1, 6))  # of one layer: in more, post-norm blurs tokens
    memory = few.encode(src)

    def decoded(target, tokens):
        return word(changed(*(model.decode(target, memory[:, :tokens], src[:, :tokens]) for model in (few, many))))

    return {
        "memory": word(changed(many.encode(src), memory)),
        "logits of one target token": decoded(tgt[:, :1], 4),  # only cross-attention has a choice
        "logits from a memory of one token": decoded(tgt, 1),  # only self-attention has
    }


@check(
    points=1,
    after=shapes_are_right,
    sizes={"S": (5,), "L": (4,)},
    src=indices("2 S", below=11, start=1),
    tgt=indices("2 L", below=7, start=1),
    seed=seed(),
)
def dropout_is_for_training_only(impl, src, tgt, seed):
    """With dropout calls in training differ, in encoder and decoder, calls in evaluation do not; by default, at 0, none differ."""
    model, hardly, plain = (evaluated(impl, seed, **given) for given in ({"dropout": 0.5}, {"dropout": 1e-7}, {}))
    memory, logits = plain.encode(src), plain(src, tgt)
    seen = {
        "in evaluation": word(changed(model(src, tgt), logits)),
        "in evaluation, again": word(changed(model(src, tgt), logits)),
    }
    for each in (model, hardly, plain):
        each.train()
    return seen | {
        "memory from call to call in training": word(changed(model.encode(src), model.encode(src))),
        "logits from call to call of decode in training": word(changed(*(model.decode(tgt, memory, src) for _ in range(2)))),
        "in training with dropout 1e-7": word(changed(hardly(src, tgt), logits)),
        "in training without an argument dropout": word(changed(plain(src, tgt), logits)),
    }


# Translating.

STEPS = 6


def continuations(impl, src, seed, pad_id=0, **options):
    """A model, and what follows by arg max each first token but padding and each source: {first: (B, STEPS)}."""
    sizes = SIZES | options
    model = initialized(impl.Transformer(**sizes, dropout=0.5, pad_id=pad_id), seed)
    model.eval()  # and so it stays
    firsts = [i for i in range(sizes["tgt_vocab"]) if i != pad_id]
    source = src.repeat(len(firsts), 1)
    memory = model.encode(source)
    ids = torch.tensor(firsts).repeat_interleave(len(src))[:, None]
    for _ in range(STEPS):
        ids = torch.cat([ids, model.decode(ids, memory, source)[:, -1:].argmax(-1)], dim=1)
    return model, dict(zip(firsts, ids[:, 1:].split(len(src)), strict=True))


def rarest(ids, but):
    """A token that is hardly ever written, as eos: rows then go on."""
    counts = ids.flatten().bincount(minlength=SIZES["tgt_vocab"]).tolist()
    return min((i for i in range(1, len(counts)) if i != but), key=counts.__getitem__)


def cut_at(ids, eos_id, pad_id):
    """What greedy_decode makes of these continuations, and where in it rows have not ended yet."""
    ended = ((ids == eos_id).cumsum(1) - (ids == eos_id).long()) > 0
    width = int((~ended).sum(1).max())
    return ids.masked_fill(ended, pad_id)[:, :width], ~ended[:, :width]


def compared(got, ids, eos_id, pad_id):
    """In words how the tokens of greedy_decode are those of the loop over decode."""
    wanted, running = cut_at(ids, eos_id, pad_id)
    width = min(got.shape[1], wanted.shape[1])
    same, running = got[:, :width] == wanted[:, :width], running[:, :width]
    narrower, wider = got.shape[1] < wanted.shape[1], got.shape[1] > wanted.shape[1]
    return {
        "dtype": str(got.dtype).removeprefix("torch."),
        "rows": "one a source" if len(got) == len(wanted) else "another number",
        "width": "too small" if narrower else "too large" if wider else "that of the longest row",
        "tokens up to eos": "those of decode" if bool(same[running].all()) else "others",
        "after eos": "pad_id" if bool(same[~running].all()) else "something else",
    }


@check(points=1, after=forward_is_decode_of_encode, sizes={"B": (3,)}, src=indices("B 4", below=11, start=1), seed=seed())
def greedy_adds_the_likeliest_tokens(impl, src, seed):
    """Until eos, greedy_decode gives up to max_new tokens after bos, each the arg max over the last logits of decode."""
    src[0, 2:] = 0
    model, found = continuations(impl, src, seed)
    bos_id, ids = max(found.items(), key=lambda item: sum(len(set(row)) for row in item[1].tolist()))
    eos_id = rarest(ids, bos_id)

    def greedy(n):
        return model.greedy_decode(src, bos_id=bos_id, eos_id=eos_id, max_new=n)

    return {f"max_new = {n}": compared(greedy(n), ids[:, :n], eos_id, 0) for n in (STEPS, 1)}


@check(
    points=2,
    after=greedy_adds_the_likeliest_tokens,
    sizes={"P": (0, 5)},
    src=indices("24 4", below=11, start=1),
    pad_id=size("P"),
    seed=seed(),
)
def rows_end_at_their_eos(impl, src, pad_id, seed):
    """A row keeps its eos and has pad_id after it, while others go on; when all have ended, it stops; eos may be bos."""
    src = torch.where(src == pad_id, 6, src)
    model, found = continuations(impl, src, seed, pad_id)
    cases = [(bos, eos, ends(ids, eos)) for bos, ids in found.items() for eos in found if eos != bos]

    def decoded(case, rows):
        bos_id, eos_id, _ = case
        return compared(model.greedy_decode(src[rows], bos_id, eos_id, STEPS), found[bos_id][rows], eos_id, pad_id)

    def lengths(case, below):
        return len({end for end in case[2] if end < below})

    several = max(cases, key=lambda case: lengths(case, STEPS + 1))
    early = max(cases, key=lambda case: lengths(case, STEPS - 1))
    rows = [i for i, end in enumerate(early[2]) if end < STEPS - 1]
    same = max(((bos, bos, ends(ids, bos)) for bos, ids in found.items()), key=lambda case: lengths(case, STEPS + 1))
    return {
        "all rows": decoded(several, list(range(len(src)))),
        "rows that all end early": decoded(early, rows or [0]),
        "where eos is bos": decoded(same, list(range(8))),
    }


def ends(ids, eos_id):
    """At which step each row ends; STEPS if it does not."""
    return [row.index(eos_id) if eos_id in row else STEPS for row in ids.tolist()]


@check(points=1, after=greedy_adds_the_likeliest_tokens, src=indices("24 4", below=11, start=1), seed=seed())
def any_token_may_be_the_likeliest(impl, src, seed):
    """The arg max is over all logits: bos and padding are chosen where theirs is the largest, and a chosen pad_id does not end the row."""
    model, found = continuations(impl, src, seed)
    eos = {bos_id: rarest(ids, bos_id) for bos_id, ids in found.items()}

    def decoded(times):
        bos_id = max(found, key=lambda bos: times(bos, *cut_at(found[bos], eos[bos], 0)))
        return compared(model.greedy_decode(src, bos_id, eos[bos_id], STEPS), found[bos_id], eos[bos_id], 0)

    return {
        "where bos is the likeliest": decoded(lambda bos, ids, running: int((running & (ids == bos))[:, :-1].sum())),
        "where padding is the likeliest": decoded(lambda bos, ids, running: int((running & (ids == 0))[:, :-1].sum())),
    }


# The proof.

SYMBOLS, LENGTH, NOISE = 8, 4, 0.2
KEPT = 1 - NOISE + NOISE / SYMBOLS  # how often a target token is the reversed source's
FLOOR = -KEPT * math.log(KEPT) - (1 - KEPT) * math.log(NOISE / SYMBOLS)  # nobody can do better
MARK = 1.6  # guessing gives 2.1; ALiBi alone 1.43, as no positions do, which the checks of order refuse before
ROUNDS, STEPS_A_ROUND = 5, 80  # some learn faster, some need all


def noisy_reversals(number, seed):
    """Sources, decoder inputs, targets: the source reversed, each token replaced with probability NOISE by any symbol."""
    generator = torch.Generator().manual_seed(seed)
    src, random = torch.randint(3, 3 + SYMBOLS, (2, number, LENGTH), generator=generator)
    replaced = torch.rand(number, LENGTH, generator=generator) < NOISE
    tgt = torch.where(replaced, random, src.flip(1))
    return src, torch.cat([torch.ones_like(tgt[:, :1]), tgt[:, :-1]], dim=1), tgt


@check(
    points=2,
    after=(  # all that is known of the model: a wrong one is told at once, and not after training
        forward_is_decode_of_encode,
        logits_are_logits,
        samples_do_not_see_each_other,
        order_of_the_target_matters,
        memory_sees_the_whole_source,
        order_of_the_source_matters,
        padding_of_the_source_changes_nothing,
        padding_of_the_target_changes_nothing,
        residuals_run_past_everything,
        sublayers_are_normalised,
        target_token_attends_to_itself,
        each_layer_has_its_own_weights,
        heads_are_used_everywhere,
    ),
    wanted="the source is understood",
    slow=True,
    seed=seed(),
)
def learns_what_can_be_learnt(impl, seed):
    """Trained to write sources backwards with noise, the model gets well below guessing, and not below what the noise allows."""
    V = 3 + SYMBOLS
    model = initialized(impl.Transformer(V, V, 32, 2, 1, 32), seed)
    data = list(noisy_reversals(2048, seed))
    src, inputs, targets = noisy_reversals(2000, seed + 1)
    for part in torch.randint(2048, (ROUNDS, STEPS_A_ROUND, 48), generator=torch.Generator().manual_seed(seed)):
        trained(model, data, part, lr=1e-2, seed=seed)
        loss = float(F.cross_entropy(model(src, inputs).flatten(0, 1), targets.flatten()))
        if loss < FLOOR - 0.06:
            return f"a loss below {FLOOR:.2f}, which the noise allows nobody: it reads what it is to predict"
        if loss < MARK:
            return "the source is understood"
    return f"a loss above {MARK}: it has not learnt where in the source to look"
