"""What right sampling does."""

import torch

from kata.grading import beside, booleans, check, choice, count, distinct, failure, index, indices, inputs_after, normal, seed

ROWS = {"B": (2,), "V": (1, 5, 9)}  # where rows are not the subject
ONE_SIZE = {"B": (2,), "V": (7,)}


def kept(logits):
    return logits != -torch.inf


def generator(seed):
    return torch.Generator().manual_seed(seed)


def seed_globally(seed):
    torch.default_generator.manual_seed(seed)


def global_state():
    return torch.default_generator.get_state()


def same(one, other):
    return "the same" if torch.equal(one, other) else "others"


# The filters.


@check(points=2, sizes=ROWS, logits=distinct("B V", spread=0.5), k=count("V"), draws=2)
def top_k_keeps_the_k_largest(impl, logits, k):
    """top_k_filter keeps the k largest logits of each row, where they stand, and makes all others -inf."""
    return {"kept": kept(impl.top_k_filter(logits, k)), "kept of logits + 1e9": kept(impl.top_k_filter(logits + 1e9, k))}


@check(points=1, after=top_k_keeps_the_k_largest, sizes=ROWS, ranks=indices("B V", below=4), k=count("V"), draws=2)
def ties_with_the_kth_stay(impl, ranks, k):
    """A logit that equals the k-th largest is kept too, so that more than k may be left."""
    return {"kept": kept(impl.top_k_filter(ranks.double() - 1.5, k))}


@check(points=1, after=top_k_keeps_the_k_largest, sizes=ONE_SIZE | {"V": (1, 7)}, logits=distinct("B V"))
def large_k_keeps_all(impl, logits):
    """With k = V or more top_k_filter keeps all."""
    V = logits.shape[-1]
    return {f"kept at k = {k}": kept(impl.top_k_filter(logits, k)) for k in (V, V + 1, 50)}


@check(points=2, sizes=ROWS, logits=distinct("B V", spread=0.5), p=choice(0.35, 0.6, 0.9), draws=2)
def top_p_keeps_the_smallest_set(impl, logits, p):
    """top_p_filter keeps the likeliest tokens up to the one with which their probabilities reach p, that one included."""
    return {"kept": kept(impl.top_p_filter(logits, p))}


@check(points=1, after=top_p_keeps_the_smallest_set, sizes=ONE_SIZE, logits=distinct("B V"), peak=choice(3.0, 30.0))
def top_p_keeps_at_least_one(impl, logits, peak):
    """However small p is, the likeliest token is kept, also where it is so likely that there is hardly anything else; p = 1 keeps all."""
    peaked = torch.where(logits == logits.amax(-1, keepdim=True), logits + peak, logits)
    return {
        "kept at p = 0.001": kept(impl.top_p_filter(logits, 1e-3)),
        "kept at p = 1e-9": kept(impl.top_p_filter(logits, 1e-9)),
        "kept of a peak": kept(impl.top_p_filter(peaked, 0.6)),
        "kept at p = 1": kept(impl.top_p_filter(logits, 1.0)),
    }


@check(points=2, sizes=ROWS, logits=distinct("B V", spread=0.5), p=choice(0.05, 0.2, 0.5), draws=2)
def min_p_is_relative_to_the_likeliest(impl, logits, p):
    """min_p_filter keeps the tokens whose probability is at least p times the highest of their row."""
    return {"kept": kept(impl.min_p_filter(logits, p))}


@check(points=1, after=min_p_is_relative_to_the_likeliest, sizes=ONE_SIZE | {"B": (1,)}, logits=distinct("B V"))
def min_p_may_be_0_and_1(impl, logits):
    """With p = 0 min_p_filter keeps all, with p = 1 the likeliest."""
    return {"kept at p = 0": kept(impl.min_p_filter(logits, 0.0)), "kept at p = 1": kept(impl.min_p_filter(logits, 1.0))}


@check(
    points=1,
    after=(top_k_keeps_the_k_largest, top_p_keeps_the_smallest_set, min_p_is_relative_to_the_likeliest),
    sizes=ONE_SIZE,
    logits=distinct("B V", spread=0.5),
    banned=booleans("B V", share=0.5),
    dtype=choice(torch.float32, torch.float64),
    draws=3,
)
def filters_change_nothing_else(impl, logits, banned, dtype):
    """What is kept is as it was, dtype included, what is removed is -inf, and what came as -inf stays so."""
    banned[logits == logits.amax(-1, keepdim=True)] = False
    logits = logits.masked_fill(banned, -torch.inf).to(dtype)
    return {
        "top_k": impl.top_k_filter(logits, 5),
        "top_p": impl.top_p_filter(logits, 0.7),
        "min_p": impl.min_p_filter(logits, 0.4),
    }


