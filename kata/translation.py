"""The real run of the Transformer: numbers written in English, translated to German words.

What is graded is what nobody has seen: the held-out pairs are split by number.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kata.implementation import Implementation, trained
from kata.weights import number_from

CORPUS = Path(__file__).parent / "corpus" / "numbers.tsv"
PAD, BOS, EOS = 0, 1, 2
SPECIAL = ("<pad>", "<bos>", "<eos>")
MODEL = {"d_model": 64, "num_heads": 4, "num_layers": 2, "d_hidden": 128}
STEPS, BATCH, RATE = 400, 64, 3e-3
MARK = 0.95  # of the held-out pairs must be translated exactly


@dataclass(frozen=True)
class Language:
    """Words and their ids."""

    words: tuple[str, ...]

    def ids(self, sentence: str) -> list[int]:
        return [self.words.index(word) for word in sentence.split()]

    def sentence(self, ids: list[int]) -> str:
        """The words up to the first <eos>."""
        kept = ids[: ids.index(EOS)] if EOS in ids else ids
        return " ".join(self.words[i] for i in kept)


@dataclass(frozen=True)
class Pairs:
    """Sentences of one split."""

    english: tuple[str, ...]
    german: tuple[str, ...]


@dataclass(frozen=True)
class Run:
    """What a training run came to."""

    losses: list[float]
    samples: list[tuple[str, str, str]]  # English, wanted, got
    exact: float  # share of the held-out pairs

    @property
    def passed(self) -> bool:
        return self.exact >= MARK


def read_corpus() -> tuple[Pairs, Pairs, Language, Language]:
    """Training pairs, held-out pairs, and the two languages."""
    rows = [line.split("\t") for line in CORPUS.read_text(encoding="utf-8").splitlines()[1:]]
    splits = []
    for held_out in ("0", "1"):
        chosen = [row for row in rows if row[3] == held_out]
        splits.append(Pairs(tuple(row[1] for row in chosen), tuple(row[2] for row in chosen)))
    languages = [Language((*SPECIAL, *sorted({word for row in rows for word in row[side].split()}))) for side in (1, 2)]
    return splits[0], splits[1], languages[0], languages[1]


def padded(sequences: list[list[int]]) -> Tensor:
    """(N, longest), padded on the right."""
    longest = max(map(len, sequences))
    return torch.tensor([ids + [PAD] * (longest - len(ids)) for ids in sequences])


def translate(implementation: Implementation, report: Callable[[int, float], Any], steps: int = STEPS) -> Run:
    """Train the implementation's Transformer and translate the held-out pairs.

    Args:
        report: called now and then with the step and its loss.
    """
    training, held_out, english, german = read_corpus()
    model = implementation.Transformer(len(english.words), len(german.words), **MODEL, pad_id=PAD)
    source = padded([[*english.ids(s), EOS] for s in training.english])
    target = padded([[BOS, *german.ids(s), EOS] for s in training.german])
    generator = torch.Generator().manual_seed(number_from("translation"))
    picks = torch.randint(len(source), (steps, BATCH), generator=generator)
    losses = trained(model, [source, target[:, :-1], target[:, 1:]], picks, RATE, ignore_index=PAD, report=report)
    got: list[str] = []
    longest = target.shape[1]
    for rows in padded([[*english.ids(s), EOS] for s in held_out.english]).split(100):
        decoded = model.greedy_decode(rows, BOS, EOS, longest)
        got += [german.sentence(ids) for ids in decoded.tolist()]
    samples = list(zip(held_out.english, held_out.german, got, strict=True))
    return Run(losses, samples, sum(wanted == came for _, wanted, came in samples) / len(samples))
