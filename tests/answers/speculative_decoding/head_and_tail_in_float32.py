"""verify as a recursion over places, in float32; generation as a generator function that is cut by islice."""

from itertools import islice

import torch


def residual_distribution(p, q):
    positive = torch.maximum(p - q, torch.tensor(0.0, dtype=p.dtype))
    return positive / torch.sum(positive)


def verify(target_probs, draft_probs, draft_ids, uniforms):
    p, q, u = target_probs.float(), draft_probs.float(), uniforms.float()
    if len(draft_ids) == 0:
        below = torch.count_nonzero(p[0].cumsum(-1) <= u[0])
        return [min(int(below), p.shape[1] - 1)]
    x = int(draft_ids[0])
    if u[0] < torch.clamp(p[0, x] / q[0, x], max=1.0):
        return [x, *verify(p[1:], q[1:], draft_ids[1:], u[1:])]
    return verify(residual_distribution(p[0], q[0])[None], q[:0], draft_ids[:0], u[-1:])


def endless(target, draft, ids, gamma, generator):
    history = ids
    while True:
        drafted = history
        probs = torch.empty(0)
        for _ in range(gamma):
            q = draft(drafted)[-1:]
            probs = q if len(probs) == 0 else torch.vstack([probs, q])
            drafted = torch.hstack([drafted, torch.multinomial(q[0], num_samples=1, generator=generator)])
        p = target(drafted)[-(gamma + 1) :]
        uniforms = torch.empty(gamma + 1).uniform_(generator=generator)
        new = verify(p, probs, drafted[-gamma:], uniforms)
        yield from new
        history = torch.hstack([history, torch.LongTensor(new)])


def speculative_generate(target, draft, ids, gamma, max_new, generator=None):
    tokens = list(islice(endless(target, draft, ids, gamma, generator), max_new))
    return torch.cat([ids, torch.LongTensor(tokens)])


def expected_tokens(alpha: float, gamma: int) -> float:
    return 1.0 if gamma == 0 else 1.0 + alpha * expected_tokens(alpha, gamma - 1)