@check(
    points=1,
    after=(top_k_keeps_the_k_largest, top_p_keeps_the_smallest_set, min_p_is_relative_to_the_likeliest),
    sizes={"A": (2,), "B": (3,), "V": (6,)},
    logits=distinct("A B V", spread=0.5),
    scale=choice(0.3, 3.0),
)
def rows_are_filtered_by_themselves(impl, logits, scale):
    """There may be any number of leading axes, none included, and each row is filtered by itself, whatever the others hold."""
    logits[0] *= scale
    logits[:, 1] -= 1000
    cases = {"no leading axis": logits[0, 0], "two": logits}
    return {
        f"{axes}, {name}": kept(function(case, number))
        for axes, case in cases.items()
        for name, function, number in (
            ("top_k", impl.top_k_filter, 2),
            ("top_p", impl.top_p_filter, 0.7),
            ("min_p", impl.min_p_filter, 0.4),
        )
    }


# The penalty.


@check(
    points=2,
    sizes={"B": (1, 3), "V": (2, 6), "L": (1, 2)},
    logits=normal("B V"),
    ids=indices("B L", below="V", unique=True),
)
def seen_tokens_are_penalised(impl, logits, ids):
    """repetition_penalty divides the positive logits of a row's own ids, multiplies the negative ones, and leaves all others."""
    return {f"penalty = {penalty}": impl.repetition_penalty(logits, ids, penalty) for penalty in (2.0, 0.8)}


@check(
    points=1,
    after=seen_tokens_are_penalised,
    sizes={"B": (2,), "V": (3,), "L": (0, 2, 7)},
    logits=normal("B V"),
    ids=indices("B L", below="V"),
    ruled_out=index("V"),
    penalty=choice(1.3, 2.0),
    dtype=choice(torch.float32, torch.float64),
)
def each_seen_token_counts_once(impl, logits, ids, ruled_out, penalty, dtype):
    """A token that occurs several times is penalised once; where nothing has been produced yet, nothing is.

    What comes as -inf stays so, seen or not, and the dtype is that of the logits.
    """
    logits[0, ruled_out] = -torch.inf
    return impl.repetition_penalty(logits.to(dtype), ids, penalty)


# The distribution.


@check(
    points=1,
    sizes={"A": (2,), "B": (1, 3), "V": (1, 5)},
    logits=normal("A B V"),
    dtype=choice(torch.float32, torch.float64),
)
def temperature_divides_the_logits(impl, logits, dtype):
    """Without filters distribution is the softmax of the logits divided by the temperature, along the last axis, in their dtype.

    However large the logits are, however small the temperature, and also if tokens are ruled out already.
    """
    logits = logits.to(dtype)
    ruled_out = logits < logits.amax(-1, keepdim=True) - 1
    return {
        "no temperature given": impl.distribution(logits),
        "temperature = 0.2": impl.distribution(logits, 0.2),
        "temperature = 3": impl.distribution(logits, temperature=3.0),
        "no leading axis": impl.distribution(logits[0, 0], 0.2),
        "logits + 1000": impl.distribution(logits + 1000),
        "logits / 1e6, temperature = 1e-6": impl.distribution(logits / 1e6, temperature=1e-6),
        "logits / 1e10, temperature = 1e-10": impl.distribution(logits / 1e10, temperature=1e-10),
        "some are -inf": impl.distribution(logits.masked_fill(ruled_out, -torch.inf), 0.2),
    }


@check(points=1, after=temperature_divides_the_logits, sizes=ROWS | {"A": (2,)}, logits=distinct("A B V"))
def temperature_0_is_the_arg_max(impl, logits):
    """At temperature 0 the token with the largest logit, by however little, has probability 1, in the logits' dtype; no NaN comes up."""
    return {
        "without filters": impl.distribution(logits, 0.0),
        "with all": impl.distribution(logits, 0, top_k=2, top_p=0.9, min_p=0.1),
        "logits / 1e6, float32": impl.distribution((logits / 1e6).float(), 0.0),
        "logits / 1e8": impl.distribution(logits / 1e8, 0.0),
        "all but the largest -inf": impl.distribution(logits.masked_fill(logits < logits.amax(-1, keepdim=True), -torch.inf), 0.0),
    }


