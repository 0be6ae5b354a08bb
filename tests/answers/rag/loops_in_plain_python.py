"""Plain loops over plain numbers, at query time; nothing is prepared but counts. Only tensors come out where tensors are wanted."""

import math

import torch

INSTRUCTION = "Answer from the sources below, and name each that you use by its number, as in [1]. If they do not tell, say so."


def chunk(tokens, size, overlap):
    if overlap >= size or overlap < 0:
        raise ValueError(f"bad overlap {overlap}")
    pieces = []
    start = 0
    while start < len(tokens):
        pieces.append(list(tokens[start : start + size]))
        if start + size >= len(tokens):
            break
        start += size - overlap
    return pieces


class BM25:
    def __init__(self, documents, k1=1.5, b=0.75):
        self.documents = [tuple(document) for document in documents]
        self.k1 = k1
        self.b = b

    def scores(self, query):
        result = torch.zeros(len(self.documents))
        lengths = [len(document) for document in self.documents]
        for term in query:
            n = 0
            for document in self.documents:
                if term in document:
                    n += 1
            if n == 0:
                continue
            idf = math.log((len(lengths) + 1) / (n + 0.5))
            average = sum(lengths) / len(lengths)
            for i, document in enumerate(self.documents):
                f = document.count(term)
                if f:
                    norm = self.k1 * ((1 - self.b) + self.b * lengths[i] / average)
                    result[i] += idf * (self.k1 + 1) / (1 + norm / f)
        return result


def cosine(a, b):
    dot = sum(x * y for x, y in zip(a, b))
    length = math.sqrt(sum(x * x for x in a)) * math.sqrt(sum(y * y for y in b))
    return dot / length if length else 0.0


def dense_search(queries, index, k):
    values, ids = [], []
    for query in queries.tolist():
        found = [(-cosine(query, row), i) for i, row in enumerate(index.tolist())]
        found = sorted(found)[:k]
        values.append([-value for value, _ in found])
        ids.append([i for _, i in found])
    return torch.tensor(values, dtype=queries.dtype), torch.tensor(ids)


def reciprocal_rank_fusion(rankings, k=60):
    fused = []
    for ranking in rankings:
        for rank in range(len(ranking)):
            for pair in fused:
                if pair[0] == ranking[rank]:
                    pair[1] += 1 / (k + rank + 1)
                    break
            else:
                fused.append([ranking[rank], 1 / (k + rank + 1)])
    return [tuple(pair) for pair in sorted(fused, key=lambda pair: pair[1], reverse=True)]


def maximal_marginal_relevance(query, candidates, k, trade_off):
    q, rows = query.tolist(), candidates.tolist()
    chosen = []
    while len(chosen) < min(k, len(rows)):
        best, best_gain = None, None
        for i, row in enumerate(rows):
            if i in chosen:
                continue
            gain = cosine(q, row)
            if chosen:
                gain = trade_off * gain - (1 - trade_off) * max(cosine(row, rows[j]) for j in chosen)
            if best is None or gain > best_gain:
                best, best_gain = i, gain
        chosen.append(best)
    return chosen


def build_prompt(question, passages, max_tokens, count):
    def whole(sources):
        text = INSTRUCTION + "\n\n"
        for source in sources:
            text += source + "\n\n"
        return text + "Question: " + question + "\n" + "Answer:"

    if count(whole([])) > max_tokens:
        raise ValueError("no room")
    sources = []
    for place in range(len(passages)):
        attempt = ["[" + str(place + 1) + "] " + passages[place]] + sources
        if count(whole(attempt)) <= max_tokens:
            sources = attempt
    return whole(sources)


def recall_at_k(rankings, relevant, k):
    recalls = []
    for q in range(len(relevant)):
        if len(relevant[q]) > 0:
            hits = [item for item in list(rankings[q])[:k] if item in relevant[q]]
            recalls.append(len(hits) / len(relevant[q]))
    return sum(recalls) / len(recalls) if recalls else 0.0


def mean_reciprocal_rank(rankings, relevant):
    values = []
    for q in range(len(relevant)):
        if len(relevant[q]) > 0:
            values.append(next((1 / (place + 1) for place, item in enumerate(rankings[q]) if item in relevant[q]), 0.0))
    return sum(values) / len(values) if values else 0.0
