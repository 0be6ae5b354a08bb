"""What right buckets, biases, attention, blocks and cut spans of T5 do."""

import torch

from kata.grading import (
    beside,
    booleans,
    check,
    choice,
    failure,
    gradients,
    index,
    indices,
    inputs_after,
    normal,
    parameters,
    seed,
    size,
    with_weights,
)

# Buckets. No distance in them lies where another order of the same operations could round it into another bucket.


def buckets(impl, places, *options):
    """Buckets by distance, to be read one by one."""
    found = impl.relative_position_bucket(torch.tensor(places), *options)
    return {f"bucket of {place:+d}": number for place, number in zip(places, found.tolist(), strict=True)}


@check(points=1, near=choice(7, 5))
def near_distances_have_buckets_of_their_own(impl, near):
    """Up to 7 tokens away each distance has its own bucket: 0 to 7 for keys that lie back or at the query, 17 to 23 for keys ahead."""
    return buckets(impl, [*range(-near, near + 1)])


@check(points=1, after=near_distances_have_buckets_of_their_own, more=index(400, start=130))
def far_distances_share_buckets(impl, more):
    """From 8 to 128 distances share 8 buckets, on a logarithmic scale; all that are larger are in the last, 15, and 31 ahead."""
    places = [8, 11, 12, 15, 20, 40, 60, 90, 91, 127, 128, more]
    return buckets(impl, [sign * place for place in places for sign in (-1, 1)])


@check(points=2, after=near_distances_have_buckets_of_their_own, more=index(400, start=130))
def one_direction_has_all_buckets(impl, more):
    """With bidirectional=False all 32 buckets are for keys that lie back, the first 16 for one distance each; keys ahead count as 0."""
    return buckets(impl, [-more, *(-n for n in (128, 113, 90, 50, 30, 20, 19, 18, 16, 15, 9, 8, 1)), 0, 1, 2, 20, more], False)


@check(
    points=1,
    after=(far_distances_share_buckets, one_direction_has_all_buckets),
    how=choice((8, 20), (16, 50), (12, 30), (8, 50)),
    draws=3,
)
def buckets_come_in_other_numbers(impl, how):
    """Other num_buckets and max_distance give other buckets, by the same rule."""
    places = torch.arange(-60, 61)
    both = {name: impl.relative_position_bucket(places, way, *how) for name, way in {"both ways": True, "one way": False}.items()}
    return both | {"4 buckets for distances up to 8": impl.relative_position_bucket(places[::3], max_distance=8, num_buckets=4)}


@check(
    points=1,
    after=near_distances_have_buckets_of_their_own,
    sizes={"A": (2,), "L": (1, 3), "S": (4, 2)},
    relative=indices("A L S", below=40, start=-40),
)
def any_shape_of_places_will_do(impl, relative):
    """Places come in any shape, a single number too; buckets have the same shape, in int64, and the places are left as they are."""
    single = relative[0, 0, 0]
    return {
        "(A, L, S)": impl.relative_position_bucket(relative),
        "one way": impl.relative_position_bucket(relative, bidirectional=False),
        "()": impl.relative_position_bucket(single),
        "places afterwards": inputs_after(impl.relative_position_bucket, relative, False)[0],
    }


# The bias.


@check(points=1, sizes={"H": (3,), "N": (8,)}, H=size("H"), N=size("N"))
def bias_has_a_number_for_each_bucket_and_head(impl, H, N):
    """RelativeBias has embedding.weight, (num_buckets, H), and no other parameter."""
    return parameters(impl.RelativeBias(H, N))


def bias_of(impl, H, seed, *options, **named):
    return with_weights(impl.RelativeBias(H, *options, **named), seed)


@check(
    points=2,
    after=(bias_has_a_number_for_each_bucket_and_head, one_direction_has_all_buckets),
    sizes={"H": (1, 3), "L": (1, 25), "S": (20, 4)},
    H=size("H"),
    L=size("L"),
    S=size("S"),
    seed=seed(),
)
def bias_is_looked_up_by_distance(impl, H, L, S, seed):
    """Head h adds embedding.weight[bucket of key - query, h] to its scores; a decoder's buckets are one-directional. Shape (1, H, L, S)."""
    return {
        "bidirectional": bias_of(impl, H, seed)(L, S),
        "one-directional": bias_of(impl, H, seed, bidirectional=False)(L, S),
        "8 buckets for distances up to 20": bias_of(impl, H, seed, 8, 20)(L, S),
    }


