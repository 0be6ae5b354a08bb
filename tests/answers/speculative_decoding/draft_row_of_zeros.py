"""A row of zeros behind the draft's makes the token after a whole draft a residual, too; all residuals at once; searchsorted."""

import torch
import torch.nn.functional as F


def residual_distribution(p, q):
    return F.normalize(F.relu(p - q), p=1, dim=-1)


def verify(target_probs, draft_probs, draft_ids, uniforms):
    q = F.pad(draft_probs, (0, 0, 0, 1))
    at = F.one_hot(draft_ids, target_probs.shape[-1]).to(target_probs)
    p_at = torch.einsum("gv,gv->g", target_probs[:-1], at)
    q_at = torch.einsum("gv,gv->g", draft_probs, at)
    refused = torch.cat([uniforms[:-1] >= p_at / q_at, torch.ones(1, dtype=torch.bool)])
    n = int(refused.nonzero()[0])
    cumulative = residual_distribution(target_probs, q)[n].cumsum(0)
    last = torch.searchsorted(cumulative, uniforms[-1:].to(cumulative.dtype), right=True).clamp(max=len(cumulative) - 1)
    return torch.cat([draft_ids[:n], last]).tolist()


@torch.no_grad()
def speculative_generate(target, draft, ids, gamma, max_new, generator=None):
    n = len(ids)
    buffer = torch.zeros(n + max_new + gamma + 1, dtype=torch.long)
    buffer[:n] = ids
    t = n
    while t - n < max_new:
        q = []
        for i in range(t, t + gamma):
            q += [draft(buffer[:i])[-1]]
            buffer[i] = q[-1].multinomial(1, generator=generator)
        p = target(buffer[: t + gamma])[t - 1 :]
        new = verify(p, torch.stack(q), buffer[t : t + gamma], torch.rand(gamma + 1, generator=generator))
        buffer[t : t + len(new)] = torch.tensor(new)
        t += len(new)
    return buffer[: n + max_new].clone()


def expected_tokens(alpha, gamma):
    return float(torch.full((gamma,), alpha, dtype=torch.float64).cumprod(0).sum() + 1)
