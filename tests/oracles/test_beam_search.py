"""Oracles of beam_search: every hypothesis counted out, the definition followed word by word, and Hugging Face's beam search."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rooms import solution
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel

beam_search = solution("beam_search").beam_search
Step = Callable[[Tensor], Tensor]
seeds = st.integers(0, 9999)
BOS = 0


def table_of(T: int, V: int, seed: int, scale: float = 1.5) -> Tensor:
    return (torch.randn(T, V, V, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * scale).log_softmax(-1)


def step_of(table: Tensor) -> Step:
    return lambda ids: table[ids.shape[1] - 1, ids[:, -1]]


def all_hypotheses(table: Tensor, eos: int, ids: tuple[int, ...] = (BOS,), total: float = 0.0) -> Iterator[tuple[tuple[int, ...], float]]:
    """Each ended one, and each that fills the table, with its sum."""
    if (len(ids) > 1 and ids[-1] == eos) or len(ids) == len(table) + 1:
        yield ids, total
        return
    for token in range(table.shape[-1]):
        yield from all_hypotheses(table, eos, (*ids, token), total + table[len(ids) - 1, ids[-1], token].item())


def by_definition(table: Tensor, eos: int, width: int, alpha: float) -> list[tuple[tuple[int, ...], float]]:
    """The contract, without tensors, without an early end: a prefix is live if fewer than `width` live ones of its round rank above it."""
    totals, finished = {(BOS,): 0.0}, {}
    for t in range(len(table)):
        children = {
            (*ids, token): total + table[t, ids[-1], token].item() for ids, total in totals.items() for token in range(table.shape[-1])
        }
        above = {
            ids: sum(other[-1] != eos and children[other] > total for other in children)
            for ids, total in children.items()
            if total > -math.inf
        }
        kept = {ids: children[ids] for ids, number in above.items() if number < width}
        finished |= {ids: total for ids, total in kept.items() if ids[-1] == eos or t == len(table) - 1}
        totals = {ids: total for ids, total in kept.items() if ids[-1] != eos}
    scores = {ids: total / (len(ids) - 1) ** alpha for ids, total in finished.items()}
    return sorted(scores.items(), key=lambda item: -item[1])[:width]


def assert_same(found: list[tuple[list[int], float]], wanted: list[tuple[tuple[int, ...], float]]) -> None:
    assert [tuple(ids) for ids, _ in found] == [ids for ids, _ in wanted]
    assert [score for _, score in found] == pytest.approx([score for _, score in wanted])


@given(T=st.integers(1, 4), V=st.integers(2, 4), alpha=st.sampled_from([0.0, 0.7, 1.0]), seed=seeds)
@settings(max_examples=30, deadline=None)
def test_a_wide_beam_is_exhaustive_search(T: int, V: int, alpha: float, seed: int) -> None:
    table, eos = table_of(T, V, seed), V - 1
    everything = [(ids, total / (len(ids) - 1) ** alpha) for ids, total in all_hypotheses(table, eos)]
    best = sorted(everything, key=lambda item: -item[1])
    assert_same(beam_search(step_of(table), BOS, eos, V**T, T, alpha), best)


@given(
    T=st.integers(1, 6),
    V=st.integers(2, 6),
    width=st.integers(1, 7),
    alpha=st.sampled_from([0.0, 0.5, 1.0, 2.0]),
    ends=st.sampled_from([-math.inf, -1.0, 0.0, 2.0, 5.0]),
    holes=st.booleans(),
    seed=seeds,
)
@settings(max_examples=150, deadline=None)
def test_it_follows_the_definition(T: int, V: int, width: int, alpha: float, ends: float, holes: bool, seed: int) -> None:
    table, eos = table_of(T, V, seed), 1
    table[..., eos] += ends
    table = table.log_softmax(-1)
    if holes:
        table[table < -2.5] = -math.inf
    assert_same(beam_search(step_of(table), BOS, eos, width, T, alpha), by_definition(table, eos, width, alpha))


@given(T=st.integers(1, 8), V=st.integers(2, 8), seed=seeds)
@settings(max_examples=30, deadline=None)
def test_one_beam_is_greedy_decoding(T: int, V: int, seed: int) -> None:
    table, ids, total = table_of(T, V, seed), [BOS], 0.0
    while len(ids) <= T and (len(ids) == 1 or ids[-1] != V - 1):
        log_prob, token = table[len(ids) - 1, ids[-1]].max(-1)
        ids, total = [*ids, int(token)], total + log_prob.item()
    assert_same(beam_search(step_of(table), BOS, V - 1, 1, T), [(tuple(ids), total)])


def test_it_equals_hugging_faces_where_nothing_ends() -> None:
    """With hypotheses of one length there is no other rule about ends: ids and scores are the same."""
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=11, n_positions=8, n_embd=8, n_layer=1, n_head=2, bos_token_id=0, eos_token_id=None, pad_token_id=10)
    config.initializer_range = 1.0
    model = GPT2LMHeadModel(config).double().eval()
    out = model.generate(
        torch.tensor([[BOS]]),
        attention_mask=torch.ones(1, 1, dtype=torch.int64),
        num_beams=4,
        num_return_sequences=4,
        do_sample=False,
        max_new_tokens=6,
        length_penalty=1.0,
        return_dict_in_generate=True,
        output_scores=True,
    )

    @torch.no_grad()
    def step(ids: Tensor) -> Tensor:
        return model(ids).logits[:, -1].log_softmax(-1)

    found = beam_search(step, BOS, -1, 4, 6, alpha=1.0)
    assert_same(found, list(zip(map(tuple, out.sequences.tolist()), out.sequences_scores.tolist(), strict=True)))


def test_an_early_end_saves_rounds() -> None:
    """Once eos has nearly all probability, nothing live can still win, and step is not called up to max_len."""
    lengths = []

    def step(ids: Tensor) -> Tensor:
        lengths.append(ids.shape[1])
        return torch.tensor([0.009, 0.001, 0.99]).log().expand(len(ids), 3)

    beam_search(step, BOS, 2, 1, 50)
    assert len(lengths) < 5


def test_float32_and_a_long_search_keep_their_digits() -> None:
    table = table_of(1, 5, 0)[0].log_softmax(-1)
    table[:, 4] = -math.inf
    for ids, score in beam_search(lambda ids: table.float()[ids[:, -1]], BOS, 4, 3, 100, alpha=1.0):
        exact = sum(table[one, other].item() for one, other in pairwise(ids)) / 100
        assert score == pytest.approx(exact, rel=1e-5)


@pytest.mark.parametrize("wrong", [{"beam_width": 0}, {"max_len": 0}, {"alpha": -0.1}, {"alpha": math.nan}])
def test_arguments_out_of_range_raise(wrong: dict[str, float]) -> None:
    legal = {"bos_id": 0, "eos_id": 1, "beam_width": 2, "max_len": 2}
    with pytest.raises(ValueError):
        beam_search(step_of(table_of(2, 3, 0)), **(legal | wrong))
