"""What a right beam search does."""

import torch

from kata.grading import beside, check, choice, distinct, failure, index, size

SMALL = {"T": (1, 4), "V": (3, 5)}
ONE_SIZE = {"T": (4,), "V": (4,)}


def by_position(table):
    """A step that looks up how many ids there are and which is the last: log-probabilities table[t - 1, last], table (T, V, V)."""

    def step(ids):
        if ids.shape[1] > len(table):
            raise ValueError(f"step was given {ids.shape[1]} ids a row, bos included, where max_len is {len(table)}")
        return table[ids.shape[1] - 1, ids[:, -1]]

    return step


def by_prefix(table):
    """A step that depends on every id of a row: it makes a number of them, which names a row of the table, (R, V)."""

    def step(ids):
        row = torch.zeros(len(ids), dtype=torch.int64)
        for column in ids.unbind(1):
            row = (row * 31 + column + 1) % len(table)
        return table[row]

    return step


def by_tree(tree):
    """A step that looks up the ids of a row in a tree of probabilities, such as {"1": {"0": 0.4, "2": 0.6}}; ids 0 to 4."""

    def step(ids):
        found = [tree.get(" ".join(map(str, row)), {}) for row in ids.tolist()]
        return torch.tensor([[probs.get(str(token), 0.0) for token in range(5)] for probs in found], dtype=torch.float64).log()

    return step


def noting(table):
    """by_position, with a method `seen` that tells what it was given."""
    firsts, lengths, kinds = set(), set(), set()

    def step(ids):
        firsts.update(ids[:, 0].tolist())
        lengths.add(ids.shape[1])
        kinds.add(f"{ids.ndim}-D {ids.dtype}")
        return table[ids.shape[1] - 1, ids[:, -1]]

    step.seen = lambda: {"first ids": sorted(firsts), "ids in a row": sorted(lengths), "kind": sorted(kinds)}
    return step


def read(result):
    pairs = [(ids, round(score, 6) if isinstance(score, float) else score) for ids, score in result]
    return {"hypotheses": [ids for ids, _ in pairs], "scores": [score for _, score in pairs]}


def step_of(impl, logits, make=by_position):
    return beside(impl, make)(logits.log_softmax(-1))


def without_end(logits, eos_id):
    logits[..., eos_id] = -torch.inf
    return logits


