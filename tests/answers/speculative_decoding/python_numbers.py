"""Plain Python numbers throughout; tokens are drawn by walking along the cumulative sum; lists until the very end."""

import torch


def residual_distribution(p, q):
    missing = [max(0.0, a - b) for a, b in zip(p.tolist(), q.tolist())]
    total = sum(missing)
    return torch.tensor([m / total for m in missing], dtype=p.dtype)


def walk(probs, u):
    reached = 0.0
    for token, probability in enumerate(probs):
        reached += probability
        if reached > u:
            return token
    return max(token for token, probability in enumerate(probs) if probability > 0)


def verify(target_probs, draft_probs, draft_ids, uniforms):
    P, Q, drafted, U = target_probs.tolist(), draft_probs.tolist(), draft_ids.tolist(), uniforms.tolist()
    tokens = []
    for i in range(len(drafted)):
        x = drafted[i]
        if U[i] * Q[i][x] < P[i][x]:
            tokens.append(x)
        else:
            tokens.append(walk(residual_distribution(target_probs[i], draft_probs[i]).tolist(), U[-1]))
            break
    else:
        tokens.append(walk(P[-1], U[-1]))
    return tokens


def speculative_generate(target, draft, ids, gamma, max_new, generator=None):
    tokens = ids.tolist()
    wanted = len(tokens) + max_new

    def uniform():
        return torch.rand((), generator=generator).item()

    while len(tokens) < wanted:
        drafted, rows = [], []
        for _ in range(gamma):
            row = draft(torch.tensor(tokens + drafted))[-1]
            drafted.append(walk(row.tolist(), uniform()))
            rows.append(row)
        seen = target(torch.tensor(tokens + drafted))
        us = torch.tensor([uniform() for _ in range(gamma + 1)])
        tokens += verify(seen[-gamma - 1 :], torch.stack(rows), torch.tensor(drafted), us)
    return torch.tensor(tokens[:wanted])


def expected_tokens(alpha, gamma):
    total, still_accepted = 1, 1
    for _ in range(gamma):
        still_accepted *= alpha
        total += still_accepted
    return total
