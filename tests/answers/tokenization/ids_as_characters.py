"""Ids are kept as characters of a str, so that count and replace do the work; neither overlaps, both go from the left."""

import re


def _write(ids):
    return "".join(map(chr, ids))


def _read(string):
    return [ord(c) for c in string]


def count_pairs(ids):
    string = _write(ids)
    return {(ord(a), ord(b)): string.count(a + b) for a, b in set(zip(string, string[1:]))}


def train_bpe(data: bytes, num_merges: int):
    string = data.decode("latin-1")
    spelled = [bytes([i]) for i in range(256)]
    merges = []
    for new in range(256, 256 + num_merges):
        counts = count_pairs(_read(string))
        best = max(((n, spelled[a], spelled[b], a, b) for (a, b), n in counts.items()), default=(0,))
        if best[0] < 2:
            break
        a, b = best[3:]
        string = string.replace(chr(a) + chr(b), chr(new))
        spelled.append(spelled[a] + spelled[b])
        merges += [[a, b]]
    return merges


class BPETokenizer(object):
    vocab = None

    def __init__(self, merges, special_tokens={}):
        self.vocab = dict(enumerate(bytes([i]) for i in range(256)))
        self.rules = []
        for i, (a, b) in enumerate(merges):
            self.rules.append((chr(a) + chr(b), chr(256 + i)))
            self.vocab[256 + i] = self.vocab[a] + self.vocab[b]
        self.special = dict(special_tokens)
        for s in self.special:
            self.vocab[self.special[s]] = bytes(s, "utf-8")
        alternatives = sorted(map(re.escape, self.special), key=len, reverse=True)
        # an escaped text may be longer than another although the text is not: neither then begins the other
        self.pattern = re.compile("|".join(alternatives)) if self.special else None

    def _ordinary(self, text):
        string = text.encode("utf-8").decode("latin-1")
        for pair, new in self.rules:
            string = string.replace(pair, new)
        return _read(string)

    def encode(self, text):
        if self.pattern is None:
            return self._ordinary(text)
        ids, start = [], 0
        for match in self.pattern.finditer(text):
            ids += self._ordinary(text[start : match.start()]) + [self.special[match.group()]]
            start = match.end()
        return ids + self._ordinary(text[start:])

    def decode(self, ids):
        if any(i not in self.vocab for i in ids):
            raise ValueError(ids)
        return b"".join(map(self.vocab.__getitem__, ids)).decode("utf-8", "replace")