@check(
    points=2,
    after=(
        temperature_divides_the_logits,
        top_k_keeps_the_k_largest,
        top_p_keeps_the_smallest_set,
        min_p_is_relative_to_the_likeliest,
    ),
    sizes={"B": (3,), "V": (10,)},
    logits=distinct("B V", spread=0.4),
    temperature=choice(0.5, 2.0),
)
def filters_come_in_order(impl, logits, temperature):
    """temperature, top-k, top-p, min-p: each acts on the distribution that the one before has left, and what is left sums to 1."""
    seen = {"top_k = 5, min_p = 0.5": impl.distribution(logits, top_k=5, min_p=0.5)}
    for p in (0.5, 0.6, 0.7, 0.8):
        seen |= {
            f"top_k = 5, top_p = {p}": impl.distribution(logits, top_k=5, top_p=p),
            f"top_p = {p}, min_p = 0.2": impl.distribution(logits, top_p=p, min_p=0.2),
            f"temperature = {temperature}, top_p = {p}": impl.distribution(logits, temperature, top_p=p),
        }
    seen[f"temperature = {temperature}, min_p = 0.3"] = impl.distribution(logits, temperature, min_p=0.3)
    return seen | {"all": impl.distribution(logits, temperature, 6, 0.8, 0.5)}


@check(
    points=1,
    after=(top_k_keeps_the_k_largest, top_p_keeps_the_smallest_set, min_p_is_relative_to_the_likeliest, seen_tokens_are_penalised),
    sizes=ONE_SIZE | {"L": (2,)},
    logits=distinct("B V"),
    ids=indices("B L", below="V"),
)
def arguments_out_of_range_raise(impl, logits, ids):
    """ValueError: k below 1, top-p's p not in (0, 1], min-p's p not in [0, 1], a penalty not above 0, a temperature below 0."""
    top_k, top_p, min_p, penalty, law = (
        impl.top_k_filter,
        impl.top_p_filter,
        impl.min_p_filter,
        impl.repetition_penalty,
        impl.distribution,
    )
    calls = {f"top_k_filter, k = {k}": (top_k, {"k": k}) for k in (0, -1)}
    calls |= {f"top_p_filter, p = {p}": (top_p, {"p": p}) for p in (0.0, -0.1, 1.1)}
    calls |= {f"min_p_filter, p = {p}": (min_p, {"p": p}) for p in (-0.1, 1.1)}
    calls |= {f"repetition_penalty, penalty = {number}": (penalty, {"ids": ids, "penalty": number}) for number in (0.0, -1.5)}
    wrong = {"temperature": -0.1, "top_k": 0, "top_p": 0.0, "min_p": -0.1}
    calls |= {f"distribution, {name} = {value}": (law, {name: value}) for name, value in wrong.items()}
    calls |= {f"sample, {name} = {value}": (impl.sample, {name: value}) for name, value in wrong.items()}
    return {what: failure(function, logits, **arguments)[0] for what, (function, arguments) in calls.items()}


# The draw.


@check(points=1, sizes={"B": (1, 20), "V": (6,)}, logits=distinct("B V", spread=0.2), seed=seed())
def settings_reach_the_draw(impl, logits, seed):
    """sample gives (B,) ids, int64; where temperature, top_k, top_p or min_p leaves one token, each row gets its own."""
    make = beside(impl, generator)
    settings = {"temperature": 0.0, "top_k": 1, "top_p": 0.01, "min_p": 1.0}
    seen = {f"{name} = {value}": impl.sample(logits, generator=make(seed), **{name: value}) for name, value in settings.items()}
    return seen | {"top_k = 1, logits in float32": impl.sample(logits.float(), top_k=1, generator=make(seed))}


@check(points=2, after=settings_reach_the_draw, sizes={"R": (2,), "V": (6,)}, logits=distinct("R V", spread=2.0), seed=seed())
def ids_follow_the_distribution(impl, logits, seed):
    """Of 5000 rows, two distributions in turn, tokens come as often as due, within 6 standard deviations, and removed ones never."""
    (R, V), draws, settings = logits.shape, 2500, {"temperature": 2.5, "top_k": 5}
    ids = impl.sample(logits.repeat(draws, 1), generator=beside(impl, generator)(seed), **settings)
    probs, seen = impl.distribution(logits, **settings), {}
    for row in range(R):
        counts = ids.view(draws, R)[:, row].bincount(minlength=V).tolist()
        for token, (drawn, prob) in enumerate(zip(counts, probs[row].tolist(), strict=True)):
            seen[f"distribution {row}, token {token}"] = verdict(drawn, draws, prob)
    return seen


