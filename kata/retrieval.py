"""The real run of retrieval: questions about a book, answered by the passages that hold the answer.

Nothing is trained. The book is cut into passages, each question is looked up by
words, by vectors, and by both, and it is counted how often the passage that
answers it is found.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kata.compare import describe
from kata.implementation import Implementation, ImplementationRaised
from kata.writing import CORPUS, expect

QUESTIONS = Path(__file__).parent / "corpus" / "opticks_questions.tsv"
VECTORS = Path(__file__).parent / "corpus" / "opticks_vectors.tsv"
KINDS = {"words": "shares rare words", "forms": "other forms of the words", "sense": "other words"}
SIZE, OVERLAP = 100, 20  # words of a passage; no answer is longer than the overlap
DEPTH = 10  # of a ranking so many are kept
FIRST = 5  # recall is taken at
WAYS = ("by words", "by vectors", "both")
MEASURES = (f"recall@{FIRST}", "MRR")
EXPECTED = {"by words": (0.640, 0.530), "by vectors": (0.681, 0.515), "both": (0.762, 0.597)}  # what the reference reaches
NEAR = 0.02  # ties, and the order of sums, may move a question or two
SAMPLES = 2  # questions of each kind
CHOSEN, TRADE_OFF, ROOM = 4, 0.7, 400  # passages for the prompt, and its words

STOP = frozenset(
    """
    a an and are as at be but by can could did do does for from had has have he her his how i if in into is it its may me
    might must my no not of on or our shall she should so such than that the their them then there these they this those to
    was we were what when where which who whom why will with would you your
    """.split()
)


@dataclass(frozen=True)
class Question:
    """A question and the words of the book that answer it."""

    kind: str
    text: str
    answers: tuple[str, ...]


@dataclass(frozen=True)
class Sample:
    """A question, at which rank each way finds an answer (0 if it does not), and the passage that came first."""

    question: Question
    ranks: dict[str, int]
    first: str


@dataclass(frozen=True)
class Run:
    """What looking up all questions came to."""

    measures: dict[str, tuple[float, float]]  # of each way, recall and MRR, by the implementation's own functions
    samples: list[Sample]
    prompt: str  # for the first sample whose answer came first, if there is one

    @property
    def strange(self) -> list[tuple[str, str]]:
        """The ways, and measures, that are not what they should be."""
        return [
            (way, measure)
            for way in WAYS
            for measure, got, wanted in zip(MEASURES, self.measures[way], EXPECTED[way], strict=True)
            if not abs(got - wanted) <= NEAR
        ]

    @property
    def passed(self) -> bool:
        both = self.measures["both"]
        better = all(ours > theirs for way in WAYS[:2] for ours, theirs in zip(both, self.measures[way], strict=True))
        return better and not self.strange


def paragraphs() -> list[list[str]]:
    """The words of each paragraph of the book."""
    return [paragraph.split() for paragraph in CORPUS.read_text(encoding="utf-8").strip().split("\n\n")]


def read_questions() -> list[Question]:
    rows = [line.split("\t") for line in QUESTIONS.read_text(encoding="utf-8").splitlines()[1:]]
    return [Question(kind, text, tuple(answers.split(" | "))) for kind, text, answers in rows]


def read_vectors() -> Tensor:
    """(passages + questions, D)."""
    rows = VECTORS.read_text(encoding="utf-8").splitlines()
    return torch.tensor([[float(number) for number in row.split("\t")] for row in rows])


def tokens(text: str) -> list[str]:
    """Words in small letters, without those that stand everywhere; observ'd is one word.

    >>> tokens("What did Mr. Halley see of the Rays observ'd?")
    ['mr', 'halley', 'see', 'rays', 'observd']
    """
    return [word for word in re.findall("[a-z]+", text.lower().replace("'", "")) if word not in STOP]


def answering(question: Question, passages: list[str]) -> set[int]:
    """The passages that hold an answer as a whole."""
    return {i for i, passage in enumerate(passages) if any(answer in passage for answer in question.answers)}


def retrieve(implementation: Implementation, report: Callable[[int, float], Any]) -> Run:
    """Cut the book, look up all questions in three ways, and measure each.

    Args:
        report: called with the number of each question, and no loss.
    """
    vectors, questions = read_vectors(), read_questions()
    index, queries = vectors[: -len(questions)], vectors[-len(questions) :]
    pieces = [piece for paragraph in paragraphs() for piece in called(list, implementation.chunk(paragraph, SIZE, OVERLAP), "chunk")]
    if len(pieces) != len(index):
        raise unfit(f"chunk was to cut the book into {len(index)} passages, {len(pieces)} came")
    passages = [" ".join(piece) for piece in pieces]
    relevant = [answering(question, passages) for question in questions]

    rankings: dict[str, list[list[int]]] = {way: [] for way in WAYS}
    words = implementation.BM25([tokens(passage) for passage in passages])
    found = called(tuple, implementation.dense_search(queries, index, DEPTH), "dense_search")
    expect(found[-1], [len(questions), DEPTH], "dense_search, for the ids,")
    rankings["by vectors"] = found[-1].tolist()
    for number, question in enumerate(questions):
        scores = words.scores(tokens(question.text))
        expect(scores, [len(passages)], "scores")
        rankings["by words"].append(scores.sort(descending=True, stable=True).indices[:DEPTH].tolist())
        pair = [rankings[way][number] for way in WAYS[:2]]
        rankings["both"].append([item for item, _ in called(list, implementation.reciprocal_rank_fusion(pair), "reciprocal_rank_fusion")])
        report(number, float("nan"))

    def measured(way: str) -> tuple[float, float]:
        recall = implementation.recall_at_k(rankings[way], relevant, FIRST)
        return float(recall), float(implementation.mean_reciprocal_rank(rankings[way], relevant))

    shown = [number for kind in KINDS for number in [i for i, q in enumerate(questions) if q.kind == kind][:: 48 // SAMPLES][:SAMPLES]]
    samples = [
        Sample(
            questions[number],
            {way: rank_of(relevant[number], rankings[way][number]) for way in WAYS},
            passages[rankings["both"][number][0]],
        )
        for number in shown
    ]
    asked = next((number for number, sample in zip(shown, samples, strict=True) if sample.ranks["both"] == 1), shown[0])
    best = rankings["both"][asked]
    chosen = implementation.maximal_marginal_relevance(queries[asked], index[best], CHOSEN, TRADE_OFF)
    kept = [passages[best[i]] for i in called(list, chosen, "maximal_marginal_relevance")]
    prompt = implementation.build_prompt(questions[asked].text, kept, ROOM, count_words)
    return Run({way: measured(way) for way in WAYS}, samples, called(str, prompt, "build_prompt"))


def count_words(text: str) -> int:
    return len(text.split())


def rank_of(relevant: set[int], ranking: list[int]) -> int:
    """Of the first relevant one, from 1; 0 if there is none."""
    return next((rank for rank, item in enumerate(ranking, start=1) if item in relevant), 0)


def called(kind: type, value: Any, giver: str) -> Any:
    """
    Raises:
        ImplementationRaised: the value is of another kind.
    """
    if not isinstance(value, kind):
        raise unfit(f"{giver} was to give a {kind.__name__}, {describe(value)} came")
    return value


def unfit(message: str) -> ImplementationRaised:
    return ImplementationRaised(("builtins.TypeError",), message, "")