# Trees of probabilities, to be followed by hand: 1 is bos, 0 is eos.
NARROW = {
    "1": {"0": 0.4, "2": 0.35, "3": 0.25},
    "1 2": {"0": 0.3, "2": 0.36, "3": 0.34},
    "1 3": {"0": 0.03, "2": 0.95, "3": 0.02},
    "1 3 2": {"0": 0.9, "2": 0.06, "3": 0.04},
}
ONE_PARENT = {
    "1": {"2": 0.7, "3": 0.3},
    "1 2": {"0": 0.45, "2": 0.3, "3": 0.25},
    "1 3": {"0": 0.2, "2": 0.5, "3": 0.3},
    "1 2 2": {"0": 0.36, "2": 0.34, "3": 0.3},
    "1 2 3": {"0": 1.0},
    "1 3 2": {"0": 1.0},
}
TWO_END = {  # two of the best end in the second round, and the one that ranks fifth goes on
    "1": {"2": 0.5, "3": 0.3, "4": 0.2},
    "1 2": {"0": 0.4, "2": 0.32, "3": 0.28},
    "1 3": {"0": 0.62, "2": 0.2, "3": 0.18},
    "1 4": {"0": 0.05, "2": 0.6, "3": 0.35},
    "1 2 2": {"0": 0.55, "2": 0.45},
    "1 2 3": {"0": 0.52, "2": 0.48},
    "1 4 2": {"0": 1.0},
}
GARDEN_PATH = {
    "1": {"2": 0.4, "3": 0.35, "4": 0.25},
    "1 2": {"2": 0.42, "3": 0.38, "4": 0.2},
    "1 3": {"2": 0.4, "3": 0.36, "4": 0.24},
    "1 4": {"3": 0.97, "4": 0.03},
    "1 2 2": {"0": 0.51, "2": 0.49},
    "1 2 3": {"0": 0.55, "2": 0.45},
    "1 3 2": {"0": 0.9, "2": 0.1},
    "1 4 3": {"0": 1.0},
}
LOW_END = {
    "1": {"0": 0.25, "2": 0.4, "3": 0.35},
    "1 2": {"0": 0.5, "2": 0.3, "3": 0.2},
    "1 3": {"0": 0.45, "2": 0.35, "3": 0.2},
}
LATE = {
    "1": {"0": 0.45, "2": 0.35, "3": 0.2},
    "1 2": {"0": 0.06, "2": 0.9, "3": 0.04},
    "1 2 2": {"0": 0.9, "2": 0.06, "3": 0.04},
    "1 3": {"0": 0.8, "3": 0.2},
}
UNLIKELY = {"1": {"0": 1e-90, "2": 2e-200, "3": 1e-200}, "1 2": {"2": 1e-150}, "1 2 2": {"0": 1e-20}, "1 3": {"0": 1e-140}}
SURE_IN_THE_END = {"1 2": {"2": 1.0}, "1 2 2": {"2": 1.0}, "1 2 2 2": {"0": 1.0}}
LONG = {"1": {"0": 0.7, "2": 0.3}} | SURE_IN_THE_END  # with alpha = 1 only the fourth token makes the long one better
LONGER = {"1": {"0": 0.8, "2": 0.2}} | SURE_IN_THE_END  # with alpha = 2
BOTH_END = {  # both ends are likelier than what else there is; with alpha = 1 what ranks fourth wins over one of them
    "1": {"2": 0.5, "3": 0.4, "4": 0.1},
    "1 2": {"0": 0.5, "2": 0.3, "3": 0.2},
    "1 3": {"0": 0.5, "2": 0.3, "3": 0.2},
    "1 2 2": {"0": 0.5, "2": 0.5},
    "1 3 2": {"0": 1.0},
}


# The beam.


@check(points=1, sizes=SMALL, table=distinct("T V V"), eos_id=index("V"))
def one_beam_is_greedy(impl, table, eos_id):
    """With beam_width = 1 and alpha = 0 the likeliest token is added each time, until it is eos or there are max_len after bos.

    (step gives the log-softmax of table[t - 1, last id].)
    """
    V = table.shape[-1]
    return read(impl.beam_search(step_of(impl, table), (eos_id + 1) % V, eos_id, 1, len(table)))


@check(points=1, sizes={"V": (3, 6)}, logits=distinct("V"), eos_id=index("V"), width=choice(2, 3))
def first_beam_is_the_best_tokens(impl, logits, eos_id, width):
    """The search starts from one hypothesis, so that after one round the results are different: bos and each of the best tokens.

    (step gives the log-softmax of the logits.)
    """
    V = len(logits)
    step = step_of(impl, logits.expand(1, V, V))
    return read(impl.beam_search(step, bos_id=(eos_id + 1) % V, eos_id=eos_id, beam_width=width, max_len=1))


@check(
    points=2,
    after=first_beam_is_the_best_tokens,
    sizes={"T": (2, 3), "V": (3, 5)},
    table=distinct("T V V"),
    eos_id=index("V"),
    width=choice(2, 3),
)
def continuations_compete_with_all_others(impl, table, eos_id, width):
    """Each round the continuations of all live hypotheses are ranked together; the best may all come from one of them.

    (step gives the log-softmax of table[t - 1, last id]. Here none ends.)
    """
    V = table.shape[-1]
    step = step_of(impl, without_end(table, eos_id))
    return read(impl.beam_search(step, (eos_id + 1) % V, eos_id, width, len(table)))


