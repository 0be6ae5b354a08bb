"""A class holds the state of the loop; the first refusal is found by argmax; bounds are compared by multiplication."""

from dataclasses import dataclass, field

import torch
from torch import Tensor


def residual_distribution(p: Tensor, q: Tensor) -> Tensor:
    overlap = torch.minimum(p, q)
    return (p - overlap) / (1 - overlap.sum() / p.sum()) / p.sum()


def verify(target_probs: Tensor, draft_probs: Tensor, draft_ids: Tensor, uniforms: Tensor) -> list[int]:
    gamma = draft_ids.shape[0]
    row = torch.arange(gamma)
    refusals = ~(uniforms[:gamma] * draft_probs[row, draft_ids] < target_probs[row, draft_ids])
    first = int(refusals.int().argmax()) if refusals.any() else gamma
    law = target_probs[gamma] if first == gamma else residual_distribution(target_probs[first], draft_probs[first])
    ids = torch.arange(law.shape[0])
    last = ids[(law.cumsum(0) > uniforms[gamma]) & (law > 0)].min()
    return [int(token) for token in draft_ids[:first]] + [int(last)]


@dataclass
class Speculator:
    target: object
    draft: object
    gamma: int
    generator: object
    ids: Tensor
    new: list = field(default_factory=list)

    def text(self) -> Tensor:
        return torch.cat([self.ids, torch.tensor(self.new, dtype=torch.int64)])

    def one_round(self) -> None:
        text = self.text()
        q = []
        for _ in range(self.gamma):
            row = self.draft(text)[-1]
            cumulative = row.cumsum(0)
            u = torch.rand(1, generator=self.generator, dtype=row.dtype) * cumulative[-1]
            token = torch.searchsorted(cumulative, u, right=True)
            q.append(row)
            text = torch.cat([text, token])
        p = self.target(text)[-self.gamma - 1 :]
        u = torch.rand(self.gamma + 1, dtype=torch.float64, generator=self.generator)
        self.new.extend(verify(p, torch.stack(q), text[-self.gamma :], u))


def speculative_generate(target, draft, ids, gamma, max_new, generator=None):
    speculator = Speculator(target, draft, gamma, generator, ids)
    while len(speculator.new) < max_new:
        speculator.one_round()
    return speculator.text()[: len(ids) + max_new]


def expected_tokens(alpha, gamma):
    # i + 1 tokens with probability alpha^i (1 - alpha), gamma + 1 with alpha^gamma
    return sum((i + 1) * alpha**i * (1 - alpha) for i in range(gamma)) + (gamma + 1) * alpha**gamma
