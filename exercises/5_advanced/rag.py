"""Retrieval-Augmented Generation.

A support desk lets a language model answer from its manuals. Asked for error
E-4127, the search by vectors brings pages about errors in general; asked why
the screen stays dark, the search by words finds nothing, for the manual says
"no image on the display". What is found is cut off in the middle of a sentence,
four of five passages say the same, and nobody can tell whether last week's
change has helped.

Write what stands between the manuals and the model: chunks that overlap, a
search by words and one by vectors, a way to make one ranking of two, a choice
of passages that differ, a prompt that fits, and two numbers that say how good
the search is.

Documents, queries and chunks are lists of tokens, strings or integers. Where
things are ranked, an id is the place of a thing in its list, from 0. No
function changes its arguments.
"""

import math
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

INSTRUCTION = "Answer from the sources below, and name each that you use by its number, as in [1]. If they do not tell, say so."


def chunk(tokens: list[Any], size: int, overlap: int) -> list[list[Any]]:
    """Cut a text into pieces of `size` tokens, of which neighbours share `overlap`.

    The first piece begins at the first token, each other size - overlap tokens
    after the one before it. The last piece is the first that reaches the end
    of the text, and may be shorter: no token is lost, and no piece lies wholly
    within the one before it.

    Args:
        tokens: the text, maybe empty.
        size: tokens of a piece.
        overlap: 0 or more, and less than size.

    Returns:
        The pieces in order; none if there are no tokens.

    Raises:
        ValueError: overlap is negative, or not less than size.

    Source: Karpukhin et al. 2020, "Dense Passage Retrieval for Open-Domain
    Question Answering", section 4.1 (pieces of 100 words, without overlap).

    >>> chunk(["a", "screen", "that", "stays", "dark"], size=3, overlap=1)
    [['a', 'screen', 'that'], ['that', 'stays', 'dark']]
    """
    # TODO: write it as described above.
    raise NotImplementedError


class BM25:
    """A search by words: how well each document answers a query.

    The score of a document d is the sum, over the terms t of the query, of

        idf(t) · f · (k1 + 1) / (f + k1 · (1 - b + b · length / mean length))

    where f says how often t occurs in d and length is the number of tokens of
    d, repeated ones included, as in the mean over all documents. With N
    documents, n of which contain t,

        idf(t) = ln(1 + (N - n + 0.5) / (n + 0.5))

    A term that stands in the query several times counts each time. One that is
    in no document adds 0. Empty documents count in N and in the mean; they
    score 0. There may be no document, or none but empty ones.

    Args:
        documents: lists of tokens.
        k1: 0 or more; how late the gain from further occurrences ends.
        b: from 0 to 1; how much of the length is made up for.

    Source: Robertson and Zaragoza 2009, "The Probabilistic Relevance
    Framework: BM25 and Beyond", section 3.4; the idf is that of Apache Lucene.

    >>> index = BM25([["dark", "screen"], ["dark", "dark", "night"], ["screw"]])
    >>> index.scores(["dark", "screen"])
    tensor([1.4508, 0.5785, 0.0000])
    """

    def __init__(self, documents: Sequence[Sequence[Hashable]], k1: float = 1.5, b: float = 0.75) -> None:
        # TODO: make the parameters and whatever else it takes.
        raise NotImplementedError

    def scores(self, query: Sequence[Hashable]) -> Tensor:
        """The score of each document.

        Args:
            query: a list of tokens, maybe empty.

        Returns:
            (N,), a floating-point tensor.
        """
        # TODO: write it as described above.
        raise NotImplementedError


