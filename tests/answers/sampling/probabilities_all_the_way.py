"""Everything on probabilities that are normalised again and again; a tiny temperature for 0; searchsorted on uniform numbers."""

import torch


def _check(legal, what):
    if not legal:
        raise ValueError(what)


def _nothing(keep, logits):
    out = torch.full_like(logits, float("-inf"))
    out[keep] = logits[keep]
    return out


def _top_k(probs, k):
    _check(k >= 1, "top-k")
    descending = probs.sort(-1, descending=True).values
    return probs >= descending[..., min(k, probs.shape[-1]) - 1].unsqueeze(-1)


def _top_p(probs, p):
    _check(p > 0, "top-p")
    _check(p <= 1, "top-p")
    descending = probs.sort(-1, descending=True).values
    last = torch.searchsorted(descending.cumsum(-1), torch.full_like(probs[..., :1], p)).clamp(max=probs.shape[-1] - 1)
    return probs >= descending.gather(-1, last)  # the probability of the crossing token


def _min_p(probs, p):
    _check(p >= 0, "min-p")
    _check(p <= 1, "min-p")
    return probs / probs.max(-1, keepdim=True).values >= p


def top_k_filter(logits, k):
    return _nothing(_top_k(logits, k), logits)


def top_p_filter(logits, p):
    return _nothing(_top_p(logits.softmax(-1), p), logits)


def min_p_filter(logits, p):
    return _nothing(_min_p(logits.softmax(-1), p), logits)


def repetition_penalty(logits, ids, penalty):
    _check(penalty > 0, "penalty")
    out = logits.clone()
    rows = torch.arange(len(logits))[:, None].expand_as(ids)
    seen = logits[rows, ids]
    out[rows, ids] = torch.maximum(seen, torch.zeros_like(seen)) / penalty + torch.minimum(seen, torch.zeros_like(seen)) * penalty
    return out


def distribution(logits, temperature=1.0, top_k=None, top_p=None, min_p=None):
    _check(temperature >= 0, "temperature")
    shifted = logits.double() - logits.double().max(dim=-1, keepdim=True).values
    probs = torch.exp(shifted / max(temperature, 1e-10))
    probs = probs / probs.sum(-1, keepdim=True)
    for keep, number in ((_top_k, top_k), (_top_p, top_p), (_min_p, min_p)):
        if number is not None:
            probs = probs * keep(probs, number)
            probs = probs / probs.sum(-1, keepdim=True)
    return probs.to(logits.dtype)


def sample(logits, temperature=1.0, top_k=None, top_p=None, min_p=None, generator=None):
    cumulative = distribution(logits, temperature, top_k, top_p, min_p).double().cumsum(-1)
    uniform = torch.rand(len(logits), 1, generator=generator, dtype=torch.float64) * cumulative[:, -1:]
    return torch.searchsorted(cumulative, uniform, right=True).squeeze(1)
