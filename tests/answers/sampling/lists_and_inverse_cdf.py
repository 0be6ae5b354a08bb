"""Rows as Python lists, one at a time; a uniform number walks down the cumulative probabilities."""

import math

import torch

GONE = -math.inf


def by_row(function, logits):
    rows = logits.reshape(-1, logits.shape[-1]).tolist()
    return torch.tensor([function(row) for row in rows], dtype=logits.dtype).reshape(logits.shape)


def softmax(row):
    top = max(row)
    powers = [math.exp(value - top) for value in row]
    total = math.fsum(powers)
    return [power / total for power in powers]


def top_k_filter(logits, k):
    if k <= 0:
        raise ValueError("k must be positive")

    def keep(row):
        least = sorted(row, reverse=True)[:k][-1]
        return [value if value >= least else GONE for value in row]

    return by_row(keep, logits)


def top_p_filter(logits, p):
    if p <= 0 or p > 1:
        raise ValueError("p must be in (0, 1]")

    def keep(row):
        probs, kept, mass = softmax(row), set(), 0.0
        for token in sorted(range(len(row)), key=row.__getitem__, reverse=True):
            kept.add(token)
            mass += probs[token]
            if mass >= p and p < 1:
                break
        return [value if token in kept else GONE for token, value in enumerate(row)]

    return by_row(keep, logits)


def min_p_filter(logits, p):
    if p < 0 or p > 1:
        raise ValueError("p must be in [0, 1]")

    def keep(row):
        probs = softmax(row)
        return [value if prob >= p * max(probs) else GONE for value, prob in zip(row, probs)]

    return by_row(keep, logits)


def repetition_penalty(logits, ids, penalty):
    if penalty <= 0:
        raise ValueError("penalty must be positive")
    rows = logits.tolist()
    for row, produced in zip(rows, ids.tolist()):
        for token in set(produced):
            row[token] = row[token] / penalty if row[token] > 0 else row[token] * penalty
    return torch.tensor(rows, dtype=logits.dtype)


def distribution(logits, temperature=1.0, top_k=None, top_p=None, min_p=None):
    if temperature < 0:
        raise ValueError("temperature must not be negative")
    if temperature == 0:
        return by_row(lambda row: [float(token == row.index(max(row))) for token in range(len(row))], logits)
    logits = by_row(lambda row: [value / temperature for value in row], logits)
    for filtered, argument in ((top_k_filter, top_k), (top_p_filter, top_p), (min_p_filter, min_p)):
        if argument is not None:
            logits = filtered(logits, argument)
    return by_row(softmax, logits)


def sample(logits, temperature=1.0, top_k=None, top_p=None, min_p=None, generator=None):
    ids = []
    for probs in distribution(logits, temperature, top_k, top_p, min_p).tolist():
        left = torch.rand((), generator=generator, dtype=torch.float64).item()
        chosen = None
        for token, prob in enumerate(probs):
            if prob > 0:
                chosen = token
                left -= prob
                if left < 0:
                    break
        ids.append(chosen)
    return torch.tensor(ids)
