"""Makes numbers.tsv: numbers from 0 to 9999 in English and in German, split by number.

    python -m kata.corpus.make_numbers

German says the ones before the tens ("zwei und vierzig" is 42), so a
translation is no word-by-word affair: something has to be looked up elsewhere.
"""

from __future__ import annotations

import random
from pathlib import Path

FILE = Path(__file__).with_name("numbers.tsv")
SEED = 2017
PAIRS, HELD_OUT = 4000, 400
LARGEST = 9999

ENGLISH = """
    zero one two three four five six seven eight nine ten
    eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen
""".split()
ENGLISH_TENS = "twenty thirty forty fifty sixty seventy eighty ninety".split()
GERMAN = """
    null eins zwei drei vier fünf sechs sieben acht neun zehn
    elf zwölf dreizehn vierzehn fünfzehn sechzehn siebzehn achtzehn neunzehn
""".split()
GERMAN_TENS = "zwanzig dreißig vierzig fünfzig sechzig siebzig achtzig neunzig".split()


def english(number: int) -> list[str]:
    """The words of a number from 0 to 9999: 342 is three hundred forty two.

    >>> " ".join(english(9042))
    'nine thousand forty two'
    """
    if number < 20:
        return [ENGLISH[number]]
    for size, name in ((1000, "thousand"), (100, "hundred")):
        if number >= size:
            rest = english(number % size) if number % size else []
            return [*english(number // size), name, *rest]
    return [ENGLISH_TENS[number // 10 - 2], *(english(number % 10) if number % 10 else [])]


def german(number: int) -> list[str]:
    """The words of a number from 0 to 9999, apart, as German speaks them.

    >>> " ".join(german(9042))
    'neun tausend zwei und vierzig'
    """
    if number < 20:
        return [GERMAN[number]]
    for size, name in ((1000, "tausend"), (100, "hundert")):
        if number >= size:
            rest = german(number % size) if number % size else []
            return [*count(number // size), name, *rest]
    tens = GERMAN_TENS[number // 10 - 2]
    return [*count(number % 10), "und", tens] if number % 10 else [tens]


def count(number: int) -> list[str]:
    """As before a noun: one is ein, not eins."""
    return ["ein"] if number == 1 else german(number)


def lines() -> list[str]:
    """The corpus, a header and a line each pair."""
    drawn = random.Random(SEED).sample(range(LARGEST + 1), PAIRS + HELD_OUT)
    rows = [
        f"{number}\t{' '.join(english(number))}\t{' '.join(german(number))}\t{int(place < HELD_OUT)}" for place, number in enumerate(drawn)
    ]
    return ["number\tenglish\tgerman\theld_out", *rows]


if __name__ == "__main__":
    FILE.write_text("\n".join(lines()) + "\n", encoding="utf-8", newline="\n")
