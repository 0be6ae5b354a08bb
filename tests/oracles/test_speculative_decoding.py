"""Oracles of speculative decoding: exact laws by enumeration, a literal algorithm 1, Hugging Face's, closed forms."""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rooms import solution
from torch import Tensor

speculative = solution("speculative_decoding")


def distribution(size: int, seed: int, zeros: bool = False) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    weights = torch.rand(size, generator=generator, dtype=torch.float64) ** 2 + 0.01
    if zeros:
        weights[torch.randperm(size, generator=generator)[: size // 2]] = 0
    return weights / weights.sum()


def rows(count: int, size: int, seed: int, zeros: bool = False) -> Tensor:
    return torch.stack([distribution(size, 1000 * seed + i, zeros) for i in range(count)])


seeds, sizes = st.integers(0, 999), st.integers(2, 5)


@given(V=sizes, zeros=st.booleans(), seed=seeds)
@settings(max_examples=60, deadline=None)
def test_residual_completes_what_is_accepted(V: int, zeros: bool, seed: int) -> None:
    """min(p, q), which accepted drafts bring, and the residual for all that is refused sum to p."""
    p, q = distribution(V, seed, zeros), distribution(V, seed + 5000)
    residual = speculative.residual_distribution(p, q)
    accepted = torch.minimum(p, q)
    torch.testing.assert_close(accepted + (1 - accepted.sum()) * residual, p)
    assert residual.min() >= 0 and (residual[p <= q] == 0).all()


def test_residual_of_equal_distributions_is_no_nan() -> None:
    p = distribution(5, 0)
    assert torch.equal(speculative.residual_distribution(p, p.clone()), p)


def literal(p: list[list[float]], q: list[list[float]], drafted: list[int], r: list[float]) -> list[int]:
    """Algorithm 1 in its own words: n, the number of accepted guesses, p' adjusted if needed, one token from p'."""
    gamma = len(drafted)
    n = min([i - 1 for i in range(1, gamma + 1) if r[i - 1] >= p[i - 1][drafted[i - 1]] / q[i - 1][drafted[i - 1]]] + [gamma])
    adjusted = p[n]
    if n < gamma:
        positive = [max(0.0, a - b) for a, b in zip(p[n], q[n], strict=True)]
        adjusted = [x / sum(positive) for x in positive]
    token = next(x for x, reached in enumerate(itertools.accumulate(adjusted)) if reached > r[gamma])
    return [*drafted[:n], token]


@given(V=sizes, gamma=st.integers(1, 4), zeros=st.booleans(), seed=seeds)
@settings(max_examples=150, deadline=None)
def test_verify_is_algorithm_1(V: int, gamma: int, zeros: bool, seed: int) -> None:
    p, q = rows(gamma + 1, V, seed, zeros), rows(gamma, V, seed + 1)
    generator = torch.Generator().manual_seed(seed)
    drafted = torch.multinomial(q, 1, generator=generator)[:, 0]
    uniforms = torch.rand(gamma + 1, generator=generator, dtype=torch.float64) * 0.999
    tokens = speculative.verify(p, q, drafted, uniforms)
    assert tokens == literal(p.tolist(), q.tolist(), drafted.tolist(), uniforms.tolist())
    assert all(type(token) is int for token in tokens)


@given(V=sizes, gamma=st.integers(1, 4), seed=seeds)
@settings(max_examples=60, deadline=None)
def test_verify_accepts_and_chooses_as_hugging_face_does(V: int, gamma: int, seed: int) -> None:
    from transformers.generation.utils import _speculative_sampling

    p, q = rows(gamma + 1, V, seed), rows(gamma, V, seed + 1)
    generator = torch.Generator().manual_seed(seed)
    drafted = torch.multinomial(q, 1, generator=generator)[:, 0]
    uniforms = torch.rand(gamma + 1, generator=generator, dtype=torch.float64)
    seen: list[Tensor] = []

    def remember(probs: Tensor, num_samples: int) -> Tensor:
        seen.append(probs[0])
        return torch.zeros(1, num_samples, dtype=torch.int64)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "rand_like", lambda ratios: uniforms[:gamma].view_as(ratios))
        patch.setattr(torch, "multinomial", remember)
        theirs, matches = _speculative_sampling(drafted[None], q.log()[None], gamma, p.log()[None], False)
    tokens = speculative.verify(p, q, drafted, uniforms)
    n = int(matches)
    assert tokens[:-1] == theirs[0, :n].tolist()
    last = seen[0]
    torch.testing.assert_close(last, speculative.residual_distribution(p[n], q[n]) if n < gamma else p[gamma])
    reached = last.cumsum(0)
    assert reached[tokens[-1]] > uniforms[-1] - 1e-9 >= reached[tokens[-1]] - last[tokens[-1]] - 2e-9


def law_of_verify(verify: Callable[..., list[int]], p: Tensor, q: Tensor, drafted: tuple[int, ...]) -> dict[tuple[int, ...], float]:
    """The law of verify's result, by calling it on the middle of each box of uniforms on which it is constant."""
    gamma = len(drafted)
    axes = []
    for i, x in enumerate(drafted):
        ratio = min(1.0, float(p[i, x] / q[i, x]))
        axes.append([(0.0, ratio), (ratio, 1.0)])
    last_rows = [*((p[i] - q[i]).clamp(min=0) / (p[i] - q[i]).clamp(min=0).sum() for i in range(gamma)), p[gamma]]
    cuts = sorted({0.0, 1.0, *(min(1.0, cut) for row in last_rows for cut in row.cumsum(0).tolist())})
    axes.append(list(itertools.pairwise(cuts)))
    law: dict[tuple[int, ...], float] = defaultdict(float)
    for box in itertools.product(*axes):
        volume = math.prod(high - low for low, high in box)
        if volume > 1e-12:
            middle = torch.tensor([(low + high) / 2 for low, high in box], dtype=torch.float64)
            law[tuple(verify(p, q, torch.tensor(drafted), middle))] += volume
    return law


@pytest.mark.parametrize("V, gamma, seed", [(2, 1, 0), (3, 1, 1), (4, 1, 2), (2, 2, 3), (3, 2, 4)])
@pytest.mark.parametrize("zeros", [False, True])
def test_law_of_a_round_is_the_targets(V: int, gamma: int, seed: int, zeros: bool) -> None:
    """Summed over all drafts, the tokens of a round have target's probability: each text of γ + 1 tokens p[0] · p[1] · …

    A round may end early; what is missing of a text is then drawn from target.
    """
    p, q = rows(gamma + 1, V, seed, zeros), rows(gamma, V, seed + 77)
    law: dict[tuple[int, ...], float] = defaultdict(float)
    for drafted in itertools.product(range(V), repeat=gamma):
        weight = math.prod(float(q[i, x]) for i, x in enumerate(drafted))
        for tokens, probability in law_of_verify(speculative.verify, p, q, drafted).items():
            for rest in itertools.product(range(V), repeat=gamma + 1 - len(tokens)):
                completion = math.prod(float(p[len(tokens) + i, x]) for i, x in enumerate(rest))
                law[tokens + rest] += weight * probability * completion
    for text in itertools.product(range(V), repeat=gamma + 1):
        assert law[text] == pytest.approx(math.prod(float(p[i, x]) for i, x in enumerate(text)), abs=1e-9)


class Tree:
    """Runs a function over all outcomes of its random choices, as multinomial and rand are made to branch."""

    def __init__(self) -> None:
        self.path: list[int] = []
        self.sizes: list[int] = []
        self.weight = 1.0
        self.at = 0

    def choose(self, weights: list[float]) -> int:
        if self.at == len(self.path):
            self.path.append(0)
            self.sizes.append(len(weights))
        chosen = self.path[self.at]
        self.weight *= weights[chosen]
        self.at += 1
        return chosen

    def advance(self) -> bool:
        while self.path and self.path[-1] + 1 == self.sizes[-1]:
            self.path.pop()
            self.sizes.pop()
        if not self.path:
            return False
        self.path[-1] += 1
        self.weight, self.at = 1.0, 0
        return True


@pytest.mark.parametrize("gamma, max_new", [(1, 2), (1, 3), (2, 2), (2, 3)])
def test_law_of_generation_is_the_targets(gamma: int, max_new: int) -> None:
    """All that can happen, each drawn token and each box of uniforms, weighted: a text's probability is target's own."""
    V = 2
    target_table, draft_table = rows(2 * V, V, 11, zeros=False), rows(2 * V, V, 12)

    def model(table: Tensor):
        return lambda ids: table[(3 * ids + torch.arange(len(ids))) % len(table)]  # the place counts, too

    target, draft = model(target_table), model(draft_table)
    tree = Tree()

    def multinomial(probs: Tensor, number: int, generator: object) -> Tensor:
        return torch.tensor([tree.choose(probs.tolist())])

    real = speculative.verify

    def verify(p: Tensor, q: Tensor, drafted: Tensor, uniforms: Tensor) -> list[int]:
        outcomes = sorted(law_of_verify(real, p, q, tuple(drafted.tolist())).items())
        return list(outcomes[tree.choose([weight for _, weight in outcomes])][0])

    ids = torch.tensor([1, 0])
    law: dict[tuple[int, ...], float] = defaultdict(float)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "multinomial", multinomial)
        patch.setattr(speculative, "verify", verify)
        while True:
            out = speculative.speculative_generate(target, draft, ids, gamma, max_new)
            law[tuple(out[2:].tolist())] += tree.weight
            if not tree.advance():
                break
    assert sum(law.values()) == pytest.approx(1.0)
    for text in itertools.product(range(V), repeat=max_new):
        whole = torch.tensor([1, 0, *text])
        probability = math.prod(float(target(whole)[1 + i, x]) for i, x in enumerate(text))
        assert law[text] == pytest.approx(probability, abs=1e-9)


