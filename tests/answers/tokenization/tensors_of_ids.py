"""Ids in tensors: pairs are counted by unique, runs by their starts, and a merge is a mask."""

import torch
from torch import Tensor


class UnknownToken(ValueError):
    pass


def _starts(left: Tensor, right: Tensor, a: int, b: int) -> Tensor:
    """Where occurrences of (a, b) begin that do not overlap: in a run, every other one."""
    hits = (left == a) & (right == b)
    if a != b:
        return hits
    place = torch.arange(len(hits))
    before = torch.where(hits, -1, place).cummax(0).values  # the last place that is no hit
    return hits & ((place - before) % 2 == 1)


def count_pairs(ids):
    ids = torch.tensor(ids, dtype=torch.long)
    if len(ids) < 2:
        return {}
    pairs = torch.unique(torch.stack([ids[:-1], ids[1:]], 1), dim=0).tolist()
    return {(a, b): int(_starts(ids[:-1], ids[1:], a, b).sum()) for a, b in pairs}


def _merge(ids: Tensor, a: int, b: int, new: int) -> Tensor:
    if ids.numel() < 2:
        return ids
    start = torch.cat([_starts(ids[:-1], ids[1:], a, b), torch.tensor([False])])
    gone = start.roll(1)
    return torch.where(start, torch.tensor(new), ids)[~gone]


def train_bpe(data, num_merges):
    ids = torch.tensor(list(data), dtype=torch.int64)
    words = [bytes([i]) for i in range(256)]
    merges = []
    for _ in range(num_merges):
        ranked = sorted(((n, words[a], words[b]), (a, b)) for (a, b), n in count_pairs(ids.tolist()).items())
        if not ranked or ranked[-1][0][0] == 1:
            break
        a, b = ranked[-1][1]
        ids = _merge(ids, a, b, len(words))
        words.append(words[a] + words[b])
        merges.append((a, b))
    return tuple(merges)


class BPETokenizer(torch.nn.Module):
    def __init__(self, merges, special_tokens=None):
        super().__init__()
        self.merge_table = [tuple(m) for m in merges]
        self.special = special_tokens.copy() if special_tokens else {}
        words = [bytes([i]) for i in range(256)]
        for a, b in merges:
            words.append(words[a] + words[b])
        self.vocab = dict(enumerate(words))
        for text, token in self.special.items():
            self.vocab[token] = text.encode("utf-8")
        self.first_letters = {text[0] for text in self.special}
        self.lengths = sorted({len(text) for text in self.special})[::-1]

    def encode(self, text):
        pieces, i = [], 0
        while i < len(text):
            if text[i] in self.first_letters:
                for n in self.lengths:
                    if text[i : i + n] in self.special:
                        pieces.append(self.special[text[i : i + n]])
                        i += n
                        break
                else:
                    pieces.extend(text[i].encode("utf-8"))
                    i += 1
            else:
                pieces.extend(text[i].encode("utf-8"))
                i += 1
        ids = torch.tensor(pieces, dtype=torch.int64)
        for rank, (a, b) in enumerate(self.merge_table):
            ids = _merge(ids, a, b, 256 + rank)
        return ids.tolist()

    def decode(self, ids):
        out = b""
        for i in ids:
            word = self.vocab.get(i)
            if word is None:
                raise UnknownToken(i)
            out += word
        return out.decode("utf-8", errors="replace")
