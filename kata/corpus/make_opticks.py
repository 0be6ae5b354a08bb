"""Makes opticks.txt: the running prose of Newton's Opticks, without headings, figures, tables, and calculations.

    python -m kata.corpus.make_opticks Isaac.Newton-Opticks.txt

Where the text comes from stands in README.md beside this file.
"""

from __future__ import annotations

import re
import sys
import textwrap
from pathlib import Path

FILE = Path(__file__).with_name("opticks.txt")
WIDTH = 72
SHORTEST = 200  # characters: a heading is no paragraph
LETTERED = 0.012  # share of words such as ABC: above that, the talk is of a figure
PLAIN = re.compile(r"[A-Za-z ,.;:'?!()-]+")
SPELT = {"_": "", "æ": "ae", "Æ": "Ae", "ê": "e", "û": "u"}  # italics; letters that are rare


def paragraphs(text: str) -> list[str]:
    """Paragraphs of prose, each on one line.

    >>> paragraphs("PROP. I." + chr(10) * 2 + "_Light_ is " + "so white " * 30)[0][:20]
    'Light is so white so'
    """
    found = []
    for block in re.split(r"\n\s*\n", text.replace("\r", "")):
        if "  " in block.strip():  # a table, or verse
            continue
        for old, new in SPELT.items():
            block = block.replace(old, new)
        line = re.sub(r"\[[A-Z]\]", "", " ".join(block.split()))  # marks of footnotes
        if len(line) >= SHORTEST and PLAIN.fullmatch(line) and lettered(line) < LETTERED:
            found.append(line)
    return found


def lettered(line: str) -> float:
    words = line.split()
    return sum(bool(re.fullmatch(r"\(?[A-Za-z]?[A-Z]+[,.;:)]*", word)) and word not in ("I", "A") for word in words) / len(words)


def lines(text: str) -> str:
    """The corpus: paragraphs with an empty line between them."""
    return "\n\n".join(textwrap.fill(line, WIDTH, break_on_hyphens=False) for line in paragraphs(text)) + "\n"


if __name__ == "__main__":
    FILE.write_text(lines(Path(sys.argv[1]).read_text(encoding="utf-8")), encoding="utf-8", newline="\n")
