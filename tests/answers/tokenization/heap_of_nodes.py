"""A heap of candidates over linked nodes; special tokens are found in a trie; typed and in classes."""

from __future__ import annotations

import heapq
from collections import Counter
from dataclasses import dataclass, field
from itertools import groupby, pairwise
from typing import Iterator, Optional


@dataclass(eq=False)
class Node:
    token: int
    place: int
    left: Optional[Node] = None
    right: Optional[Node] = None
    alive: bool = True


@dataclass
class Trie:
    children: dict[str, Trie] = field(default_factory=dict)
    token: Optional[int] = None

    def add(self, text: str, token: int) -> None:
        node = self
        for char in text:
            node = node.children.setdefault(char, Trie())
        node.token = token

    def longest(self, text: str, start: int) -> tuple[int, Optional[int]]:
        node, best = self, (start, None)
        for end in range(start, len(text)):
            node = node.children.get(text[end])
            if node is None:
                break
            if node.token is not None:
                best = (end + 1, node.token)
        return best


def count_pairs(ids: list[int]) -> Counter[tuple[int, int]]:
    counts = Counter(pair for pair in pairwise(ids) if pair[0] != pair[1])
    for token, run in groupby(ids):
        length = sum(1 for _ in run)
        if length > 1:
            counts[token, token] += length // 2
    return counts


def train_bpe(data: bytes, num_merges: int) -> list[tuple[int, int]]:
    tokens = {i: bytes((i,)) for i in range(256)}
    learned: list[tuple[int, int]] = []
    ids = [*data]
    for number in range(num_merges):
        best, times = None, 1
        for pair, count in count_pairs(ids).items():
            if count > times or count == times > 1 and tuple(map(tokens.get, pair)) > tuple(map(tokens.get, best)):
                best, times = pair, count
        if best is None:
            return learned
        learned.append(best)
        tokens[256 + number] = b"".join(map(tokens.get, best))
        ids = BPETokenizer([best], first=256 + number).merged(iter(ids))
    return learned


class BPETokenizer:
    def __init__(self, merges, special_tokens: Optional[dict[str, int]] = None, first: int = 256):
        self._first = first
        self._ranks = {tuple(pair): rank for rank, pair in enumerate(merges)}
        self._special = dict(special_tokens or {})
        self._trie = Trie()
        for text, token in self._special.items():
            self._trie.add(text, token)

    @property
    def vocab(self) -> dict[int, bytes]:
        table = {i: bytes([i]) for i in range(256)}
        for (left, right), rank in self._ranks.items():
            table[256 + rank] = table[left] + table[right]
        return table | {token: text.encode() for text, token in self._special.items()}

    def merged(self, tokens: Iterator[int]) -> list[int]:
        nodes = [Node(token, place) for place, token in enumerate(tokens)]
        heap: list[tuple[int, int, int, int]] = []

        def consider(left: Optional[Node], right: Optional[Node]) -> None:
            if left and right and (left.token, right.token) in self._ranks:
                heapq.heappush(heap, (self._ranks[left.token, right.token], left.place, left.token, right.token))

        for left, right in pairwise(nodes):
            left.right, right.left = right, left
            consider(left, right)
        while heap:
            rank, place, a, b = heapq.heappop(heap)
            node = nodes[place]
            other = node.right
            if not node.alive or other is None or (node.token, other.token) != (a, b):
                continue
            node.token, other.alive = self._first + rank, False
            node.right = other.right
            if node.right:
                node.right.left = node
            consider(node.left, node)
            consider(node, node.right)
        return [node.token for node in nodes if node.alive]

    def encode(self, text: str) -> list[int]:
        ids: list[int] = []
        ordinary: list[str] = []

        def flush() -> None:
            ids.extend(self.merged(iter("".join(ordinary).encode())))
            ordinary.clear()

        place = 0
        while place < len(text):
            end, token = self._trie.longest(text, place)
            if token is None:
                ordinary.append(text[place])
                place += 1
            else:
                flush()
                ids.append(token)
                place = end
        flush()
        return ids

    def decode(self, ids: list[int]) -> str:
        vocab = self.vocab
        try:
            return str(b"".join([vocab[i] for i in ids]), "utf-8", "replace")
        except KeyError as error:
            raise ValueError(f"unknown id {error}") from None
