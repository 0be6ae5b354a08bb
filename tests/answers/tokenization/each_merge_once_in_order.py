"""Tokens are bytes or pairs of tokens; every merge of the list is applied once, in the order of training, to the whole text."""

import math


def _join(tokens, left, right):
    out = []
    for token in tokens:
        if out and out[-1] == left and token == right:
            out[-1] = (left, right)
        else:
            out.append(token)
    return out


def count_pairs(ids):
    return {pair: _occurrences(ids, pair) for pair in set(zip(ids[:-1], ids[1:]))}


def _occurrences(ids, pair):
    n = i = 0
    while i + 1 < len(ids):
        if (ids[i], ids[i + 1]) == pair:
            n += 1
            i += 1
        i += 1
    return n


def _bytes_of(token):
    if isinstance(token, tuple):
        return _bytes_of(token[0]) + _bytes_of(token[1])
    return bytes([token])


def train_bpe(data, num_merges):
    number = {byte: byte for byte in range(256)}  # of a token, which is a byte or a tuple of two tokens
    tokens = list(data)
    result = []
    while len(result) < num_merges:
        counts = count_pairs(tokens)
        most = max(counts.values(), default=0)
        if most <= 1:
            break
        ties = sorted((pair for pair in counts if counts[pair] == most), key=lambda pair: [_bytes_of(t) for t in pair])
        left, right = ties[-1]
        number[left, right] = 256 + len(result)
        result.append((number[left], number[right]))
        tokens = _join(tokens, left, right)
    return result


class BPETokenizer:
    def __init__(self, merges, special_tokens={}):
        self.tokens = {i: i for i in range(256)}
        self.pairs = []
        for i, (left, right) in enumerate(merges):
            self.pairs.append((self.tokens[left], self.tokens[right]))
            self.tokens[256 + i] = self.pairs[-1]
        self.numbers = {token: i for i, token in self.tokens.items()}
        self.special = {text: special_tokens[text] for text in sorted(special_tokens)}
        self.vocab = {i: _bytes_of(token) for i, token in self.tokens.items()}
        self.vocab.update((i, text.encode("utf8")) for text, i in self.special.items())

    def encode(self, text):
        ids = []
        start = 0
        while start < len(text):
            # the nearest special token, and the longest there
            found = [(at, -len(s), s) for s in self.special for at in [text.find(s, start)] if at >= 0]
            at, _, special = min(found) if found else (math.inf, 0, None)
            piece = text[start : None if special is None else at]
            tokens = list(piece.encode("utf8"))
            for left, right in self.pairs:
                tokens = _join(tokens, left, right)
            ids += [self.numbers[token] for token in tokens]
            if special is None:
                break
            ids.append(self.special[special])
            start = at + len(special)
        return ids

    def decode(self, ids):
        unknown = set(ids) - set(self.vocab)
        if unknown:
            raise ValueError("unknown: " + ", ".join(map(str, sorted(unknown))))
        joined = bytearray()
        for i in ids:
            joined.extend(self.vocab[i])
        return joined.decode("utf-8", "replace")
