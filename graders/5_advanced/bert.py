"""What right masking and a right BERT do.

How tokens are masked is graded on what is promised: on what is certain, on
shares of many tokens within six standard deviations, and on where the draw
comes from; never on one stream of numbers.
"""

import math

import torch
import torch.nn.functional as F

from kata.grading import beside, booleans, check, choice, failure, indices, inputs_after, parameters, seed, size, with_weights


def generator_from(seed):
    """A generator of one's own."""
    return torch.Generator().manual_seed(seed)


def word(holds, right, wrong):
    return right if bool(holds) else wrong


# Masking: what is certain.


@check(points=1, sizes={"B": (2, 3), "L": (4, 5)}, ids=indices("B L", below=5), seed=seed())
def labels_are_what_stood_there(impl, ids, seed):
    """With rate 1 and nothing special, mask_id neither, each label is the id that stood there; with rate 0 all are -100."""
    make = beside(impl, generator_from)
    inputs, labels = impl.mask_tokens(ids, 4, 5, [], 0.0, make(seed))
    return {
        "labels, rate 1": impl.mask_tokens(ids, 4, 5, [], rate=1.0, generator=make(seed))[1],
        "labels, rate 1, one axis": impl.mask_tokens(ids[0], 4, 5, [], 1.0, make(seed))[1],
        "labels, rate 1, three axes": impl.mask_tokens(ids[None], 4, 5, [], 1.0, make(seed))[1],
        "labels, rate 0": labels,
        "inputs, rate 0": inputs,
    }


@check(points=1, after=labels_are_what_stood_there, sizes={"B": (4, 7), "L": (8, 6)}, ids=indices("B L", below=6), seed=seed())
def specials_are_never_chosen(impl, ids, seed):
    """Special ids are never chosen, wherever they stand: they stay in the inputs, and their label is -100, at any rate."""
    special = [0, 4, 5]
    stands = (ids == 0) | (ids >= 4)
    inputs, labels = impl.mask_tokens(ids, 5, 6, special, rate=1.0, generator=beside(impl, generator_from)(seed))
    return {"labels": labels, "special ids in the inputs": inputs.masked_fill(~stands, -1)}


def overwritten(mask_tokens, ids, *args):
    """The ids, after all that came back for them was overwritten."""
    for given in mask_tokens(ids, *args):
        given.fill_(-1)
    return ids


@check(points=1, after=labels_are_what_stood_there, sizes={"B": (6, 9), "L": (20, 31)}, ids=indices("B L", below=90), seed=seed())
def only_what_has_a_label_may_change(impl, ids, seed):
    """Where the label is -100 the input is the id itself, and all other labels are ids as they were. The ids given are left alone."""
    mine = {rate: beside(impl, overwritten)(impl.mask_tokens, ids, 91, 92, [0, 1], rate) for rate in (0.0, 1.0)}
    inputs, labels = impl.mask_tokens(ids, 91, 92, [0, 1], 0.4, beside(impl, generator_from)(seed))
    given = inputs_after(impl.mask_tokens, ids, 91, 92, [0, 1], 0.4)[0]
    none = labels == -100
    return {
        "inputs without a label": word((inputs == ids)[none].all(), "unchanged", "changed"),
        "labels": word((labels == ids)[~none].all(), "-100 or the id that stood there", "others"),
        "ids afterwards": word((given == ids).all(), "unchanged", "changed"),
        "ids after writing into the results": word(all((left == ids).all() for left in mine.values()), "unchanged", "changed"),
    }


# Masking: what holds for many.


def share(found, wanted, count):
    """A share in words: the wanted one, if it is found within six standard deviations."""
    found = float(found)
    near = abs(found - wanted) <= 6 * (wanted * (1 - wanted) / count) ** 0.5
    return f"{wanted:.1%} of them" if near else f"{found:.0%} of them, not {wanted:.1%}"


def spread(counts, n, p):
    """In words, whether counts vary as those of n independent draws do, each with probability p."""
    ratio = float(counts.double().var() / (n * p * (1 - p)))
    near = abs(ratio - 1) <= 6 * ((2 + 1 / (n * p * (1 - p))) / len(counts)) ** 0.5  # of independent draws, by their fourth moment
    return "as by independent draws" if near else "less than by independent draws" if ratio < 1 else "more than by independent draws"


