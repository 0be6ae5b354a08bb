"""What right speculative decoding does."""

import math

import torch
from torch import Generator, Tensor

from kata.grading import beside, booleans, check, choice, index, indices, inputs_after, seed, size
from kata.inputs import Sizes, Strategy, names_in, shape_of

ROUND = {"g": (1, 2, 4), "V": (2, 3, 5)}
LOOP = {"g": (1, 2, 4), "V": (2, 3, 5), "N": (1, 3, 6), "n": (1, 2, 3)}


# Distributions in hundredths and uniforms in 997ths: what is to be compared is never equal, nor nearly so.


def cut(total: int, shape: list[int], least: int, generator: Generator) -> Tensor:
    """Integers, at least `least`, that sum to `total` along the last axis."""
    inner = torch.randint(total - least * shape[-1] + 1, [*shape[:-1], shape[-1] - 1], generator=generator).sort(-1).values
    first, last = torch.zeros_like(inner[..., :1]), torch.full_like(inner[..., :1], total - least * shape[-1])
    return torch.cat([first, inner, last], dim=-1).diff() + least


def targets(axes: str, more: int = 0) -> Strategy:
    """Distributions, two entries of each an odd number of hundredths, some zero; `more` rows than the axes say."""

    def draw(sizes: Sizes, generator: Generator) -> Tensor:
        *rows, V = shape_of(axes, sizes)
        hundredths = 2 * cut(50, [*[n + more for n in rows], V], 0, generator)
        largest = hundredths.argmax(-1, keepdim=True)
        other = (largest + torch.randint(1, V, largest.shape, generator=generator)) % V
        one = torch.ones_like(largest)
        return hundredths.scatter_add(-1, largest, -one).scatter_add(-1, other, one).double() / 100

    return Strategy(names_in(axes), draw)


def drafts(axes: str) -> Strategy:
    """Distributions, each entry an even number of hundredths and none zero: never the same as a target's."""
    return Strategy(names_in(axes), lambda sizes, generator: cut(50, shape_of(axes, sizes), 1, generator).double() / 50)


def uniforms(axis: str) -> Strategy:
    """One more than the axis says, of (k + 1/2) / 997, never 1/2."""

    def draw(sizes: Sizes, generator: Generator) -> Tensor:
        k = torch.randint(996, (sizes[axis] + 1,), generator=generator)
        return (k + (k >= 498) + 0.5).double() / 997

    return Strategy((axis,), draw)


# The residual distribution.


@check(points=1, sizes={"V": (2, 3, 8)}, p=targets("V"), q=drafts("V"), draws=2)
def residual_is_where_p_exceeds_q(impl, p, q):
    """residual_distribution is max(0, p - q), divided by its sum, in one direction as in the other, near as p and q may be."""
    near = p + (q - p) / 1e4
    return {
        "of p and q": impl.residual_distribution(p, q),
        "of q and p": impl.residual_distribution(q, p),
        "of p and 0.9999 p + 0.0001 q": impl.residual_distribution(p, near),
    }


# One round.


@check(points=1, sizes=ROUND, target_probs=targets("g V", more=1), draft_probs=drafts("g V"), uniforms=uniforms("g"))
def likelier_tokens_are_accepted(impl, target_probs, draft_probs, uniforms):
    """A draft token that is at least as likely under target as under draft is accepted, whatever the uniform."""
    draft_ids = (target_probs[:-1] - draft_probs).argmax(-1)
    tokens = impl.verify(target_probs, draft_probs, draft_ids, uniforms)
    seen = {f"accepted of the draft {draft_ids.tolist()}": tokens[:-1]}
    for p in (0.3, 1e-12):
        rows = torch.tensor([[p, 1 - p]] * 2).double()
        seen[f"accepted where q = p = {p}"] = impl.verify(rows, rows[:1], torch.tensor([0]), uniforms[-2:])[:-1]
    rows = rows.float()
    return seen | {"accepted where q = p, float32": impl.verify(rows, rows[:1], torch.tensor([1]), uniforms[-2:].float())[:-1]}


