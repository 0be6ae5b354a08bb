"""NumPy arrays inside, tensors only at the border; lexsort for ties; float32 throughout for the vectors."""

import numpy as np
import torch

INSTRUCTION = "Answer from the sources below, and name each that you use by its number, as in [1]. If they do not tell, say so."


def chunk(tokens: list, size: int, overlap: int) -> list[list]:
    if not (size > overlap >= 0):
        raise ValueError("need 0 <= overlap < size")
    ends = [end for end in range(size, len(tokens) + size - overlap, size - overlap)] or [size]
    return [tokens[end - size : end] for end in ends if end - size < len(tokens) and (end == size or end - size + overlap < len(tokens))]


class BM25:
    def __init__(self, documents, k1: float = 1.5, b: float = 0.75):
        self.k1, self.b, self.N = k1, b, len(documents)
        self.tf = [{} for _ in documents]
        self.df = {}
        for bag, document in zip(self.tf, documents):
            for token in document:
                if token not in bag:
                    self.df[token] = self.df.get(token, 0) + 1
                bag[token] = bag.get(token, 0) + 1
        self.lengths = np.array([len(d) for d in documents], dtype=float)

    def scores(self, query):
        total = np.zeros(self.N)
        if not self.lengths.sum():
            return torch.from_numpy(total)
        relative = self.lengths / self.lengths.mean()
        for term in query:
            n = self.df.get(term, 0)
            f = np.array([bag.get(term, 0) for bag in self.tf], dtype=float)
            idf = np.log(1 + (self.N - n + 0.5) / (n + 0.5))
            below = f + self.k1 * (1 - self.b + self.b * relative)
            total += idf * np.divide(f * (self.k1 + 1), below, out=np.zeros_like(f), where=f > 0)
        return torch.from_numpy(total)


def unit(x):
    lengths = np.linalg.norm(x, axis=-1, keepdims=True)
    return np.divide(x, lengths, out=np.zeros_like(x), where=lengths > 0)


def dense_search(queries, index, k):
    cosines = unit(queries.numpy().copy()) @ unit(index.numpy().copy()).T
    ids = np.stack([np.lexsort((np.arange(len(row)), -row)) for row in cosines])[:, :k]
    return torch.from_numpy(np.take_along_axis(cosines, ids, 1)), torch.from_numpy(ids)


def reciprocal_rank_fusion(rankings, k=60):
    items = []
    for ranking in rankings:
        items += [item for item in ranking if item not in items]
    table = np.zeros((len(rankings), len(items)))
    for row, ranking in zip(table, rankings):
        for rank, item in enumerate(ranking, 1):
            row[items.index(item)] = 1 / (k + rank)
    sums = table.sum(0) if len(items) else np.zeros(0)
    return [(items[i], float(sums[i])) for i in np.argsort(-sums, kind="stable")]


def maximal_marginal_relevance(query, candidates, k, trade_off):
    rows = unit(candidates.numpy().copy())
    relevance = rows @ unit(query.numpy().copy())
    similarity = rows @ rows.T
    chosen = []
    gains = relevance.copy()
    while len(chosen) < min(k, len(rows)):
        gains[chosen] = -np.inf
        chosen.append(int(np.argmax(gains)))
        gains = trade_off * relevance - (1 - trade_off) * similarity[:, chosen].max(1)
    return chosen


def build_prompt(question, passages, max_tokens, count):
    def text(keep):
        return "\n\n".join(
            [INSTRUCTION]
            + [f"[{i + 1}] {passages[i]}" for i in range(len(passages) - 1, -1, -1) if keep[i]]
            + [f"Question: {question}\nAnswer:"]
        )

    keep = [False] * len(passages)
    if count(text(keep)) > max_tokens:
        raise ValueError("no room for the question")
    for i in range(len(keep)):
        keep[i] = True
        keep[i] = count(text(keep)) <= max_tokens
    return text(keep)


def recall_at_k(rankings, relevant, k):
    found = [np.isin(sorted(w), list(r)[:k]).mean() for r, w in zip(rankings, relevant) if w]
    return float(np.mean(found)) if found else 0.0


def mean_reciprocal_rank(rankings, relevant):
    values = []
    for r, w in zip(rankings, relevant):
        if w:
            hits = np.flatnonzero([item in w for item in r])
            values.append(1 / (hits[0] + 1) if len(hits) else 0.0)
    return float(np.mean(values)) if values else 0.0