@check(points=1, after=continuations_compete_with_all_others, tree=choice(GARDEN_PATH))
def what_ranks_lower_is_dropped(impl, tree):
    """What falls out of the beam is not looked at again, however well it would have ended; a wider one finds it. (1 is bos, 0 eos.)"""
    step = beside(impl, by_tree)(tree)
    return {f"beam_width = {width}": read(impl.beam_search(step, 1, 0, width, 3)) for width in (1, 2, 3)}


@check(
    points=1,
    after=continuations_compete_with_all_others,
    sizes={"V": (4, 6), "R": (97,), "T": (3,)},
    table=distinct("R V"),
    eos_id=index("V"),
    max_len=size("T"),
)
def step_is_given_whole_hypotheses(impl, table, eos_id, max_len):
    """step is given all ids of a hypothesis, in order, and its own, for all may count. (Here none ends.)"""
    V = table.shape[-1]
    step = step_of(impl, without_end(table, eos_id), by_prefix)
    return read(impl.beam_search(step, (eos_id + 1) % V, eos_id, 3, max_len))


@check(points=1, sizes=ONE_SIZE, table=distinct("T V V"), eos_id=index("V"), width=choice(1, 3))
def step_is_given_what_it_takes(impl, table, eos_id, width):
    """step is given int64 ids in two dimensions; each row begins with bos and holds 1 to max_len ids, bos included. (Here none ends.)"""
    V = table.shape[-1]
    step = step_of(impl, without_end(table, eos_id), noting)
    impl.beam_search(step, (eos_id + 1) % V, eos_id, width, len(table))
    return step.seen()


# What has ended.


@check(points=1, after=continuations_compete_with_all_others, tree=choice(NARROW), other_tree=choice(ONE_PARENT), third=choice(TWO_END))
def ended_hypotheses_make_room(impl, tree, other_tree, third):
    """A hypothesis that ends takes up no place: going down the ranking, beam_width live ones are found. (1 is bos, 0 is eos.)"""
    cases = {"tree, beam_width = 2": (tree, 2), "other_tree, beam_width = 2": (other_tree, 2), "third, beam_width = 3": (third, 3)}
    return {case: read(impl.beam_search(beside(impl, by_tree)(found), 1, 0, width, 3)) for case, (found, width) in cases.items()}


@check(
    points=2,
    after=continuations_compete_with_all_others,
    sizes={"T": (2, 4), "V": (5,)},
    table=distinct("T V V"),
    eos_id=index("V"),
    width=choice(2, 3),
    draws=2,
)
def ended_hypotheses_are_set_aside(impl, table, eos_id, width):
    """A hypothesis that ends joins the finished and is not continued, while the others go on; in the end the best of all count.

    (step gives the log-softmax of table[t - 1, last id].)
    """
    V = table.shape[-1]
    return read(impl.beam_search(step_of(impl, table), (eos_id + 1) % V, eos_id, width, len(table)))


@check(points=1, after=ended_hypotheses_are_set_aside, tree=choice(LOW_END))
def ends_below_the_beam_are_dropped(impl, tree):
    """Once the next beam is full, what ranks lower is dropped, a continuation that ends as well. (1 is bos, 0 is eos.)"""
    step = beside(impl, by_tree)(tree)
    return {f"beam_width = {width}": read(impl.beam_search(step, 1, 0, width, 2)) for width in (1, 2, 3)}


@check(
    points=1, after=ended_hypotheses_are_set_aside, sizes={"T": (1, 3), "V": (4,)}, table=distinct("T V V", spread=0.5), eos_id=index("V")
)
def live_ones_count_at_the_end(impl, table, eos_id):
    """After max_len tokens live hypotheses compete with the finished ones; they are returned without eos.

    (step gives the log-softmax of table[t - 1, last id].)
    """
    V = table.shape[-1]
    return read(impl.beam_search(step_of(impl, table), (eos_id + 1) % V, eos_id, 4, len(table)))


