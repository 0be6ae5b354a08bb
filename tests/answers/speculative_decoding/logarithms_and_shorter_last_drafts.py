"""Acceptance by logarithms; the last rounds draft no more than can still be used; drafts by the exponential race."""

import math

import torch


def residual_distribution(p, q):
    residual = torch.where(p > q, p - q, torch.zeros_like(p))
    return residual.div(residual.sum(dim=0, keepdim=True))


def draw(probs, u):
    hits = torch.cumsum(probs, 0) > u
    return int(torch.argmax(hits.int()))


def verify(target_probs, draft_probs, draft_ids, uniforms):
    index = draft_ids.unsqueeze(1)
    log_ratio = target_probs[:-1].log().gather(1, index) - draft_probs.log().gather(1, index)
    passes = uniforms[:-1].log() < log_ratio.squeeze(1)
    out = []
    for i, ok in enumerate(passes.tolist()):
        if not ok:
            out.append(draw(residual_distribution(target_probs[i], draft_probs[i]), uniforms[-1]))
            return out
        out.append(int(draft_ids[i]))
    out.append(draw(target_probs[len(draft_ids)], uniforms[-1]))
    return out


def exponential_race(row, generator):
    times = torch.empty_like(row).exponential_(generator=generator)
    return torch.argmax(row / times).reshape(1)


def speculative_generate(target, draft, ids, gamma, max_new, generator=None):
    prompt, text = ids, ids.clone()
    left = max_new
    while left > 0:
        short = min(gamma, left - 1)
        guess, rows = text, []
        for _ in range(short):
            rows.append(draft(guess)[-1])
            guess = torch.cat((guess, exponential_race(rows[-1], generator)))
        p = target(guess)[len(text) - 1 :]
        if rows:
            u = torch.rand(short + 1, generator=generator, dtype=p.dtype)
            new = verify(p, torch.stack(rows), guess[len(text) :], u)
        else:
            new = [int(exponential_race(p[0], generator))]
        text = torch.cat((text, torch.as_tensor(new, dtype=torch.int64)))
        left -= len(new)
    assert len(text) == len(prompt) + max_new
    return text


def expected_tokens(alpha, gamma):
    if math.isclose(alpha, 1.0):
        return gamma + 1.0
    return (1 - alpha ** (gamma + 1)) / (1 - alpha)