@check(
    points=2,
    after=bias_is_looked_up_by_distance,
    sizes={"L": (1, 2, 3), "n": (5, 1, 24)},
    L=size("L"),
    n=size("n"),
    seed=seed(),
)
def first_query_stands_at_the_offset(impl, L, n, seed):
    """With an offset the queries stand that many tokens later, the keys still from 0 on: the last rows of the bias for all tokens.

    (One module is asked again and again, and at the end with other weights.)
    """
    biases = {"both ways": bias_of(impl, 2, seed), "one way": bias_of(impl, 2, seed, bidirectional=False)}
    found = {}
    for name, bias in biases.items():
        found[name] = {
            "without": bias(L + n, L + n)[..., n:, :],
            "with an offset": bias(L, L + n, offset=n),
            "as many without": bias(L, L + n),
            "far behind all keys": bias(L, 2, 600),
            "other weights": with_weights(bias, seed + 1)(L, L + n, n),
        }
    return found


# Attention.

SIZES = {"B": (2,), "L": (1, 3), "S": (2, 5), "H": (1, 3), "D": (4, 2), "M": (3, 5)}


@check(points=1, sizes={"H": (3,), "D": (2,)}, H=size("H"), D=size("D"))
def attention_has_four_matrices(impl, H, D):
    """q_proj, k_proj and v_proj have H·D rows of M numbers, out_proj M rows of H·D; there are no biases and no other parameters."""
    return parameters(impl.T5Attention(4, H, D))


def attention(impl, M, H, D, seed):
    """A layer with weights that the seed gives."""
    return with_weights(impl.T5Attention(M, H, D), seed)


@check(points=2, after=attention_has_four_matrices, sizes=SIZES, x=normal("B L M"), H=size("H"), D=size("D"), seed=seed())
def scores_are_not_scaled(impl, x, H, D, seed):
    """Without bias and mask, out_proj gets softmax(q·k) v of all heads side by side: nothing is divided by √D, nothing is causal.

    So it is where x is large.
    """
    layer = attention(impl, x.shape[-1], H, D, seed)
    return {"output": layer(x), "x 1000 times as large": f"{layer(1000 * x).isfinite().sum()} finite numbers"}


@check(
    points=2,
    after=scores_are_not_scaled,
    sizes=SIZES,
    x=normal("B L M"),
    memory=normal("B S M"),
    shared=normal("1 H L S"),
    each=normal("B H L S"),
    square=normal("L L"),
    H=size("H"),
    D=size("D"),
    seed=seed(),
)
def bias_is_added_to_the_scores(impl, x, memory, shared, each, square, H, D, seed):
    """With a memory keys and values come from there, queries from x; a bias is added to the scores of each head, before the softmax."""
    layer = attention(impl, x.shape[-1], H, D, seed)
    return {
        "memory alone": layer(x, memory),
        "memory and bias (1, H, L, S)": layer(x, memory, shared),
        "memory and bias (B, H, L, S)": layer(x, memory, each),
        "bias (L, L)": layer(x, bias=square),
    }


@check(
    points=1,
    after=bias_is_added_to_the_scores,
    sizes=SIZES | {"L": (2, 3)},
    x=normal("B L M"),
    memory=normal("B S M"),
    bias=normal("1 H L S"),
    keys=booleans("B 1 1 S", some=True),
    all_axes=booleans("B H L S", some=True),
    H=size("H"),
    D=size("D"),
    seed=seed(),
)
def mask_says_who_may_attend(impl, x, memory, bias, keys, all_axes, H, D, seed):
    """What the mask does not allow has weight zero, whatever its score and bias; the mask broadcasts to (B, H, L, S)."""
    layer = attention(impl, x.shape[-1], H, D, seed)
    return {
        "mask (B, 1, 1, S)": layer(x, memory, bias, keys),
        "mask (B, H, L, S), no bias": layer(x, memory, mask=all_axes),
        "mask (H, L, S)": layer(x, memory, bias, all_axes[0]),
        "mask (L, S)": layer(x, memory, bias, all_axes[0, 0]),
        "bias of 1000 where not allowed, about -60 elsewhere": layer(x, memory, torch.where(all_axes, bias - 60, 1e3), all_axes),
    }


