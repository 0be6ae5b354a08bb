"""Oracles of sampling: Hugging Face's logits processors, all subsets counted out, and many draws."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rooms import solution
from torch import Tensor
from transformers.generation import logits_process as hf

sampling = solution("sampling")
seeds = st.integers(0, 9999)
sizes = st.integers(1, 7)
shares = st.floats(0.01, 0.99)
NOTHING = torch.empty(1, 0, dtype=torch.int64)  # what Hugging Face's filters do not look at


def normal(*shape: int, seed: int, scale: float = 1.0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * scale


@given(B=sizes, V=sizes, k=st.integers(1, 9), scale=st.sampled_from([0.3, 5.0]), ties=st.booleans(), seed=seeds)
@settings(max_examples=60, deadline=None)
def test_top_k_equals_hugging_faces(B: int, V: int, k: int, scale: float, ties: bool, seed: int) -> None:
    logits = normal(B, V, seed=seed, scale=scale)
    logits = logits.round() if ties else logits
    assert torch.equal(sampling.top_k_filter(logits, k), hf.TopKLogitsWarper(k)(NOTHING, logits))


@given(B=sizes, V=sizes, p=shares, scale=st.sampled_from([0.3, 5.0]), seed=seeds)
@settings(max_examples=60, deadline=None)
def test_top_p_equals_hugging_faces(B: int, V: int, p: float, scale: float, seed: int) -> None:
    logits = normal(B, V, seed=seed, scale=scale)
    assert torch.equal(sampling.top_p_filter(logits, p), hf.TopPLogitsWarper(p)(NOTHING, logits))


@given(V=sizes, p=st.one_of(shares, st.just(1e-9)), scale=st.sampled_from([0.3, 2.0]), seed=seeds)
@settings(max_examples=40, deadline=None)
def test_top_p_is_the_smallest_of_all_sets_that_reach_p(V: int, p: float, scale: float, seed: int) -> None:
    logits = normal(V, seed=seed, scale=scale)
    probs = logits.softmax(-1).tolist()
    subsets = [chosen for n in range(V + 1) for chosen in itertools.combinations(range(V), n)]
    mass = {chosen: math.fsum(probs[i] for i in chosen) for chosen in subsets}
    enough = [chosen for chosen in subsets if mass[chosen] >= p]
    best = min(enough, key=lambda chosen: (len(chosen), -mass[chosen]))
    assert sampling.top_p_filter(logits, p).isfinite().nonzero().flatten().tolist() == sorted(best)


def test_top_p_of_a_vocabulary_in_float32_reaches_p_and_not_much_more() -> None:
    logits = normal(3, 50_000, seed=0, scale=3.0).float()
    for p in (0.5, 0.9, 0.99):
        kept = sampling.top_p_filter(logits, p).isfinite()
        probs = logits.double().softmax(-1) * kept
        mass, least = probs.sum(-1), probs.masked_fill(~kept, 1.0).amin(-1)
        assert (mass >= p - 1e-4).all() and (mass - least <= p + 1e-4).all()


@given(B=sizes, V=sizes, p=st.one_of(shares, st.just(0.0)), scale=st.sampled_from([0.3, 5.0]), seed=seeds)
@settings(max_examples=60, deadline=None)
def test_min_p_equals_hugging_faces(B: int, V: int, p: float, scale: float, seed: int) -> None:
    logits = normal(B, V, seed=seed, scale=scale)
    assert torch.equal(sampling.min_p_filter(logits, p), hf.MinPLogitsWarper(p)(NOTHING, logits))


@pytest.mark.parametrize("name, number", [("top_k_filter", 3), ("top_p_filter", 0.6), ("min_p_filter", 0.3)])
def test_rows_are_filtered_as_if_alone(name: str, number: float) -> None:
    logits = normal(2, 3, 4, 6, seed=1).float()
    function = getattr(sampling, name)
    alone = torch.stack([function(row, number) for row in logits.view(-1, 6)])
    assert torch.equal(function(logits, number), alone.view_as(logits))


@given(B=sizes, V=sizes, L=st.integers(0, 6), penalty=st.floats(0.2, 5.0), seed=seeds)
@settings(max_examples=60, deadline=None)
def test_penalty_equals_hugging_faces(B: int, V: int, L: int, penalty: float, seed: int) -> None:
    logits = normal(B, V, seed=seed)
    ids = torch.randint(V, (B, L), generator=torch.Generator().manual_seed(seed))
    torch.testing.assert_close(sampling.repetition_penalty(logits, ids, penalty), hf.RepetitionPenaltyLogitsProcessor(penalty)(ids, logits))


@given(
    B=sizes,
    V=sizes,
    temperature=st.floats(0.2, 4.0),
    top_k=st.none() | st.integers(1, 8),
    top_p=st.none() | shares,
    min_p=st.none() | shares,
    seed=seeds,
)
@settings(max_examples=80, deadline=None)
def test_distribution_equals_hugging_faces_chain(B: int, V: int, temperature: float, top_k, top_p, min_p, seed: int) -> None:
    logits = normal(B, V, seed=seed, scale=1.5)
    chain = [hf.TemperatureLogitsWarper(temperature)]
    chain += [] if top_k is None else [hf.TopKLogitsWarper(top_k)]
    chain += [] if top_p is None else [hf.TopPLogitsWarper(top_p)]
    chain += [] if min_p is None else [hf.MinPLogitsWarper(min_p)]
    scores = logits
    for warper in chain:
        scores = warper(NOTHING, scores)
    torch.testing.assert_close(sampling.distribution(logits, temperature, top_k, top_p, min_p), scores.softmax(-1))


def test_temperature_0_is_the_limit_of_small_ones() -> None:
    logits = normal(2, 3, 5, seed=4)
    torch.testing.assert_close(sampling.distribution(logits, 0.0), sampling.distribution(logits, 1e-4))


def test_token_counts_pass_a_chi_squared_test() -> None:
    """Two rows in turn: the counts of each token, and of each pair in neighbouring rows, fit the law with odds of 10^-6 against."""
    logits, draws = normal(2, 5, seed=5), 20_000
    probs = sampling.distribution(logits, 0.8, 4)
    ids = sampling.sample(logits.repeat(draws, 1), 0.8, 4, generator=torch.Generator().manual_seed(6)).view(draws, 2)
    pairs = (ids[:, 0] * 5 + ids[:, 1]).bincount(minlength=25).double()
    wanted = draws * torch.outer(probs[0], probs[1]).flatten()
    assert pairs[wanted == 0].sum() == 0
    possible = wanted > 0
    assert int(possible.sum()) == 16
    chi_squared = ((pairs - wanted).square() / wanted)[possible].sum()
    assert chi_squared < 57.3  # with 15 degrees of freedom


def test_draws_depend_on_the_given_generator_alone() -> None:
    logits = normal(100, 9, seed=7, scale=0.3)
    torch.manual_seed(1)
    first = sampling.sample(logits, generator=torch.Generator().manual_seed(3))
    state = torch.get_rng_state()
    torch.manual_seed(2)
    generator = torch.Generator().manual_seed(3)
    assert torch.equal(sampling.sample(logits, generator=generator), first)
    assert not torch.equal(sampling.sample(logits, generator=generator), first)
    torch.manual_seed(1)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    "settings, legal",
    [
        ({"temperature": -0.1}, False),
        ({"temperature": math.nan}, False),
        ({"top_k": 0}, False),
        ({"top_k": 1}, True),
        ({"top_p": 0.0}, False),
        ({"top_p": 1.0}, True),
        ({"top_p": 1.01}, False),
        ({"top_p": math.nan}, False),
        ({"min_p": -0.01}, False),
        ({"min_p": 0.0}, True),
        ({"min_p": 1.0}, True),
        ({"min_p": 1.01}, False),
    ],
)
def test_arguments_out_of_range_raise(settings: dict[str, float], legal: bool) -> None:
    for function in (sampling.distribution, sampling.sample):
        if legal:
            function(normal(2, 5, seed=0), **settings)
        else:
            with pytest.raises(ValueError):
                function(normal(2, 5, seed=0), **settings)


@pytest.mark.parametrize("penalty", [0.0, -1.0, math.nan])
def test_penalty_out_of_range_raises(penalty: float) -> None:
    with pytest.raises(ValueError):
        sampling.repetition_penalty(normal(1, 3, seed=0), torch.tensor([[0]]), penalty)