@check(
    points=2,
    after=likelier_tokens_are_accepted,
    sizes=ROUND,
    target_probs=targets("g V", more=1),
    draft_probs=drafts("g V"),
    uniforms=uniforms("g"),
)
def others_are_accepted_below_the_ratio(impl, target_probs, draft_probs, uniforms):
    """A draft token that is less likely under target is accepted while its uniform is below p / q; the first refusal ends the round."""
    draft_ids = (target_probs[:-1] - draft_probs).argmin(-1)
    uniforms = uniforms * uniforms  # smaller ones, or nearly all would be refused
    rows = torch.arange(len(draft_ids))
    ratios = target_probs[rows, draft_ids] / draft_probs[rows, draft_ids]
    several = {"": uniforms[:-1], " = 0.9998 p / q": 0.9998 * ratios, " = 1.0002 p / q": 1.0002 * ratios}
    seen = {}
    for which, us in several.items():
        tokens = impl.verify(target_probs, draft_probs, draft_ids, torch.cat([us, uniforms[-1:]]))
        shown = ", ".join(f"{u:.4f}" for u in us.tolist())
        seen[f"accepted of the draft {draft_ids.tolist()} with uniforms {shown}{which}"] = tokens[:-1]
    return seen


REFUSED = 0.995  # no ratio of hundredths comes that near to 1


@check(
    points=2,
    after=others_are_accepted_below_the_ratio,
    sizes=ROUND,
    target_probs=targets("g V", more=1),
    draft_probs=drafts("g V"),
    uniforms=uniforms("g"),
    place=index("g"),
    draws=2,
)
def residual_replaces_what_is_refused(impl, target_probs, draft_probs, uniforms, place):
    """In place of the first refused token comes one from the residual distribution of its rows, at uniforms[γ], and nothing behind it."""
    more = target_probs[:-1] - draft_probs
    draft_ids = more.argmax(-1)
    draft_ids[place] = more[place].argmin()
    uniforms[place] = REFUSED
    seen = {}
    for last in (uniforms[-1].item(), 0.1501, 0.8501):
        uniforms[-1] = last
        seen[f"draft {draft_ids.tolist()}, refused at place {place}, last uniform {last:.4f}: from there on"] = impl.verify(
            target_probs, draft_probs, draft_ids, uniforms
        )[place:]
    return seen


@check(
    points=2,
    after=likelier_tokens_are_accepted,
    sizes=ROUND,
    target_probs=targets("g V", more=1),
    draft_probs=drafts("g V"),
    uniforms=uniforms("g"),
)
def one_more_after_a_whole_draft(impl, target_probs, draft_probs, uniforms):
    """If all γ tokens are accepted one more comes from target_probs[γ], at uniforms[γ]."""
    draft_ids = (target_probs[:-1] - draft_probs).argmax(-1)
    seen = {}
    for last in (uniforms[-1].item(), 0.1501, 0.8501):
        uniforms[-1] = last
        seen[f"draft {draft_ids.tolist()}, all accepted, last uniform {last:.4f}: behind it"] = impl.verify(
            target_probs, draft_probs, draft_ids, uniforms
        )[len(draft_ids) :]
    return seen


@check(points=1, after=(residual_replaces_what_is_refused, one_more_after_a_whole_draft), zeros=choice(1, 2, 3), place=index(2))
def impossible_tokens_never_come(impl, zeros, place):
    """A token that target gives probability 0 never comes, not even where a uniform is exactly 0, nor where it is nearly 1."""
    likely = torch.tensor([0.0] * zeros + [0.25, 0.5, 0.25] + [0.0] * zeros).double()
    spread = torch.full_like(likely, 1 / len(likely))
    last, middle, first = len(likely) - 1, zeros + 1, 0

    def tokens(*draft_ids, uniforms):
        rows = [torch.stack([row] * n) for row, n in ((likely, 3), (spread, 2))]
        return impl.verify(*rows, torch.tensor(draft_ids), torch.tensor(uniforms).double())

    refused = [middle, middle]
    refused[place] = first
    return {
        "draft impossible, uniform 0": tokens(*refused, uniforms=[0.0, 0.0, 0.5]),
        "whole draft accepted, last uniform 0": tokens(middle, middle, uniforms=[0.5, 0.0, 0.0]),
        "whole draft accepted, last uniform 0.9999": tokens(middle, middle, uniforms=[0.5, 0.5, 0.9999]),
        "refused, last uniform 0": tokens(last, middle, uniforms=[0.5, 0.5, 0.0]),
        "refused, last uniform 0.9999": tokens(last, middle, uniforms=[0.5, 0.5, 0.9999]),
    }


