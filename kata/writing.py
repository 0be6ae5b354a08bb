"""The real run of the GPT: it reads a book, character by character, and goes on writing.

What is graded is what nobody has seen: every tenth paragraph is held out.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from kata.compare import describe
from kata.implementation import Function, Implementation, ImplementationRaised, trained
from kata.weights import number_from

CORPUS = Path(__file__).parent / "corpus" / "opticks.txt"
MODEL = {"max_len": 64, "d_model": 80, "num_layers": 2, "num_heads": 4}
STEPS, BATCH, RATE = 1000, 16, 8e-3
STRIDE = 8  # characters from one training window to the next
EVERY = 10  # a paragraph of so many is held out

# Nats a character on the held-out paragraphs.
SINGLES, PAIRS, TRIPLES = 3.08, 2.36, 1.82  # counted in the training text: how often each character, after the last, after the last two
MARK = 1.7  # to be reached
PLAUSIBLE = 1.3  # not to be reached by a model of this size in so few steps: the reference reaches 1.50

PROMPT, NEW, PAGES = 24, 160, 3  # characters given, characters written, samples
TEMPERATURE = 0.7


@dataclass(frozen=True)
class Book:
    """The text, and its characters in the order of their ids."""

    training: str
    held_out: tuple[str, ...]  # paragraphs
    characters: str

    def ids(self, text: str) -> Tensor:
        return torch.tensor([self.characters.index(character) for character in text])

    def text(self, ids: list[int]) -> str:
        return "".join(self.characters[i] if 0 <= i < len(self.characters) else "\N{REPLACEMENT CHARACTER}" for i in ids)


@dataclass(frozen=True)
class Run:
    """What a training run came to."""

    losses: list[float]
    held_out: float  # nats a character
    vocabulary: int
    likeliest: str  # a prompt and what `generate` makes of it
    drawn: list[str]  # prompts and what was drawn from the model's probabilities

    @property
    def leaks(self) -> bool:
        return self.held_out < PLAUSIBLE

    @property
    def passed(self) -> bool:
        return PLAUSIBLE <= self.held_out <= MARK


def read_book() -> Book:
    """The corpus with every tenth paragraph apart."""
    text = CORPUS.read_text(encoding="utf-8")
    paragraphs = text.strip().split("\n\n")
    held_out = paragraphs[EVERY - 1 :: EVERY]
    known = [paragraph for place, paragraph in enumerate(paragraphs) if place % EVERY != EVERY - 1]
    return Book("\n\n".join(known), tuple(held_out), "".join(sorted(set(text))))


def windows(ids: Tensor, stride: int) -> tuple[Tensor, Tensor]:
    """Inputs and targets, (N, L) each: a target is the character after its input."""
    rows = ids.unfold(0, MODEL["max_len"] + 1, stride)
    return rows[:, :-1].contiguous(), rows[:, 1:].contiguous()


def write(implementation: Implementation, report: Callable[[int, float], Any], steps: int = STEPS) -> Run:
    """Train the implementation's GPT on the book, measure it on what was held out, and let it write.

    Args:
        report: called now and then with the step and its loss.
    """
    book = read_book()
    vocabulary = len(book.characters)
    implementation._channel.begins = number_from("writing")  # the weights with which it begins are the same each time
    model = implementation.GPT(vocabulary, **MODEL)
    inputs, targets = windows(book.ids(book.training), STRIDE)
    generator = torch.Generator().manual_seed(number_from("writing"))
    picks = torch.randint(len(inputs), (steps, BATCH), generator=generator)
    losses = trained(model, [inputs, targets], picks, RATE, report=report)
    unseen, wanted = windows(book.ids("\n\n".join(book.held_out)), MODEL["max_len"])
    held_out = float(F.cross_entropy(logits_of(model, unseen, vocabulary).flatten(0, 1), wanted.flatten()))
    prompts = torch.stack([book.ids(paragraph[:PROMPT]) for paragraph in book.held_out[:PAGES]])
    drawn = draw(model, prompts, vocabulary, generator)
    likeliest = implementation.generate(model, prompts[:1], NEW)
    expect(likeliest, [1, PROMPT + NEW], "generate")
    return Run(losses, held_out, vocabulary, book.text(likeliest[0].tolist()), [book.text(row) for row in drawn.tolist()])


def draw(model: Function, ids: Tensor, vocabulary: int, generator: torch.Generator) -> Tensor:
    """Each row continued by characters drawn from the model's probabilities, sharpened by a temperature."""
    for _ in range(NEW):
        logits = logits_of(model, ids[:, -MODEL["max_len"] :], vocabulary)[:, -1]
        probabilities = (logits / TEMPERATURE).softmax(-1).nan_to_num(1 / vocabulary)
        ids = torch.cat([ids, probabilities.multinomial(1, generator=generator)], dim=1)
    return ids


def logits_of(model: Function, ids: Tensor, vocabulary: int) -> Tensor:
    logits = model(ids)
    expect(logits, [*ids.shape, vocabulary], "the model")
    return torch.as_tensor(logits).float()


def expect(value: Any, shape: list[int], giver: str) -> None:
    """
    Raises:
        ImplementationRaised: the value is not a tensor of this shape.
    """
    if not isinstance(value, Tensor) or list(value.shape) != shape:
        raise ImplementationRaised(
            ("builtins.TypeError",), f"{giver} was to give a tensor of shape {tuple(shape)}, {describe(value)} came", ""
        )


def guessing(vocabulary: int) -> float:
    """Nats a character for a model that knows nothing."""
    return math.log(vocabulary)
