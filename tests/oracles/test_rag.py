"""Oracles of rag: rank_bm25, scikit-learn, exact enumeration, and brute force over small texts."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rank_bm25 import BM25L, BM25Okapi
from rooms import solution
from sklearn.metrics import label_ranking_average_precision_score
from sklearn.metrics.pairwise import cosine_similarity
from sklearn.neighbors import NearestNeighbors

rag = solution("rag")
term = st.sampled_from("abcdefg")
documents = st.lists(st.lists(term, min_size=1, max_size=9), min_size=1, max_size=6)
queries = st.lists(st.sampled_from("abcdefgz"), max_size=5)
numbers = st.integers(-9, 9)
seeds = st.integers(0, 999)


def normal(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# Chunks.


@given(length=st.integers(0, 40), size=st.integers(1, 9), data=st.data())
@settings(max_examples=40, deadline=None)
def test_chunks_cover_the_text_and_none_lies_in_the_one_before(length: int, size: int, data: st.DataObject) -> None:
    overlap = data.draw(st.integers(0, size - 1))
    text = list(range(length))
    chunks = rag.chunk(text, size, overlap)
    assert sorted({token for chunk in chunks for token in chunk}) == text  # nothing lost, nothing made up
    assert all(chunk == list(range(chunk[0], chunk[-1] + 1)) for chunk in chunks)
    assert all(len(chunk) == size for chunk in chunks[:-1])
    for one, other in itertools.pairwise(chunks):
        assert other[0] - one[0] == size - overlap
        assert not set(other) <= set(one)
    if chunks:
        assert chunks[0][0] == 0 and chunks[-1][-1] == length - 1


def test_chunks_are_those_of_unfold() -> None:
    text = torch.arange(3 * 5 + 2)
    assert rag.chunk(text.tolist(), 5, 2) == text.unfold(0, 5, 3).tolist()


# A search by words.


class Lucene(BM25Okapi):
    """rank_bm25's term frequencies and lengths, with Lucene's idf."""

    def _calc_idf(self, nd: dict[str, int]) -> None:
        self.idf = {term: math.log(1 + (self.corpus_size - n + 0.5) / (n + 0.5)) for term, n in nd.items()}


@given(documents=documents, query=queries, k1=st.floats(0.1, 3), b=st.floats(0, 1))
@settings(max_examples=40, deadline=None)
def test_scores_are_those_of_rank_bm25_with_lucenes_idf(documents: list[list[str]], query: list[str], k1: float, b: float) -> None:
    theirs = Lucene(documents, k1=k1, b=b).get_scores(query)
    np.testing.assert_allclose(rag.BM25(documents, k1, b).scores(query).numpy(), theirs, rtol=1e-5, atol=1e-6)


@given(documents=documents)
@settings(max_examples=50, deadline=None)
def test_idf_is_that_of_rank_bm25s_bm25l(documents: list[list[str]]) -> None:
    """BM25L's ln(N + 1) - ln(n + 0.5) is Lucene's formula in other words; with k1 = 0 the score of a term is its idf."""
    theirs, ours = BM25L(documents).idf, rag.BM25(documents, k1=0.0)
    for known, idf in theirs.items():
        assert ours.scores([known]).max().item() == pytest.approx(idf, rel=1e-5)


@given(documents=st.lists(st.lists(term, max_size=9), max_size=6), query=queries)
@settings(max_examples=40, deadline=None)
def test_scores_are_those_of_the_formula_in_fractions(documents: list[list[str]], query: list[str]) -> None:
    k1, b, N = Fraction(3, 2), Fraction(3, 4), len(documents)
    for ours, document in zip(rag.BM25(documents).scores(query).tolist(), documents, strict=True):
        wanted = 0.0
        for t in query:
            n, f = sum(t in d for d in documents), document.count(t)
            if f:
                length = Fraction(len(document) * N, sum(map(len, documents)))
                wanted += math.log1p((N - n + 0.5) / (n + 0.5)) * float(f * (k1 + 1) / (f + k1 * (1 - b + b * length)))
        assert ours == pytest.approx(wanted, rel=1e-5)


def test_a_term_in_most_documents_is_worth_something() -> None:
    documents = [["a", "b"], ["a"], ["a", "c"]]
    assert (rag.BM25(documents).scores(["a"]) > 0).all()
    classic = math.log((3 - 3 + 0.5) / (3 + 0.5))
    assert classic < 0  # Robertson and Sparck Jones, without the 1 +


# A search by vectors.


@given(Q=st.integers(1, 4), N=st.integers(1, 6), D=st.integers(1, 4), k=st.integers(1, 8), seed=seeds)
@settings(max_examples=40, deadline=None)
def test_neighbours_are_scikit_learns(Q: int, N: int, D: int, k: int, seed: int) -> None:
    queries, index = normal(Q, D + 1, seed=seed), normal(N, D + 1, seed=seed + 1) * torch.arange(1, N + 1)[:, None]
    cosines, ids = rag.dense_search(queries, index, k)
    nearest = NearestNeighbors(n_neighbors=min(k, N), metric="cosine").fit(index.numpy())
    distances, theirs = nearest.kneighbors(queries.numpy())
    assert ids.tolist() == theirs.tolist()
    np.testing.assert_allclose(cosines.numpy(), 1 - distances, atol=1e-9)


@given(rows=st.lists(st.tuples(numbers, numbers), min_size=1, max_size=6), query=st.tuples(numbers, numbers))
@settings(max_examples=40, deadline=None)
def test_cosines_with_zeros_are_scikit_learns(rows: list[tuple[int, int]], query: tuple[int, int]) -> None:
    queries, index = torch.tensor([query], dtype=torch.float64), torch.tensor(rows, dtype=torch.float64)
    cosines, ids = rag.dense_search(queries, index, len(rows))
    theirs = cosine_similarity(queries.numpy(), index.numpy())[0]
    np.testing.assert_allclose(cosines[0].numpy(), theirs[ids[0].numpy()], atol=1e-9)
    assert (cosines[0].diff() <= 0).all()


def test_ties_go_to_the_lower_id() -> None:
    index = torch.tensor([[0.0, 1.0], [2.0, 0.0]]).repeat(20, 1)
    assert rag.dense_search(torch.tensor([[1.0, 0.0]]), index, 40)[1][0].tolist() == [*range(1, 40, 2), *range(0, 40, 2)]


# Fusion.


@given(
    rankings=st.lists(st.permutations(range(7)), max_size=4), cuts=st.lists(st.integers(0, 7), min_size=4, max_size=4), k=st.integers(1, 60)
)
@settings(max_examples=40, deadline=None)
def test_fusion_is_the_sum_in_fractions(rankings: list[list[int]], cuts: list[int], k: int) -> None:
    rankings = [list(ranking[:cut]) for ranking, cut in zip(rankings, cuts)]
    exact: Counter[int] = Counter()
    for ranking in rankings:
        exact.update({item: Fraction(1, k + rank) for rank, item in enumerate(ranking, start=1)})
    fused = rag.reciprocal_rank_fusion(rankings, k)
    assert dict(fused) == pytest.approx({item: float(score) for item, score in exact.items()})
    assert all(exact[one] >= exact[other] or abs(a - b) < 1e-12 for (one, a), (other, b) in itertools.pairwise(fused))


# Diversity.


@given(N=st.integers(1, 6), k=st.integers(0, 8), trade_off=st.floats(0, 1), seed=seeds)
@settings(max_examples=40, deadline=None)
def test_each_choice_is_the_best_there_was(N: int, k: int, trade_off: float, seed: int) -> None:
    query, candidates = normal(1, 3, seed=seed), normal(N, 3, seed=seed + 1)
    relevance, alike = cosine_similarity(query, candidates)[0], cosine_similarity(candidates)
    chosen = rag.maximal_marginal_relevance(query[0], candidates, k, trade_off)
    assert len(set(chosen)) == len(chosen) == min(k, N)
    for place, pick in enumerate(chosen):
        before = chosen[:place]
        left = [i for i in range(N) if i not in before]
        gains = {i: trade_off * relevance[i] - (1 - trade_off) * alike[i, before].max() if before else relevance[i] for i in left}
        assert gains[pick] >= max(gains.values()) - 1e-12


# The prompt.


def by_pieces(text: str) -> int:
    """As a tokenizer may count: pieces of up to four characters of words, and a beginning."""
    return 1 + sum(-(-len(word) // 4) for word in text.split()) + text.count("\n\n")


@given(passages=st.lists(st.text("ab \n", max_size=40), max_size=6), room=st.integers(0, 100), question=st.text("wz ?", max_size=20))
@settings(max_examples=40, deadline=None)
def test_the_prompt_holds_whole_passages_and_no_more_would_fit(passages: list[str], room: int, question: str) -> None:
    def laid_out(kept: list[int]) -> str:
        sources = "".join(f"[{i + 1}] {passages[i]}\n\n" for i in sorted(kept, reverse=True))
        return f"{rag.INSTRUCTION}\n\n{sources}Question: {question}\nAnswer:"

    if by_pieces(laid_out([])) > room:
        with pytest.raises(ValueError):
            rag.build_prompt(question, passages, room, by_pieces)
        return
    prompt = rag.build_prompt(question, passages, room, by_pieces)
    subsets = [list(kept) for n in range(len(passages) + 1) for kept in itertools.combinations(range(len(passages)), n)]
    fitting = [kept for kept in subsets if by_pieces(laid_out(kept)) <= room]
    best = min(fitting, key=lambda kept: [i not in kept for i in range(len(passages))])  # the first as soon as it fits, then the second ...
    assert prompt == laid_out(best)


# Measures.


@given(
    judged=st.lists(st.tuples(st.permutations(range(6)), st.sets(st.integers(0, 5), min_size=1)), min_size=1, max_size=5),
    k=st.integers(1, 7),
)
@settings(max_examples=40, deadline=None)
def test_recall_is_counted_by_matrices(judged: list[tuple[list[int], set[int]]], k: int) -> None:
    shares = []
    for ranking, relevant in judged:
        wanted, found = np.isin(range(6), list(relevant)), np.isin(range(6), list(ranking[:k]))
        shares.append((wanted @ found.astype(int)) / wanted.sum())
    assert rag.recall_at_k([r for r, _ in judged], [w for _, w in judged], k) == pytest.approx(np.mean(shares))


@given(rankings=st.lists(st.permutations(range(6)), min_size=1, max_size=5), data=st.data())
@settings(max_examples=40, deadline=None)
def test_mrr_with_one_relevant_id_is_scikit_learns(rankings: list[list[int]], data: st.DataObject) -> None:
    """With a single relevant id the average precision of a ranking is its reciprocal rank."""
    wanted = [data.draw(st.integers(0, 5)) for _ in rankings]
    truth = np.array([[item == w for item in range(6)] for w in wanted])
    scores = np.array([[-ranking.index(item) for item in range(6)] for ranking in rankings])
    ours = rag.mean_reciprocal_rank(rankings, [{w} for w in wanted])
    assert ours == pytest.approx(label_ranking_average_precision_score(truth, scores))


def test_what_was_not_found_counts_and_what_cannot_be_found_does_not() -> None:
    rankings, relevant = [[1, 2], [3, 4], [5]], [{2}, {9}, set()]
    assert rag.mean_reciprocal_rank(rankings, relevant) == 0.25
    assert rag.recall_at_k(rankings, relevant, 2) == 0.5