def law_of_the_first_token(verify, target_probs, draft_probs):
    """With which probability verify's first token is 0, 1, …, if the draft's one token is drawn from its row."""
    p, q, V = target_probs[0], draft_probs[0], len(draft_probs[0])
    more = (p - q).clamp(min=0)
    cuts = torch.cat([torch.zeros(1), p.cumsum(0), q.cumsum(0), (more / more.sum()).cumsum(0)]).clamp(max=1).sort().values
    law = torch.zeros(V, dtype=torch.float64)
    for x in range(V):
        ratio = min(1.0, float(p[x] / q[x]))
        for low, high in ((0.0, ratio), (ratio, 1.0)):  # accepted; refused
            for left, right in zip(cuts[:-1].tolist(), cuts[1:].tolist(), strict=True):
                if high - low > 1e-9 and right - left > 1e-9:  # the same token comes anywhere between two cuts
                    uniforms = torch.tensor([(low + high) / 2, (left + right) / 2], dtype=torch.float64)
                    first = verify(target_probs, draft_probs, torch.tensor([x]), uniforms)[0]
                    law[first] += q[x] * (high - low) * (right - left)
    return law


@check(
    points=1,
    after=(residual_replaces_what_is_refused, one_more_after_a_whole_draft),
    target_probs=targets("2 4"),
    draft_probs=drafts("1 4"),
)
def law_of_a_round_is_that_of_target(impl, target_probs, draft_probs):
    """Summed over all that the draft and the uniforms may be, the first token's law is target_probs[0], whatever the draft's was."""
    law = beside(impl, law_of_the_first_token)(impl.verify, target_probs, draft_probs)
    return {"law of the first token": law, "target_probs[0]": target_probs[0]}


# The loop.


def model(table):
    """A model whose next token depends on the sum of all tokens so far; `lengths` says how many it was given, call by call."""

    def call(ids):
        call.lengths.append(len(ids))
        if len(call.lengths) > 500:
            raise RuntimeError("called 500 times for a few tokens: do all rounds add something?")
        return table[ids.cumsum(0) % len(table)]

    call.lengths = []
    return call


def chain(table):
    """A model whose next token depends on the last one."""
    return lambda ids: table[ids]


def generator_from(seed):
    return torch.Generator().manual_seed(seed)


def sure(next_ids):
    """A table of distributions that leave no choice, float64."""
    return torch.nn.functional.one_hot(next_ids, len(next_ids)).double()


def pair_of_models(impl, next_ids, agrees):
    """Two models that leave no choice; draft guesses right only where `agrees`."""
    made = beside(impl, model)
    return made(sure(next_ids)), made(sure(torch.where(agrees, next_ids, (next_ids + 1) % len(next_ids))))


@check(points=1, sizes=LOOP, ids=indices("n", below="V"), next_ids=indices("V", below="V"), gamma=size("g"), max_new=size("N"))
def max_new_tokens_follow_the_prompt(impl, ids, next_ids, gamma, max_new):
    """speculative_generate returns the prompt and exactly max_new tokens behind it, however many a round yields; with 0 none."""
    target, draft = pair_of_models(impl, next_ids, next_ids >= 0)
    outs = [impl.speculative_generate(target, draft, ids, gamma, number) for number in (0, max_new)]
    return {"prompt": [out[: len(ids)] for out in outs], "tokens after it": [len(out) - len(ids) for out in outs]}


@check(
    points=2,
    after=max_new_tokens_follow_the_prompt,
    sizes=LOOP,
    ids=indices("n", below="V"),
    next_ids=indices("V", below="V"),
    draft_is_right=booleans("V", share=0.6),
    gamma=size("g"),
    max_new=size("N"),
)
def tokens_are_those_of_target(impl, ids, next_ids, draft_is_right, gamma, max_new):
    """Where target leaves no choice its tokens come, be the draft right or wrong: here next_ids[(sum of all tokens so far) % V]."""
    target, draft = pair_of_models(impl, next_ids, draft_is_right)
    return impl.speculative_generate(target, draft, ids, gamma, max_new)


@check(
    points=1,
    after=tokens_are_those_of_target,
    sizes={"g": (2, 4), "V": (3, 5), "N": (1, 5), "n": (1, 2)},
    ids=indices("n", below="V"),
    table=drafts("V V"),
    gamma=size("g"),
    max_new=size("N"),
)
def target_is_called_once_a_round(impl, ids, table, gamma, max_new):
    """A round calls target once: with a draft equal to target it yields γ + 1 tokens, with one that is always wrong it yields one.

    γ tokens are drafted in each round, the last one excepted, however many were accepted before.
    """
    next_ids, made, seen = table.argmax(-1), beside(impl, model), {}
    ones = torch.ones_like(next_ids)  # with them the sum of all tokens runs through all places of a table
    wrong_at_first = torch.where(torch.arange(len(table)) == ids.sum() % len(table), 0, ones)
    for name, target_table, draft_table, number in (
        ("equal to target", table, table, max_new + 7 * gamma),
        ("always wrong", sure(next_ids), sure((next_ids + 1) % len(table)), max_new),
        ("always right", sure(next_ids), sure(next_ids), max_new),
        (f"wrong at first, then at each {len(table)}th token", sure(ones), sure(wrong_at_first), max_new + 9),
    ):
        target, draft = made(target_table), made(draft_table)
        impl.speculative_generate(target, draft, ids, gamma, number)
        seen[f"calls of target for {number} tokens, draft {name}"] = len(target.lengths)
    return seen


