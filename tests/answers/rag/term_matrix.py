"""Everything as matrices: a term-document table for BM25, one-hot ranks, masked argmax; no dictionaries of postings."""

import torch
from torch import Tensor

INSTRUCTION = "Answer from the sources below, and name each that you use by its number, as in [1]. If they do not tell, say so."


def chunk(tokens, size, overlap):
    stride = size - overlap
    if overlap < 0 or stride < 1:
        raise ValueError("overlap must be in [0, size)")
    n = len(tokens)
    if n == 0:
        return []
    number = 1 + max(0, -(-(n - size) // stride))
    return [tokens[i * stride : i * stride + size] for i in range(number)]


class BM25:
    def __init__(self, documents, k1=1.5, b=0.75):
        self.vocabulary = {term: column for column, term in enumerate(dict.fromkeys(term for d in documents for term in d))}
        counts = torch.zeros(len(documents), len(self.vocabulary), dtype=torch.float64)
        for row, document in zip(counts, documents):
            if len(document):
                row.index_add_(0, torch.tensor([self.vocabulary[t] for t in document]), torch.ones(len(document), dtype=torch.float64))
        lengths = counts.sum(1, keepdim=True)
        n = (counts > 0).sum(0)
        idf = torch.log1p((len(documents) - n + 0.5) / (n + 0.5))
        mean = lengths.mean().nan_to_num().clamp(min=1e-9)
        norm = k1 * (1 - b + b * lengths / mean)
        self.table = torch.where(counts > 0, idf * counts * (k1 + 1) / (counts + norm), 0.0)

    def scores(self, query):
        weights = torch.zeros(len(self.vocabulary), dtype=torch.float64)
        for term in query:
            if term in self.vocabulary:
                weights[self.vocabulary[term]] += 1
        return self.table @ weights


def dense_search(queries: Tensor, index: Tensor, k: int):
    lengths = queries.square().sum(1).sqrt()[:, None] * index.square().sum(1).sqrt()[None]
    dots = torch.einsum("qd,nd->qn", queries, index)
    cosines = torch.where(lengths > 0, dots / lengths.clamp(min=1e-30), torch.zeros_like(dots))
    order = torch.argsort(-cosines, dim=1, stable=True)[:, :k]
    return cosines.gather(1, order), order


def reciprocal_rank_fusion(rankings, k=60):
    ids = list(dict.fromkeys(i for ranking in rankings for i in ranking))
    sums = [sum(1 / (k + list(r).index(i) + 1) for r in rankings if i in r) for i in ids]
    order = sorted(range(len(ids)), key=sums.__getitem__, reverse=True)
    return [(ids[place], sums[place]) for place in order]


def maximal_marginal_relevance(query, candidates, k, trade_off):
    unit = candidates / candidates.norm(dim=1, keepdim=True)
    relevance = unit @ (query / query.norm())
    free = torch.ones(len(unit), dtype=torch.bool)
    nearest = torch.full((len(unit),), -torch.inf, dtype=unit.dtype)
    chosen = []
    for step in range(min(k, len(unit))):
        gains = relevance if step == 0 else trade_off * relevance - (1 - trade_off) * nearest
        gains = gains.masked_fill(~free, -torch.inf)
        pick = (gains == gains.max()).nonzero()[0].item()
        chosen.append(pick)
        free[pick] = False
        nearest = torch.maximum(nearest, unit @ unit[pick])
    return chosen


def build_prompt(question, passages, max_tokens, count):
    end = "Question: {}\nAnswer:".format(question)
    sources = ""
    if count(INSTRUCTION + "\n\n" + end) > max_tokens:
        raise ValueError("question too long")
    for number, passage in enumerate(passages, 1):
        longer = "[{}] {}\n\n".format(number, passage) + sources
        if count(INSTRUCTION + "\n\n" + longer + end) <= max_tokens:
            sources = longer
    return INSTRUCTION + "\n\n" + sources + end


def recall_at_k(rankings, relevant, k):
    total, n = 0.0, 0
    for ranking, wanted in zip(rankings, relevant):
        if not wanted:
            continue
        total += sum(item in wanted for item in ranking[:k]) / len(wanted)
        n += 1
    return total / max(n, 1)


def mean_reciprocal_rank(rankings, relevant):
    total, n = 0.0, 0
    for ranking, wanted in zip(rankings, relevant):
        if not wanted:
            continue
        n += 1
        for place, item in enumerate(ranking):
            if item in wanted:
                total += 1 / (place + 1)
                break
    return total / max(n, 1)
