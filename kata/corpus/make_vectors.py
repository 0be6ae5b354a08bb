"""Makes opticks_vectors.tsv: a vector for each passage of opticks.txt and for each of opticks_questions.tsv.

    python -m kata.corpus.make_vectors

Latent semantic analysis: passages are described by their words without endings,
by groups of letters, and by the lines of synonyms.txt that they touch; the 64
directions in which passages differ most are kept. Rare words leave little
trace in those, as in most encoders; words of like sense and other forms of a
word fall together.
"""

from __future__ import annotations

import functools
from collections import Counter
from pathlib import Path

import torch
from torch import Tensor

from kata.retrieval import OVERLAP, SIZE, VECTORS, paragraphs, read_questions, tokens

SYNONYMS = Path(__file__).with_name("synonyms.txt")
DIRECTIONS = 64
LETTERS = (3, 4, 5)  # in a group
SENSE = 2.0  # what synonyms count for, where words and letters count 1
UNIT = 200  # numbers are multiplied by this and rounded
ENDINGS = "ations ation ings ing edly ed ness ies ity er est es s d y e ly al".split()

Bag = Counter[str]


@functools.cache
def stem(word: str) -> str:
    """A word without the first ending that fits and leaves three letters.

    >>> [stem(word) for word in ("refracted", "refracting", "observd", "red")]
    ['refract', 'refract', 'observ', 'red']
    """
    return next((word[: -len(ending)] for ending in ENDINGS if word.endswith(ending) and len(word) - len(ending) >= 3), word)


def senses() -> dict[str, list[str]]:
    """Of each stem, the lines of synonyms.txt on which it stands."""
    found: dict[str, list[str]] = {}
    for number, line in enumerate(SYNONYMS.read_text(encoding="utf-8").splitlines()):
        for word in line.split():
            found.setdefault(stem(word), []).append(str(number))
    return found


def bags(text: str, sense: dict[str, list[str]]) -> tuple[Bag, Bag, Bag]:
    """How often each stem, each group of letters, and each sense occurs."""
    words = tokens(text)
    letters = [f" {word} "[i : i + n] for word in words for n in LETTERS for i in range(max(1, len(word) + 3 - n))]
    return Counter(map(stem, words)), Counter(letters), Counter(number for word in words for number in sense.get(stem(word), []))


def weighed(known: list[Bag], asked: list[Bag], least: int) -> Tensor:
    """tf-idf of both, (known + asked, terms), each row of length 1; only terms in `least` known texts or more."""
    frequency = Counter(term for bag in known for term in bag)
    terms = {term: i for i, term in enumerate(sorted(term for term, n in frequency.items() if n >= least))}
    found = [(row, terms[term], n, frequency[term]) for row, bag in enumerate([*known, *asked]) for term, n in bag.items() if term in terms]
    rows, columns, n, texts = torch.tensor(found).T
    table = torch.zeros(len(known) + len(asked), len(terms), dtype=torch.float64)
    table[rows, columns] = (1 + n.double().log()) * (1 + ((1 + len(known)) / (1 + texts.double())).log())
    return torch.nn.functional.normalize(table)


def vectors() -> Tensor:
    """(passages + questions, DIRECTIONS), rounded."""
    starts = ((words, range(0, max(1, len(words) - OVERLAP), SIZE - OVERLAP)) for words in paragraphs())
    passages = [" ".join(words[start : start + SIZE]) for words, places in starts for start in places]
    sense = senses()
    known = list(zip(*(bags(text, sense) for text in passages), strict=True))
    asked = list(zip(*(bags(question.text, sense) for question in read_questions()), strict=True))
    blocks = [weighed(list(k), list(a), least) for k, a, least in zip(known, asked, (1, 2, 1), strict=True)]
    table = torch.cat([*blocks[:2], SENSE * blocks[2]], dim=1)
    square = table[: len(passages)] @ table[: len(passages)].T  # its eigenvectors are the left singular vectors
    values, left = torch.linalg.eigh(square)
    values, left = values[-DIRECTIONS:].flip(0), left[:, -DIRECTIONS:].flip(1)
    left = left * left.gather(0, left.abs().argmax(0, keepdim=True)).sign()  # the sign is free: the largest shall be positive
    projected = table @ (table[: len(passages)].T @ left / values.sqrt())
    return (UNIT * projected).round()


def lines() -> list[str]:
    return ["\t".join(f"{number:.0f}" for number in row) for row in vectors().tolist()]


if __name__ == "__main__":
    VECTORS.write_text("\n".join(lines()) + "\n", encoding="utf-8", newline="\n")