UNBELIEVABLE = math.log(1e7)  # the evidence that a right answer brings with probability 1e-7 at most (Ville's inequality)


def against_the_law(tokens, table, last, context, kind):
    """What of the tokens cannot be if each is drawn from its row of `table`, by context.

    The evidence is a bet on the next token's kind, at odds that are fair under
    the table, by somebody who goes by the shares so far. Whoever bets so wins
    a factor of 1e7 with probability 1e-7 at most, at whatever time; so does
    who bets in all contexts, and who bets in one.
    """
    evidence, counts, excess = {}, {}, {}
    for token in tokens:
        where, what = context[last], kind[token]
        expected = [sum(p for p, k in zip(table[last], kind, strict=True) if k == each) for each in (0, 1)]
        seen = counts.setdefault(where, [0.5, 0.5])
        evidence[where] = evidence.get(where, 0.0) + math.log(seen[what] / sum(seen)) - math.log(max(expected[what], 1e-30))
        excess[where] = excess.get(where, 0.0) + (what == 0) - expected[0]
        seen[what] += 1
        last = token
    if max(sum(evidence.values()), *evidence.values()) < UNBELIEVABLE:
        return {}
    return {where: excess[where] for where, logs in evidence.items() if logs > 0.5 * max(evidence.values())}


def verdict(excess, context, much, little):
    return "as target's law says" if context not in excess else much if excess[context] > 0 else little


PERFECT = [[0.45] + [0.06 - 0.002 * i for i in range(11)]] * 12


@check(points=1, after=tokens_are_those_of_target, seed=seed())
def drafts_are_drawn_from_draft(impl, seed):
    """The tokens of a draft are drawn at random from the very distributions that verify is given as draft_probs."""
    perfect = beside(impl, chain)(torch.tensor(PERFECT).double())
    generator = beside(impl, generator_from)(seed)
    tokens = impl.speculative_generate(perfect, perfect, torch.tensor([0]), 7, 128, generator=generator)[1:].tolist()
    wrong = against_the_law(tokens, PERFECT, 0, [""] * 12, [0] + [1] * 11)
    others = any(token for i, token in enumerate(tokens) if i % 8 < 7)  # eight a round, the last one from target
    return {
        "draft equals target; share of token 0 (0.45) among 128": verdict(wrong, "", "too large", "too small"),
        "drafted tokens other than 0": "some" if others else "none",
    }


SKEWED = [[0.3, 0.7]] * 2  # target; its draft says 0 nearly always
LEANING = [[0.9, 0.1]] * 2  # target; its draft says 0 a little too often
LURED = [[0.0, 0.0, 0.3, 0.7]] + [[0.3, 0.7, 0.0, 0.0]] * 3  # target; its draft says 0, and 2 after a 0
SHARED = [[0.34, 0.32, 0.3, 0.04]] * 4  # target; its draft says 3, and what replaces it is 0, 1 or 2


@check(points=2, after=drafts_are_drawn_from_draft, seed=seed())
def law_is_that_of_target_with_any_draft(impl, seed):
    """With a draft that is nearly always wrong each token's law, given those before it, is still target's."""
    made, generator = beside(impl, chain), beside(impl, generator_from)(seed)
    seen = {}
    for table, draft_table, gamma, number, kind in (
        (SKEWED, [[0.98, 0.02]] * 2, 4, 240, [0, 1]),
        (LEANING, [[0.98, 0.02]] * 2, 2, 120, [0, 1]),
        (LURED, [[0.0, 0.0, 0.98, 0.02]] + [[0.98, 0.02, 0.0, 0.0]] * 3, 1, 240, [0, 1, 0, 1]),
        (SHARED, [[0.01, 0.01, 0.01, 0.97]] * 4, 3, 40, [0, 1, 1, 1]),
    ):
        models = [made(torch.tensor(rows).double()) for rows in (table, draft_table)]
        tokens = impl.speculative_generate(*models, torch.tensor([1]), gamma, number, generator=generator)[1:].tolist()
        wrong = against_the_law(tokens, table, 1, range(len(table)), kind)
        for last, row in enumerate(table):
            first = next(token for token, p in enumerate(row) if p)
            seen[f"γ = {gamma}: {first} after {last}"] = verdict(wrong, last, "too often", "too rarely")
    return seen