def clumped(happened, p):
    """In words, whether rows and columns share their fate; that they vary less than chance has it, as with quotas, is no matter."""
    together = [spread(happened.sum(i), happened.shape[i], p).startswith("more") for i in (0, 1)]
    return "in whole rows or columns" if any(together) else "here and there"


def totals(mask_tokens, ids, rate, seed):
    """How many are chosen in each of 80 calls."""
    generator = torch.Generator().manual_seed(seed)
    return torch.tensor([int((mask_tokens(ids, 1, 100, [0, 1], rate, generator)[1] != -100).sum()) for _ in range(80)])


@check(points=2, after=labels_are_what_stood_there, rate=choice(0.15, 0.3), seed=seed())
def each_token_is_chosen_with_the_rate(impl, rate, seed):
    """Of many tokens the share `rate` is chosen, 15 % by default, each for itself: rows, columns and calls have no fixed shares."""
    ids, make = torch.full((200, 300), 7), beside(impl, generator_from)
    chosen = impl.mask_tokens(ids, 1, 100, [0, 1], rate, make(seed))[1] != -100
    default = impl.mask_tokens(ids, 1, 100, [0, 1], generator=make(seed))[1] != -100
    return {
        f"chosen, rate {rate}": share(chosen.double().mean(), rate, ids.numel()),
        "chosen, without a rate": share(default.double().mean(), 0.15, ids.numel()),
        "how many in each row varies": spread(chosen.sum(1), 300, rate),
        "how many in each column varies": spread(chosen.sum(0), 200, rate),
        "how many in each call varies": spread(beside(impl, totals)(impl.mask_tokens, ids[:2, :20], rate, seed), 40, rate),
    }


@check(points=2, after=labels_are_what_stood_there, rate=choice(1.0, 0.5), seed=seed())
def eight_of_ten_are_hidden_and_one_is_another(impl, rate, seed):
    """Of the chosen tokens 80 % become mask_id, 10 % a random id, and 10 % stay what they are, each token for itself."""
    V, ids = 2000, torch.full((200, 300), 7)
    inputs, labels = impl.mask_tokens(ids, 1, V, [0, 1], rate, beside(impl, generator_from)(seed))
    seen = inputs[labels != -100]
    wanted = {"mask_id": 0.8 + 0.1 / V, "unchanged": 0.1 + 0.1 / V, "other ids": 0.1 - 0.2 / V}
    found = {"mask_id": seen == 1, "unchanged": seen == 7, "other ids": (seen != 1) & (seen != 7)}
    shares = {name: share(found[name].double().mean(), wanted[name], max(seen.numel(), 1)) for name in wanted}
    ways = {"mask_id": inputs == 1, "other ids": (inputs != 1) & (inputs != 7)}
    return shares | {f"{name}, in rows and columns": clumped(way, rate * wanted[name]) for name, way in ways.items()}


@check(points=1, after=eight_of_ten_are_hidden_and_one_is_another, V=choice(4, 5), seed=seed())
def random_ids_come_from_the_whole_vocabulary(impl, V, seed):
    """A random id is any of the V with the same probability, special ids and the token's own too, and each is drawn for one token alone."""
    ids = torch.full((200, 250), 2)
    inputs = impl.mask_tokens(ids, 1, V, [0, 1], 1.0, beside(impl, generator_from)(seed))[0]
    extra = {1: 0.8, 2: 0.1}
    shares = {f"inputs that are {i}": share((inputs == i).double().mean(), extra.get(i, 0) + 0.1 / V, ids.numel()) for i in range(V)}
    return shares | {"inputs that are 0, in rows and columns": clumped(inputs == 0, 0.1 / V)}


def with_global_seed(function, seed, *args):
    """A call after the global generator was seeded, and the number that comes from that next."""
    torch.manual_seed(seed)
    inputs, labels = function(*args)
    return inputs, labels, torch.rand(()).item()


def second(function, seed, *args):
    """The second of two calls after the global generator was seeded."""
    torch.manual_seed(seed)
    function(*args)
    return function(*args)


