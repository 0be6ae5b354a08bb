"""In the manner of minbpe: statistics of pairs, merge all of the best one, again; special tokens by a regular expression."""

import re


def get_stats(ids):
    stats = {}
    previous = None
    for pair in zip(ids, ids[1:]):
        if pair == previous:  # aaa
            previous = None
            continue
        stats[pair] = stats.get(pair, 0) + 1
        previous = pair
    return stats


count_pairs = get_stats


def merge(ids, pair, idx):
    newids = []
    i = 0
    while i < len(ids):
        if ids[i] == pair[0] and i < len(ids) - 1 and ids[i + 1] == pair[1]:
            newids.append(idx)
            i += 2
        else:
            newids.append(ids[i])
            i += 1
    return newids


def train_bpe(data, num_merges):
    vocab = {idx: bytes([idx]) for idx in range(256)}
    ids = list(data)
    merges = {}
    for i in range(num_merges):
        stats = get_stats(ids)
        if not stats or max(stats.values()) < 2:
            break
        pair = max(stats, key=lambda p: (stats[p], (vocab[p[0]], vocab[p[1]])))
        idx = 256 + i
        ids = merge(ids, pair, idx)
        merges[pair] = idx
        vocab[idx] = vocab[pair[0]] + vocab[pair[1]]
    return list(merges)


class BPETokenizer:
    def __init__(self, merges, special_tokens={}):
        self.merges = {tuple(pair): 256 + i for i, pair in enumerate(merges)}
        self.special_tokens = special_tokens
        self.vocab = {idx: bytes([idx]) for idx in range(256)}
        for (p0, p1), idx in self.merges.items():
            self.vocab[idx] = self.vocab[p0] + self.vocab[p1]
        for special, idx in special_tokens.items():
            self.vocab[idx] = special.encode("utf-8")

    def decode(self, ids):
        part_bytes = []
        for idx in ids:
            if idx in self.vocab:
                part_bytes.append(self.vocab[idx])
            else:
                raise ValueError(f"invalid token id: {idx}")
        return b"".join(part_bytes).decode("utf-8", errors="replace")

    def encode_ordinary(self, text):
        ids = list(text.encode("utf-8"))
        while len(ids) >= 2:
            stats = get_stats(ids)
            pair = min(stats, key=lambda p: self.merges.get(p, float("inf")))
            if pair not in self.merges:
                break
            ids = merge(ids, pair, self.merges[pair])
        return ids

    def encode(self, text):
        if not self.special_tokens:
            return self.encode_ordinary(text)
        longest_first = sorted(self.special_tokens, key=len, reverse=True)
        pattern = "(" + "|".join(re.escape(k) for k in longest_first) + ")"
        ids = []
        for part in re.split(pattern, text):
            if part in self.special_tokens:
                ids.append(self.special_tokens[part])
            else:
                ids.extend(self.encode_ordinary(part))
        return ids