EVEN = torch.full((8, 8), 1 / 8).double()


@check(points=1, after=tokens_are_those_of_target, seed=seed())
def seed_decides_the_text(impl, seed):
    """The same seed of the generator gives the same text, another seed another; without one the global generator is drawn from."""
    made, generator, manual_seed = beside(impl, chain), beside(impl, generator_from), beside(impl, global_seed)
    even, stubborn = made(EVEN), made(sure(torch.arange(8)))

    def text(draft, given=None):
        gamma = 9 if draft is even else 2
        return impl.speculative_generate(even, draft, torch.tensor([3, 1]), gamma, 9, generator=given).tolist()

    def compared(one, other):
        return "same text" if one == other else "another text"

    first, again, other = (text(even, generator(number)) for number in (seed, seed, seed + 1))
    seen = {"same seed, draft equals target": compared(first, again), "another seed, draft equals target": compared(first, other)}
    first, again, other = (text(stubborn, generator(number)) for number in (seed, seed, seed + 1))
    seen |= {"same seed, draft without a choice": compared(first, again), "another seed, draft without a choice": compared(first, other)}
    given = generator(seed)
    seen["same generator, next call"] = compared(text(even, given), text(even, given))
    manual_seed(seed)
    first, following = text(even), text(even)
    manual_seed(seed)
    return seen | {"no generator, next call": compared(first, following), "no generator, global seed again": compared(first, text(even))}


def global_seed(seed):
    torch.manual_seed(seed)


def global_state():
    return torch.get_rng_state()


@check(points=1, after=tokens_are_those_of_target, seed=seed(), gamma=choice(1, 3))
def global_generator_is_left_alone(impl, seed, gamma):
    """With a generator given, PyTorch's global generator is neither drawn from nor seeded."""
    even, generator, state = beside(impl, chain)(EVEN), beside(impl, generator_from)(seed), beside(impl, global_state)
    before = state()
    impl.speculative_generate(even, even, torch.tensor([3, 1]), gamma, 9, generator)
    return {"global generator afterwards": "as before" if torch.equal(before, state()) else "in another state"}


@check(
    points=1,
    after=(residual_replaces_what_is_refused, one_more_after_a_whole_draft, tokens_are_those_of_target),
    sizes={"g": (1, 3), "V": (2, 4)},
    target_probs=targets("g V", more=1),
    draft_probs=drafts("g V"),
    uniforms=uniforms("g"),
    next_ids=indices("V", below="V"),
)
def arguments_are_left_alone(impl, target_probs, draft_probs, uniforms, next_ids):
    """No function changes the tensors that it is given."""
    more = target_probs[:-1] - draft_probs
    models = pair_of_models(impl, next_ids, next_ids >= 0)
    generated = inputs_after(impl.speculative_generate, *models, torch.tensor([1, 0, 1]), len(more), 4)
    return {
        "residual_distribution": inputs_after(impl.residual_distribution, target_probs[0], draft_probs[0]),
        "verify, refused": inputs_after(impl.verify, target_probs, draft_probs, more.argmin(-1), uniforms * 0 + REFUSED),
        "verify, accepted": inputs_after(impl.verify, target_probs, draft_probs, more.argmax(-1), uniforms),
        "speculative_generate": generated[2],
    }


# What to expect.


@check(points=1, sizes={"g": (1, 3, 16)}, alpha=choice(0.1, 0.3, 0.8, 0.95), gamma=size("g"), draws=2)
def expected_tokens_of_a_round(impl, alpha, gamma):
    """expected_tokens is 1 + α + α² + … + α^γ: a round yields more than i tokens if its first i are accepted."""
    return impl.expected_tokens(alpha, gamma)


@check(points=1, after=expected_tokens_of_a_round, sizes={"g": (1, 2, 5)}, gamma=size("g"))
def expected_tokens_at_the_ends(impl, gamma):
    """A draft that is always accepted yields γ + 1 tokens, one that nearly always is hardly fewer, one that never is yields 1."""
    return {f"alpha = {alpha}": impl.expected_tokens(alpha, gamma) for alpha in (1.0, 0.0, 0.999)}