@check(points=1, after=labels_are_what_stood_there, ids=indices("6 40", below=500), seed=seed())
def generator_alone_is_drawn_from(impl, ids, seed):
    """All is drawn from the generator given, which moves on, and the global one is left alone; without one all comes from that."""
    make, there = beside(impl, generator_from), beside(impl, with_global_seed)
    generator = make(seed)

    def call(global_seed, *generator):
        return there(impl.mask_tokens, global_seed, ids, 1, 500, [0, 1], 0.5, *generator)

    def same(one, other):
        inputs, labels = (word((a == b).all(), "the same", "others") for a, b in zip(one[:2], other[:2], strict=True))
        return {"inputs": inputs, "labels": labels}

    first, again = call(1, generator), call(1, generator)
    untouched = float(torch.rand((), generator=torch.Generator().manual_seed(1)))
    return {
        "from another generator with the same seed": same(first, call(2, make(seed))),
        "from the next call": same(first, again),
        "the global generator's next number": word(first[2] == untouched, "as if nothing had been drawn", "moved on"),
        "without a generator, same global seed": same(call(3), call(3)),
        "without a generator, another global seed": same(call(3), call(4)),
        "without a generator, the next call": same(call(3), beside(impl, second)(impl.mask_tokens, 3, ids, 1, 500, [0, 1], 0.5)),
    }


# The model: what it is made of.


@check(points=1, sizes={"N": (2,)}, N=size("N"))
def parameters_have_their_names_and_shapes(impl, N):
    """The parameters are those that the docstring lists, by name and shape, and no others: a published BERT could be loaded."""
    return {
        "two segments": parameters(impl.Bert(7, 5, 6, N, 2, 8)),
        "three segments, no layer": parameters(impl.Bert(7, 5, 6, 0, 2, 8, num_segments=3)),
    }


def scaled(model, scales):
    """The model with some of its parameters multiplied."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.mul_(math.prod(scale for part, scale in scales.items() if part in name))
    return model


EMBEDDINGS = {"token_embedding": 3.0, "position_embedding": 3.0, "segment_embedding": 3.0}
TINY = dict.fromkeys(EMBEDDINGS, 1e-6)
NOTHING = {"out_proj": 0.0, "ff.down": 0.0}


def built(impl, seed, V=7, max_len=6, M=6, N=1, H=2, hidden=5, segments=3, scales=EMBEDDINGS, **options):
    return beside(impl, scaled)(with_weights(impl.Bert(V, max_len, M, N, H, hidden, segments), seed, **options), scales)


@check(
    points=2,
    after=parameters_have_their_names_and_shapes,
    sizes={"B": (2, 3), "L": (1, 4), "N": (0, 2)},
    ids=indices("B L", below=7),
    segments=indices("B L", below=3),
    N=size("N"),
    seed=seed(),
)
def embeddings_are_added_and_normalised(impl, ids, segments, N, seed):
    """Where layers add nothing, hidden is the sum of token, position and segment embeddings, normalised; without segments all are 0."""
    model = built(impl, seed, N=N, constant=NOTHING)
    return {"with segments": model(ids, segments)[0], "without segments": model(ids)[0]}


@check(
    points=1,
    after=embeddings_are_added_and_normalised,
    sizes={"B": (2,), "L": (3,)},
    ids=indices("B L", below=7),
    segments=indices("B L", below=3),
    seed=seed(),
)
def eps_is_tiny_everywhere(impl, ids, segments, seed):
    """All norms have eps 1e-12, which shows where what they are given is tiny."""
    cases = {"embedding_norm": TINY, "norm1": EMBEDDINGS | {"embedding_norm": 1e-6}, "norm2": EMBEDDINGS | {"norm1": 1e-6}}
    found = {norm: built(impl, seed, scales=scales, constant=NOTHING)(ids, segments)[0] for norm, scales in cases.items()}
    model = built(impl, seed, scales={"mlm_transform": 1e-6})
    return found | {"mlm_norm": model.mlm_logits(model(ids)[0])}


@check(
    points=2,
    after=embeddings_are_added_and_normalised,
    sizes={"B": (2,), "L": (1, 5), "H": (1, 3)},
    ids=indices("B L", below=7),
    H=size("H"),
    seed=seed(),
)
def each_sublayer_is_right_alone(impl, ids, H, seed):
    """Where only one gives something, x becomes norm1(x + attention(x)), both ways, or norm2(x + down(gelu(up(x)))), exact GELU."""
    alone = {"attention alone": {"ff.down": 0.0}, "feed-forward alone": {"out_proj": 0.0}}
    return {name: built(impl, seed, M=4 * H, H=H, constant=nothing)(ids)[0] for name, nothing in alone.items()}


@check(
    points=2,
    after=each_sublayer_is_right_alone,
    sizes={"B": (1, 3), "L": (2, 5), "V": (7, 11), "H": (1, 3), "D": (4, 3), "N": (1, 3)},
    ids=indices("B L", below="V"),
    segments=indices("B L", below=3),
    V=size("V"),
    H=size("H"),
    D=size("D"),
    N=size("N"),
    seed=seed(),
)
def hidden_is_that_of_bert(impl, ids, segments, V, H, D, N, seed):
    """With the same weights hidden is that of BERT, for any number of layers."""
    return built(impl, seed, V, ids.shape[1] + 1, H * D, N, H)(ids, segments)[0]


@check(
    points=2,
    after=each_sublayer_is_right_alone,
    sizes={"B": (3,), "L": (2, 6)},
    ids=indices("B L", below=7),
    segments=indices("B L", below=3),
    keep=booleans("B L"),
    seed=seed(),
)
def padding_is_not_attended_to(impl, ids, segments, keep, seed):
    """No real token sees one where keep is False, wherever that stands; what is hidden at real tokens is right, with any ids at padding."""
    keep[:, 0], keep[:, -1], keep[0] = True, False, True
    model, sharp = built(impl, seed, N=2), built(impl, seed, scales=EMBEDDINGS | {"q_proj": 16.0, "k_proj": 16.0})
    both = {"hidden": ids, "hidden, with other ids at padding": torch.where(keep, ids, (ids + 1) % 7)}
    found = {name: model(given, keep=keep)[0].masked_fill(~keep[..., None], 0.0) for name, given in both.items()}
    return found | {
        "pooled": model(ids, None, keep)[1],
        "pooled, with segments": model(ids, segments, keep)[1],
        "pooled of one alone": model(ids[1:2], keep=keep[1:2])[1],
        "pooled, where scores are large": sharp(ids, None, keep)[1],
    }


@check(points=1, after=embeddings_are_added_and_normalised, sizes={"L": (1, 4)}, ids=indices("3 L", below=7), seed=seed())
def pooled_is_tanh_of_the_first(impl, ids, seed):
    """pooled is tanh of the pooler of the first token's hidden vector."""
    return built(impl, seed, constant=NOTHING)(ids)[1]