@given(gamma=st.integers(1, 5), max_new=st.integers(0, 9), n=st.integers(1, 3), seed=seeds)
@settings(max_examples=60, deadline=None)
def test_certain_models_give_the_greedy_chain_in_the_fewest_calls(gamma: int, max_new: int, n: int, seed: int) -> None:
    V = 5
    generator = torch.Generator().manual_seed(seed)
    nexts, guesses = torch.randint(V, (2, V), generator=generator)
    calls = []

    def target(ids: Tensor) -> Tensor:
        calls.append(ids)
        return torch.eye(V, dtype=torch.float64)[nexts[ids.cumsum(0) % V]]

    ids = torch.randint(V, (n,), generator=generator)
    out = speculative.speculative_generate(
        target, lambda ids: torch.eye(V, dtype=torch.float64)[guesses[ids.cumsum(0) % V]], ids, gamma, max_new
    )
    chain, rounds = ids.tolist(), 0
    while len(chain) < n + max_new:
        rounds += 1
        for _ in range(gamma):
            chain.append(int(nexts[sum(chain) % V]))
            if guesses[sum(chain[:-1]) % V] != chain[-1]:
                break
        else:
            chain.append(int(nexts[sum(chain) % V]))
    assert out.tolist() == chain[: n + max_new]
    assert len(calls) == rounds


