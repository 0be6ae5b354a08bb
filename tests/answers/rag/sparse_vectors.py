"""Documents and queries as sparse vectors (Counters) whose product is the score; recursion, heapq, cosine_similarity, statistics."""

import heapq
import math
from collections import Counter, defaultdict
from statistics import fmean

import torch
import torch.nn.functional as F

INSTRUCTION = "Answer from the sources below, and name each that you use by its number, as in [1]. If they do not tell, say so."


def chunk(tokens, size, overlap):
    if size - overlap <= 0 or overlap < 0:
        raise ValueError("size must be larger than overlap, overlap not negative")
    if not tokens:
        return []
    first, rest = tokens[:size], tokens[size:]
    return [first, *chunk(tokens[size - overlap :], size, overlap)] if rest else [first]


class BM25:
    def __init__(self, documents, k1=1.5, b=0.75):
        bags = [Counter(document) for document in documents]
        n = Counter(term for bag in bags for term in bag)
        N = len(bags)
        lengths = [sum(bag.values()) for bag in bags]
        mean = fmean(lengths) if lengths and any(lengths) else 1.0
        self.vectors = [
            {
                term: math.log1p((N - n[term] + 0.5) / (n[term] + 0.5)) * f * (k1 + 1) / (f + k1 * (1 - b + b * length / mean))
                for term, f in bag.items()
            }
            for bag, length in zip(bags, lengths)
        ]

    def scores(self, query):
        wanted = Counter(query)
        return torch.tensor(
            [sum(times * vector.get(term, 0.0) for term, times in wanted.items()) for vector in self.vectors], dtype=torch.float32
        )


def dense_search(queries, index, k):
    cosines = F.cosine_similarity(queries[:, None], index[None], dim=-1)
    values, ids = torch.sort(cosines, dim=-1, descending=True, stable=True)
    k = min(k, index.shape[0])
    return [values[:, :k], ids[:, :k]]


def reciprocal_rank_fusion(rankings, k=60):
    scores, seen = defaultdict(float), {}
    for ranking in rankings:
        for rank, item in enumerate(ranking):
            scores[item] += 1.0 / (k + rank + 1)
            seen.setdefault(item, len(seen))
    heap = [(-score, seen[item], item) for item, score in scores.items()]
    heapq.heapify(heap)
    return [(item, -score) for score, _, item in (heapq.heappop(heap) for _ in range(len(heap)))]


def maximal_marginal_relevance(query, candidates, k, trade_off):
    near = F.cosine_similarity(candidates, query[None], dim=-1)
    order = []
    for _ in range(k):
        rest = [i for i in range(len(candidates)) if i not in order]
        if not rest:
            break
        gains = near[rest]
        if order:
            alike = F.cosine_similarity(candidates[rest][:, None], candidates[order][None], dim=-1)
            gains = trade_off * gains - (1.0 - trade_off) * alike.amax(1)
        order.append(rest[int(torch.sort(gains, descending=True, stable=True).indices[0])])
    return order


def build_prompt(question, passages, max_tokens, count):
    sources = []

    def blocks():
        return "\n\n".join((INSTRUCTION, *sources, f"Question: {question}\nAnswer:"))

    if count(blocks()) > max_tokens:
        raise ValueError("the question does not fit")
    for number, passage in enumerate(passages, start=1):
        sources.insert(0, f"[{number}] {passage}")
        if count(blocks()) > max_tokens:
            del sources[0]
    return blocks()


def recall_at_k(rankings, relevant, k):
    shares = [len(set(ranking[:k]) & set(w)) / len(w) for ranking, w in zip(rankings, relevant) if w]
    return fmean(shares) if shares else 0.0


def mean_reciprocal_rank(rankings, relevant):
    reciprocal = [max([1 / (1 + list(r).index(i)) for i in w if i in r], default=0.0) for r, w in zip(rankings, relevant) if w]
    return fmean(reciprocal) if reciprocal else 0.0