# Blocks.

BLOCK = {"B": (2,), "L": (1, 3), "S": (3, 2), "H": (2, 3), "D": (3, 2), "M": (4, 5)}
ONE = {"B": (2,), "L": (3,), "S": (2,), "H": (2,), "D": (3,), "M": (4,)}
NOTHING = {"out_proj": 0.0, "down": 0.0}


@check(points=1, after=attention_has_four_matrices, sizes={"H": (3,), "D": (2,)}, H=size("H"), D=size("D"))
def blocks_have_their_parameters(impl, H, D):
    """The parameters of a block have the names and shapes of the docstring; cross_norm and cross_attn are in a decoder's only."""
    return {"encoder": parameters(impl.T5Block(4, H, D, 5)), "decoder": parameters(impl.T5Block(4, H, D, 5, decoder=True))}


def block(impl, M, H, D, seed, decoder=False, **options):
    return with_weights(impl.T5Block(M, H, D, 7, decoder), seed, **options)


@check(
    points=2,
    after=(blocks_have_their_parameters, bias_is_added_to_the_scores),
    sizes=ONE | {"M": (4, 5)},
    x=normal("B L M", mean=1.0),
    H=size("H"),
    D=size("D"),
    seed=seed(),
)
def each_part_is_right_alone(impl, x, H, D, seed):
    """Where only one adds something, the block is x + attention(norm1(x)), or x + down(relu(up(norm2(x)))); the norms are RMSNorms."""
    M = x.shape[-1]
    attention, feed_forward = (block(impl, M, H, D, seed, constant={part: 0.0}) for part in ("down", "out_proj"))
    return {
        "nothing added": block(impl, M, H, D, seed, constant=NOTHING)(x),
        "attention alone": attention(x),
        "feed-forward alone": feed_forward(x),
        "feed-forward alone, tiny x": feed_forward(1e-3 * x),
        "attention alone, tiny x": attention(1e-3 * x),
    }


@check(
    points=2,
    after=(each_part_is_right_alone, mask_says_who_may_attend),
    sizes=BLOCK,
    x=normal("B L M"),
    bias=normal("1 H L L"),
    mask=booleans("B 1 L L", some=True),
    H=size("H"),
    D=size("D"),
    seed=seed(),
)
def encoder_block_is_that_of_t5(impl, x, bias, mask, H, D, seed):
    """With the same weights an encoder's block is T5's; bias and mask go to its attention."""
    layer = block(impl, x.shape[-1], H, D, seed)
    return {"x alone": layer(x), "with bias": layer(x, bias), "with bias and mask": layer(x, bias, mask)}


@check(
    points=2,
    after=encoder_block_is_that_of_t5,
    sizes=ONE | {"L": (1, 3), "S": (3, 2)},
    x=normal("B L M"),
    memory=normal("B S M", scale=2.0),
    bias=normal("1 H L L"),
    mask=booleans("B 1 L L", some=True),
    memory_mask=booleans("B 1 1 S", some=True),
    H=size("H"),
    D=size("D"),
    seed=seed(),
)
def decoder_block_is_that_of_t5(impl, x, memory, bias, mask, memory_mask, H, D, seed):
    """A decoder's block attends to the memory between the two, by cross_norm and cross_attn, with memory_mask and without the bias."""
    M, L = x.shape[-1], x.shape[1]
    layer, causal = block(impl, M, H, D, seed, decoder=True), torch.ones(L, L, dtype=torch.bool).tril()
    cross = block(impl, M, H, D, seed, decoder=True, constant={"norm1": 0.0, "down": 0.0})
    return {
        "cross-attention, bias for as many keys": cross(x, bias, causal, memory.repeat(1, L, 1)[:, :L]),
        "cross-attention, tiny x": cross(1e-3 * x, memory=memory),
        "all": layer(x, bias, causal, memory),
        "all, with memory_mask": layer(x, bias, causal, memory=memory, memory_mask=memory_mask),
        "all, with a mask that is not causal": layer(x, bias, mask, memory, memory_mask),
    }