@given(alpha=st.floats(0, 1), gamma=st.integers(1, 12))
@settings(max_examples=80, deadline=None)
def test_expected_tokens_is_the_mean_of_the_length(alpha: float, gamma: int) -> None:
    """i tokens are accepted and one refused with α^i (1 - α); all are with α^γ."""
    mean = sum((i + 1) * alpha**i * (1 - alpha) for i in range(gamma)) + (gamma + 1) * alpha**gamma
    assert speculative.expected_tokens(alpha, gamma) == pytest.approx(mean)


def test_expected_tokens_of_the_papers_closed_form() -> None:
    assert speculative.expected_tokens(0.8, 4) == pytest.approx((1 - 0.8**5) / (1 - 0.8))
    assert speculative.expected_tokens(1.0, 4) == 5.0
    assert speculative.expected_tokens(0.0, 4) == 1.0


def test_mean_length_of_rounds_is_expected_tokens() -> None:
    """Draft and target independent of the place: α is the sum of min(p, q), and rounds of verify have the promised mean."""
    p, q, gamma = distribution(3, 5), distribution(3, 6), 2
    mean = 0.0
    for drafted in itertools.product(range(3), repeat=gamma):
        weight = math.prod(float(q[x]) for x in drafted)
        law = law_of_verify(speculative.verify, torch.stack([p] * (gamma + 1)), torch.stack([q] * gamma), drafted)
        mean += weight * sum(len(tokens) * probability for tokens, probability in law.items())
    assert mean == pytest.approx(speculative.expected_tokens(float(torch.minimum(p, q).sum()), gamma))


def test_generators_are_kept_apart() -> None:
    def even(ids: Tensor) -> Tensor:
        return torch.full((len(ids), 4), 0.25)

    before = torch.get_rng_state()
    texts = [
        speculative.speculative_generate(even, even, torch.tensor([0]), 3, 40, torch.Generator().manual_seed(seed)).tolist()
        for seed in (1, 1, 2)
    ]
    assert texts[0] == texts[1] != texts[2]
    assert torch.equal(before, torch.get_rng_state())