def dense_search(queries: Tensor, index: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k nearest vectors to each query, by the cosine of the angle between them.

    The cosine with a vector of zeros is 0. Equal ones rank by their id, the
    lower first.

    Args:
        queries: (Q, D), of any lengths, 0 included (but none between 0 and
            1e-3).
        index: (N, D), likewise, N at least 1.
        k: at least 1; with more than N, all are given.

    Returns:
        Their cosines, (Q, min(k, N)), the largest first, in the dtype of
        queries; and their ids, of the same shape, int64.

    Source: Karpukhin et al. 2020, "Dense Passage Retrieval for Open-Domain
    Question Answering", section 3.

    >>> dense_search(torch.tensor([[2.0, 0.0]]), torch.tensor([[3.0, 4.0], [0.5, 0.0], [0.0, 9.0]]), k=2)
    (tensor([[1.0000, 0.6000]]), tensor([[1, 0]]))
    """
    # TODO: write it as described above.
    raise NotImplementedError


def reciprocal_rank_fusion(rankings: Sequence[Sequence[Hashable]], k: float = 60) -> list[tuple[Any, float]]:
    """One ranking from several: scores of different kinds cannot be compared, ranks can.

    The score of an id is the sum of 1 / (k + rank) over the rankings that
    contain it. The best has rank 1.

    Args:
        rankings: ids, the best first, in each no id twice; of any lengths, and
            not all ids need be in all.
        k: how little the first places stand out.

    Returns:
        Pairs (id, score), the best first, one for each id that is in some
        ranking. Of equal ones the one comes first that is met first if the
        rankings are read one after the other.

    Source: Cormack et al. 2009, "Reciprocal Rank Fusion outperforms Condorcet
    and individual Rank Learning Methods".

    >>> reciprocal_rank_fusion([[7, 3], [5, 3]], k=1)
    [(3, 0.6666666666666666), (7, 0.5), (5, 0.5)]
    """
    # TODO: write it as described above.
    raise NotImplementedError


def maximal_marginal_relevance(query: Tensor, candidates: Tensor, k: int, trade_off: float) -> list[int]:
    """Choose candidates that are near the query and not all alike.

    The first is the one most similar to the query, whatever trade_off. Then
    each time the candidate i comes that has the most of

        trade_off · cos(query, i) - (1 - trade_off) · max over the chosen j of cos(i, j)

    among those not chosen yet. Of equal ones the lower id is taken.

    Args:
        query: (D,), not zero.
        candidates: (N, D), none zero; of any lengths.
        k: how many; with more than N, all are chosen.
        trade_off: from 0, differ from each other, to 1, be near the query.

    Returns:
        The ids in the order in which they were chosen.

    Source: Carbonell and Goldstein 1998, "The Use of MMR, Diversity-Based
    Reranking for Reordering Documents and Producing Summaries", section 2.

    >>> twins_and_another = torch.tensor([[5.0, 1.0], [5.0, 1.2], [3.0, -4.0]])
    >>> maximal_marginal_relevance(torch.tensor([1.0, 0.0]), twins_and_another, k=2, trade_off=0.5)
    [0, 2]
    """
    # TODO: write it as described above.
    raise NotImplementedError


def build_prompt(question: str, passages: Sequence[str], max_tokens: int, count: Callable[[str], int]) -> str:
    """A prompt with the question and as many passages as fit, the best ones nearest to the question.

    It consists of blocks with one empty line between them: INSTRUCTION; one
    for each source that is kept, [, its number, ], a space and the passage;
    and two lines, `Question: ` and the question, then `Answer:`. With that
    colon the prompt ends.

    The number of a source is its place in passages, from 1, so that what the
    model cites can be found. The sources stand with the best last.

    Passages are taken whole or not at all, the best first: each one is kept if
    the whole prompt with it and those kept before has at most max_tokens
    tokens. One that does not fit is left out, and the next one is tried.

    Args:
        question: stays as it is.
        passages: texts, the best first, maybe none.
        max_tokens: for the whole prompt.
        count: gives the number of tokens of a text. That of a whole need not
            be the sum of those of its parts: many tokenizers add a token to
            each text, or join letters across a border.

    Returns:
        The prompt.

    Raises:
        ValueError: even without a passage there are more than max_tokens.

    Source: Liu et al. 2023, "Lost in the Middle: How Language Models Use Long
    Contexts", section 2 (what stands at an end is used best).

    >>> print(build_prompt("Why is it dark?", ["Press both keys.", "Plug it in."], 60, lambda text: len(text.split())))
    Answer from the sources below, and name each that you use by its number, as in [1]. If they do not tell, say so.
    <BLANKLINE>
    [2] Plug it in.
    <BLANKLINE>
    [1] Press both keys.
    <BLANKLINE>
    Question: Why is it dark?
    Answer:
    """
    # TODO: write it as described above.
    raise NotImplementedError


def recall_at_k(rankings: Sequence[Sequence[Hashable]], relevant: Sequence[set[Any]], k: int) -> float:
    """How much of what is relevant is among the first k.

    For each query, the share of its relevant ids that are among the first k of
    its ranking; of these the mean over the queries. Queries to which nothing
    is relevant are left out; if there are no others, the result is 0.0.

    Args:
        rankings: of each query, ids, the best first, none twice; maybe fewer
            than k, maybe none.
        relevant: of each query, the set of relevant ids.
        k: at least 1.

    Source: Manning et al. 2008, "Introduction to Information Retrieval",
    sections 8.3 and 8.4.

    >>> recall_at_k([[4, 2, 9], [1, 0, 3]], [{9, 4}, {1}], k=2)
    0.75
    """
    # TODO: write it as described above.
    raise NotImplementedError


def mean_reciprocal_rank(rankings: Sequence[Sequence[Hashable]], relevant: Sequence[set[Any]]) -> float:
    """How far down one has to read.

    For each query, 1 / rank of the first relevant id in its ranking, the best
    having rank 1, and 0 if there is none in it; of these the mean over the
    queries. Queries to which nothing is relevant are left out; if there are no
    others, the result is 0.0.

    Args:
        rankings: of each query, ids, the best first, none twice; maybe none.
        relevant: of each query, the set of relevant ids.

    Source: Voorhees 1999, "The TREC-8 Question Answering Track Report".

    >>> mean_reciprocal_rank([[4, 2, 9], [1, 0, 3]], [{9, 2}, {1}])
    0.75
    """
    # TODO: write it as described above.
    raise NotImplementedError
