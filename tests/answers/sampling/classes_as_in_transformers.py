"""Filters as classes that are chained; top-p from the unlikely end; min-p on log-probabilities; an exponential race."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch


@dataclass
class TopK:
    k: int

    def __post_init__(self):
        if self.k < 1:
            raise ValueError(f"{self!r}: keep at least one token")

    def __call__(self, scores):
        if self.k >= scores.shape[-1]:
            return scores.clone()
        kth = torch.kthvalue(scores, scores.shape[-1] - self.k + 1, dim=-1, keepdim=True).values
        return scores.masked_fill(scores < kth, -math.inf)


@dataclass
class TopP:
    p: float

    def __post_init__(self):
        if self.p <= 0.0 or self.p > 1.0:
            raise ValueError(f"{self!r}: p lies in (0, 1]")

    def __call__(self, scores):
        ascending, places = torch.sort(scores, dim=-1)
        remove_sorted = ascending.softmax(-1).cumsum(-1) <= 1 - self.p
        remove_sorted[..., -1] = False
        remove = torch.zeros_like(remove_sorted)
        remove.scatter_(-1, places, remove_sorted)
        return scores.masked_fill(remove, -math.inf)


@dataclass
class MinP:
    p: float

    def __post_init__(self):
        if not 0.0 <= self.p <= 1.0:
            raise ValueError(f"{self!r}: p lies in [0, 1]")

    def __call__(self, scores):
        if self.p == 0.0:
            return scores
        log_probs = scores.log_softmax(-1)
        return scores.masked_fill(log_probs < log_probs.amax(-1, True) + math.log(self.p), -math.inf)


def top_k_filter(logits, k):
    return TopK(k)(logits)


def top_p_filter(logits, p):
    return TopP(p)(logits)


def min_p_filter(logits, p):
    return MinP(p)(logits)


def repetition_penalty(logits, ids, penalty):
    if not penalty > 0.0:
        raise ValueError(f"penalty {penalty} is not positive")
    picked = logits.gather(1, ids)
    picked = torch.where(picked < 0, picked * penalty, picked / penalty)
    return logits.scatter(1, ids, picked)


def distribution(logits, temperature=1.0, top_k=None, top_p=None, min_p=None):
    if temperature < 0:
        raise ValueError(f"temperature {temperature} is negative")
    chain = [warper(value) for warper, value in ((TopK, top_k), (TopP, top_p), (MinP, min_p)) if value is not None]
    if temperature == 0:
        return torch.nn.functional.one_hot(logits.argmax(-1), logits.shape[-1]).type_as(logits)
    scores = logits / temperature
    for warper in chain:
        scores = warper(scores)
    return scores.log_softmax(-1).exp()


def sample(logits, temperature=1.0, top_k=None, top_p=None, min_p=None, generator=None):
    probs = distribution(logits, temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p)
    waiting = torch.empty_like(probs).exponential_(generator=generator)
    return (probs / waiting).argmax(dim=-1)