@check(points=1, after=ids_follow_the_distribution, sizes={"V": (3,)}, logits=distinct("1 V", spread=0.2), seed=seed())
def rows_are_drawn_independently(impl, logits, seed):
    """2000 rows with one distribution: each pair of tokens stands in two rows, near or far, as often as independent draws put it there."""
    V = logits.shape[-1]
    ids = impl.sample(logits.repeat(2000, 1), generator=beside(impl, generator)(seed))
    probs, seen = impl.distribution(logits)[0], {}
    for apart in (1, 2, 1000):
        pairs = (ids[:-apart] * V + ids[apart:]).bincount(minlength=V * V).tolist()
        for pair, drawn in enumerate(pairs):
            one, other = divmod(pair, V)
            seen[f"{one} and, {apart} below, {other}"] = verdict(drawn, sum(pairs), float(probs[one] * probs[other]))
    return seen


def verdict(times, of, prob):
    """Whether what happened so many times may have this probability."""
    if prob == 0:
        return "never" if times == 0 else "drawn, though removed"
    due, bound = of * prob, 6 * (of * prob * (1 - prob)) ** 0.5 + 2
    return "as often as due" if abs(times - due) <= bound else "too often" if times > due else "too seldom"


@check(points=2, after=settings_reach_the_draw, sizes={"B": (60,), "V": (8,)}, logits=distinct("B V", spread=0.1), seed=seed())
def generator_is_the_one_source(impl, logits, seed):
    """The ids depend on the given generator alone and move it on; PyTorch's global one is neither used nor changed."""
    make, seed_there, state = beside(impl, generator), beside(impl, seed_globally), beside(impl, global_state)

    def draw(generator, world):
        seed_there(world)
        return impl.sample(logits, generator=generator)

    used = make(seed)
    first, next_one = draw(used, 1), draw(used, 1)
    seed_there(3)
    before = state()
    impl.sample(logits, 0.7, 5, generator=used)
    untouched = torch.equal(before, state())
    return {
        "ids from the same state": same(first, draw(make(seed), 2)),
        "ids of the next draw": same(first, next_one),
        "ids from another seed": same(first, draw(make(seed + 1), 1)),
        "global generator": "unchanged" if untouched else "changed",
    }


@check(points=1, after=settings_reach_the_draw, sizes={"B": (60,), "V": (8,)}, logits=distinct("B V", spread=0.2), seed=seed())
def defaults_are_neutral(impl, logits, seed):
    """By default sample draws at temperature 1, without filters, and from PyTorch's global generator, which each draw moves on."""
    seed_there = beside(impl, seed_globally)
    seed_there(seed)
    first, next_one = impl.sample(logits), impl.sample(logits)
    seed_there(seed)
    again = impl.sample(logits, 1.0, None, None, None, None)
    return {"ids after the same seed, defaults written out": same(first, again), "ids of the next draw": same(first, next_one)}


@check(
    points=1,
    after=(top_k_keeps_the_k_largest, top_p_keeps_the_smallest_set, min_p_is_relative_to_the_likeliest, seen_tokens_are_penalised),
    sizes=ONE_SIZE | {"L": (2,)},
    logits=distinct("B V"),
    ids=indices("B L", below="V"),
    seed=seed(),
)
def inputs_are_left_alone(impl, logits, ids, seed):
    """No function changes the logits or the ids that it is given."""
    return {
        "top_k_filter": inputs_after(impl.top_k_filter, logits, 2)[0],
        "top_p_filter": inputs_after(impl.top_p_filter, logits, 0.6)[0],
        "min_p_filter": inputs_after(impl.min_p_filter, logits, 0.3)[0],
        "repetition_penalty": inputs_after(impl.repetition_penalty, logits, ids, 2.0)[:2],
        "distribution": inputs_after(impl.distribution, logits, 0.5, 3, 0.9, 0.1)[0],
        "sample": inputs_after(impl.sample, logits, 0.5, 3, 0.9, 0.1)[0],
    }