@check(points=1, after=parameters_have_their_names_and_shapes, sizes={"N": (5,)}, max_len=size("N"), seed=seed())
def more_than_max_len_tokens_are_refused(impl, max_len, seed):
    """max_len tokens work; with one more forward raises ValueError."""
    model = built(impl, seed, max_len=max_len)
    return {
        f"shape for {max_len} tokens": list(model(torch.ones(2, max_len, dtype=torch.int64))[0].shape),
        f"for {max_len + 1} tokens": failure(model, torch.ones(2, max_len + 1, dtype=torch.int64))[0],
    }


# The head.


@check(
    points=2,
    after=embeddings_are_added_and_normalised,
    sizes={"L": (1, 4), "V": (7, 11)},
    ids=indices("2 L", below="V"),
    V=size("V"),
    seed=seed(),
)
def head_ends_in_the_token_embedding(impl, ids, V, seed):
    """mlm_logits is mlm_norm(gelu(mlm_transform(hidden))), times the token embedding, plus mlm_bias, for all positions or for some."""
    model = built(impl, seed, V, constant=NOTHING)
    hidden = model(ids)[0]
    return {
        "of all positions": model.mlm_logits(hidden),
        "of some": model.mlm_logits(hidden[:, -1]),
        "of one": model.mlm_logits(hidden[0, 0]),
    }


def loss_and_gradients(model, ids, labels):
    hidden, pooled = model(ids)
    loss = F.cross_entropy(model.mlm_logits(hidden).flatten(0, 1), labels.flatten()) + pooled.sum()
    loss.backward()
    return {name: torch.zeros_like(p) if p.grad is None else p.grad for name, p in model.named_parameters()}


@check(
    points=1,
    after=(hidden_is_that_of_bert, head_ends_in_the_token_embedding, pooled_is_tanh_of_the_first),
    sizes={"L": (4,)},
    ids=indices("2 L", below=7, start=1),
    labels=indices("2 L", below=7),
    seed=seed(),
)
def all_weights_get_their_gradients(impl, ids, labels, seed):
    """All parameters get their gradients, the token embedding from both of its ends."""
    return beside(impl, loss_and_gradients)(built(impl, seed), ids, labels)
