"""No sorting: each token asks which tokens are likelier, (V, V) comparisons a row; the draw is the arg max with Gumbel noise."""

import torch


def _likelier(logits):
    return logits.unsqueeze(-2) > logits.unsqueeze(-1)  # [..., i, j]: j is likelier than i


def top_k_filter(logits, k):
    if not k >= 1:
        raise ValueError(f"top-k needs k >= 1, not {k}")
    rank = _likelier(logits).sum(-1)
    return torch.where(rank < k, logits, -torch.inf)


def top_p_filter(logits, p):
    if not (p > 0 and p <= 1):
        raise ValueError(f"top-p needs 0 < p <= 1, not {p}")
    probs = torch.softmax(logits, dim=-1)
    mass = torch.einsum("...ij,...j->...i", _likelier(logits).to(logits.dtype), probs)
    return torch.where(mass < p, logits, -torch.inf)


def min_p_filter(logits, p):
    if p < 0 or p > 1:
        raise ValueError(f"min-p needs 0 <= p <= 1, not {p}")
    ratio = torch.exp(logits - logits.max(dim=-1, keepdim=True)[0])
    return torch.where(ratio >= p, logits, -torch.inf)


def repetition_penalty(logits, ids, penalty):
    if penalty <= 0:
        raise ValueError(f"the penalty must be positive, not {penalty}")
    said = (ids.unsqueeze(-1) == torch.arange(logits.size(-1))).any(dim=1)
    factor = torch.where(logits < 0, penalty, 1 / penalty).to(logits.dtype)
    return logits * torch.where(said, factor, torch.ones_like(factor))


def distribution(logits, temperature=1.0, top_k=None, top_p=None, min_p=None):
    if temperature < 0:
        raise ValueError(f"temperature {temperature} is negative")
    if temperature == 0:
        return (logits == logits.max(-1, keepdim=True).values).to(logits.dtype)
    scaled = logits * (1 / temperature)
    scaled = scaled if top_k is None else top_k_filter(scaled, top_k)
    scaled = scaled if top_p is None else top_p_filter(scaled, top_p)
    scaled = scaled if min_p is None else min_p_filter(scaled, min_p)
    return torch.softmax(scaled, dim=-1)


def sample(logits, temperature=1.0, top_k=None, top_p=None, min_p=None, generator=None):
    probs = distribution(logits, temperature, top_k, top_p, min_p)
    noise = -torch.log(-torch.log(torch.rand(probs.shape, generator=generator, dtype=torch.float64)))
    return torch.argmax(torch.log(probs) + noise, dim=-1)