@check(
    points=1,
    after=ended_hypotheses_are_set_aside,
    sizes={"V": (3, 5)},
    table=distinct("3 V V"),
    eos_id=index("V"),
    tree=choice({"1": {"2": 1.0}}),
)
def impossible_hypotheses_are_not_kept(impl, table, eos_id, tree):
    """A hypothesis whose sum is -inf is not kept, even if there are fewer than beam_width, or none.

    (step gives the log-softmax of table[t - 1, last id]; here eos, and only eos, can be second. Or what the tree says: 1 is bos, 0 eos.)
    """
    V = table.shape[-1]
    ends = torch.arange(V) == eos_id
    table[0, :, ends] = -torch.inf
    table[1, :, ~ends] = -torch.inf
    return {
        "table": read(impl.beam_search(step_of(impl, table), (eos_id + 1) % V, eos_id, 10, 3)),
        "tree, where nothing can be second": read(impl.beam_search(beside(impl, by_tree)(tree), 1, 0, 2, 3)),
    }


@check(
    points=1,
    after=ended_hypotheses_are_set_aside,
    sizes={"T": (1, 3), "V": (2, 3)},
    table=distinct("T V V", spread=3.0),
    eos_id=index("V"),
    tree=choice(UNLIKELY),
)
def wide_beam_finds_all(impl, table, eos_id, tree):
    """A beam with room for all hypotheses, wider than V, finds each of them, the best first, however unlikely they are.

    (step gives the log-softmax of table[t - 1, last id], or what the tree says.)
    """
    V = table.shape[-1]
    return {
        "table": read(impl.beam_search(step_of(impl, table), (eos_id + 1) % V, eos_id, 60, len(table))),
        "tree (1 is bos, 0 is eos)": read(impl.beam_search(beside(impl, by_tree)(tree), 1, 0, 60, 3)),
    }


# The score.


@check(
    points=2,
    after=ended_hypotheses_are_set_aside,
    sizes={"T": (2, 4), "V": (4,)},
    table=distinct("T V V"),
    eos_id=index("V"),
    width=choice(2, 4),
    alpha=choice(0.6, 1.0, 2.0),
    draws=2,
)
def score_is_normalised(impl, table, eos_id, width, alpha):
    """The score is sum / n ** alpha, n the tokens after bos, eos included; by it the best are chosen and put in order.

    (step gives the log-softmax of table[t - 1, last id].)
    """
    V = table.shape[-1]
    step = step_of(impl, table)
    return read(impl.beam_search(step, (eos_id + 1) % V, eos_id, width, len(table), alpha=alpha))


@check(points=1, after=score_is_normalised, tree=choice(LATE), long=choice(LONG), longer=choice(LONGER), both=choice(BOTH_END))
def search_goes_on_after_an_end(impl, tree, long, longer, both):
    """That one has ended, or beam_width have, is no end while others may get a better score: beam_width go on. (1 is bos, 0 is eos.)"""
    cases = {
        "tree, alpha = 1, beam_width = 1": (tree, 1, 3, 1.0),
        "tree, alpha = 1, beam_width = 2": (tree, 2, 3, 1.0),
        "long, alpha = 1, beam_width = 1": (long, 1, 4, 1.0),
        "longer, alpha = 2, beam_width = 1": (longer, 1, 4, 2.0),
        "both, alpha = 1, beam_width = 2": (both, 2, 3, 1.0),
    }
    return {case: read(impl.beam_search(beside(impl, by_tree)(found), 1, 0, *rest)) for case, (found, *rest) in cases.items()}


@check(points=1, after=one_beam_is_greedy, table=distinct("2 4 4"))
def arguments_out_of_range_raise(impl, table):
    """beam_width or max_len below 1, or alpha below 0, raises ValueError."""
    step = step_of(impl, table)
    wrong = {"beam_width": 0, "max_len": 0, "alpha": -0.5}
    legal = {"bos_id": 1, "eos_id": 0, "beam_width": 2, "max_len": 2}
    return {f"{name} = {value}": failure(impl.beam_search, step, **(legal | {name: value}))[0] for name, value in wrong.items()}