@check(
    points=1,
    after=decoder_block_is_that_of_t5,
    sizes=ONE,
    x=normal("B L M"),
    memory=normal("B S M"),
    bias=normal("1 H L L"),
    H=size("H"),
    D=size("D"),
    seed=seed(),
)
def gradients_are_right(impl, x, memory, bias, H, D, seed):
    """Gradients flow to x, memory, bias and all parameters, those of RelativeBias too; x and memory are left as they are."""
    layer = block(impl, x.shape[-1], H, D, seed, decoder=True)
    after = inputs_after(layer, x, bias, None, memory)
    return {
        "T5Block": gradients(layer, x, bias, None, memory, seed=seed),
        "RelativeBias": gradients(bias_of(impl, H, seed), 3, 12, seed=seed)["parameters"],
        "x afterwards": after[0],
        "memory afterwards": after[3],
    }


# Spans.


def cut(impl, ids, spans, first):
    inputs, targets = impl.corrupt_spans(ids, spans, first)
    return {"inputs": inputs, "targets": targets}


def places(ids, at):
    """A text as a list, and three spans that lie apart."""
    return ids.tolist(), [(at, 2), (at + 4, 1), (at + 6, 3)]


@check(points=2, ids=indices("12", below=90), at=index(3, start=1), first=choice(99, 700))
def spans_are_cut_and_asked_for(impl, ids, at, first):
    """Spans become sentinels that count down; targets are each sentinel and what it stands for, and one more sentinel at the end."""
    text, spans = places(ids, at)
    return {"one span": cut(impl, text, spans[:1], first), "three spans": cut(impl, text, spans, first)}


def without_spans(corrupt_spans, ids):
    """What comes back if nothing is cut, and the ids after both lists were emptied."""
    inputs, targets = corrupt_spans(ids, [], 99)
    found = list(inputs), list(targets)
    inputs.clear(), targets.clear()
    return *found, ids


@check(points=1, after=spans_are_cut_and_asked_for, ids=indices("12", below=3))
def spans_lie_anywhere(impl, ids):
    """Spans may touch each other and the ends of the text, or be the whole of it; without any there is only the last sentinel to write.

    (Both lists are new: ids stay what they are when these are emptied.)
    """
    text = ids.tolist()
    cases = {
        "two that touch": [(2, 3), (5, 1)],
        "at both ends": [(0, 1), (10, 2)],
        "all of the text": [(0, 12)],
    }
    none = dict(zip(("inputs", "targets", "ids afterwards"), beside(impl, without_spans)(impl.corrupt_spans, text), strict=True))
    return {name: cut(impl, text, spans, 99) for name, spans in cases.items()} | {"none": none, "no text": cut(impl, [], [], 99)}


@check(points=1, after=spans_are_cut_and_asked_for, ids=indices("12", below=90), at=index(3, start=1))
def order_of_spans_does_not_matter(impl, ids, at):
    """Spans may come in any order: sentinels go by their places in the text. The text that was given is left as it is."""
    text, spans = places(ids, at)
    return {
        "last first": cut(impl, text, spans[::-1], 99),
        "as they lie": cut(impl, text, spans, 99),
        "ids afterwards": inputs_after(impl.corrupt_spans, text, spans, 99)[0],
    }


@check(points=1, after=spans_are_cut_and_asked_for, ids=indices("8", below=90))
def bad_spans_are_refused(impl, ids):
    """A span without length, before the text, beyond it, or over another raises ValueError; one that ends with the text does not."""
    cases = {
        "length 0": [(2, 0)],
        "length -1": [(4, -1)],
        "begins at -1": [(-1, 2)],
        "reaches beyond the end": [(6, 3)],
        "two that overlap": [(1, 3), (3, 2)],
        "two that overlap, last first": [(3, 2), (1, 3)],
        "the same twice": [(1, 1), (1, 1)],
        "one within another": [(1, 5), (2, 1)],
        "ends with the text": [(6, 2)],
    }
    return {name: failure(impl.corrupt_spans, ids.tolist(), spans, 99)[0] for name, spans in cases.items()}
