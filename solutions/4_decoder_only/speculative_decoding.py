"""Speculative decoding.

A large model writes one token at a time, and nearly all of each step is spent
on fetching its weights: scoring five positions takes hardly longer than
scoring one. A small model that is often right can guess a few tokens ahead,
and the large one look at all of them in one pass. But your colleagues will use
this only if nobody can tell, from the texts, that there was a small model: the
law of what comes out has to be exactly the large model's own.

Write the test that accepts or refuses a draft, what replaces the first token
that is refused, the loop around them, and how many tokens a pass may be
expected to yield.

V size of the vocabulary; γ tokens in a draft. Distributions are given as
probabilities, not logits: no entry is negative, each row sums to 1. No
function changes its arguments.
"""

from collections.abc import Callable

import torch
from torch import Tensor


def residual_distribution(p: Tensor, q: Tensor) -> Tensor:
    """What a refused token is replaced from: max(0, p - q), normalised to sum to 1.

    Args:
        p: the target's distribution, (V,).
        q: the draft's distribution, (V,), and not the same: where p and q are
            equal nothing is ever refused, and what comes is not fixed.

    Returns:
        (V,).

    Source: Leviathan et al. 2022, "Fast Inference from Transformers via
    Speculative Decoding", section 2.3.

    >>> residual_distribution(torch.tensor([0.5, 0.2, 0.3]), torch.tensor([0.1, 0.8, 0.1]))
    tensor([0.6667, 0.0000, 0.3333])
    """
    more = (p - q).clamp(min=0)
    total = more.sum()
    return more / total if total > 0 else p  # p and q may differ by nothing but rounding


def _token_at(probs: Tensor, uniform: Tensor) -> int:
    """The smallest id whose cumulative probability exceeds uniform."""
    cumulative = probs.cumsum(0)
    return int((cumulative <= uniform * cumulative[-1]).sum())  # the last one is 1 up to rounding only


def verify(target_probs: Tensor, draft_probs: Tensor, draft_ids: Tensor, uniforms: Tensor) -> list[int]:
    """The tokens that one round yields: the accepted part of a draft and one token more.

    Draft token i is accepted while uniforms[i] < p / q, its probability under
    target_probs[i] over that under draft_probs[i]. The first refusal ends the
    round: one token from the residual distribution of these two rows takes
    the refused one's place. If all are accepted one more token comes from
    target_probs[γ]. In either case this last token is the smallest id whose
    cumulative probability exceeds uniforms[γ].

    Args:
        target_probs: (γ + 1, V). Row i is the target's distribution of the
            token at place i of the draft, the last row of the one after it.
        draft_probs: (γ, V). Row i is the distribution that draft_ids[i] was
            drawn from.
        draft_ids: (γ,) integers, γ at least 1, each with a q above 0.
        uniforms: (γ + 1,), from 0 up to, not including, 1.

    Returns:
        1 to γ + 1 ids, a list of Python integers.

    Source: Leviathan et al. 2022, algorithm 1; Chen et al. 2023,
    "Accelerating Large Language Model Decoding with Speculative Sampling",
    algorithm 2.

    >>> target_probs = torch.tensor([[0.5, 0.5], [0.2, 0.8]])
    >>> draft_probs, draft_ids = torch.tensor([[0.0, 1.0]]), torch.tensor([1])
    >>> verify(target_probs, draft_probs, draft_ids, uniforms=torch.tensor([0.4, 0.9]))  # 0.4 < 0.5 / 1.0
    [1, 1]
    >>> verify(target_probs, draft_probs, draft_ids, uniforms=torch.tensor([0.6, 0.9]))
    [0]
    """
    gamma = len(draft_ids)
    ids = draft_ids[:, None]
    ratios = target_probs[:gamma].gather(1, ids) / draft_probs.gather(1, ids)
    accepted = int((uniforms[:gamma] < ratios[:, 0]).long().cumprod(0).sum())  # those before the first refusal
    last = target_probs[gamma]
    if accepted < gamma:
        last = residual_distribution(target_probs[accepted], draft_probs[accepted])
    return [*draft_ids[:accepted].tolist(), _token_at(last, uniforms[gamma])]


def speculative_generate(
    target: Callable[[Tensor], Tensor],
    draft: Callable[[Tensor], Tensor],
    ids: Tensor,
    gamma: int,
    max_new: int,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Continue ids as if each token were drawn from target, with fewer calls of it.

    In each round γ tokens are drawn from draft one after the other, target is
    called once, on all tokens so far with those γ behind them, and the round
    adds what verify yields. The last round may draft fewer than γ tokens;
    of what it yields beyond max_new nothing is kept.

    Args:
        target: a model; called with all tokens so far, (n,), it gives (n, V):
            row i is the distribution of the token after the first i + 1.
        draft: likewise, over the same vocabulary.
        ids: the prompt, (n,) int64, n at least 1.
        gamma: γ, at least 1.
        max_new: tokens to add; with 0 the prompt comes back.
        generator: whatever is drawn at random is drawn from it, and from
            PyTorch's global generator only if it is None. Which numbers are
            drawn, how many and in which order, is free.

    Returns:
        The prompt and behind it exactly max_new tokens, (n + max_new,) int64.
        Their law is that of tokens drawn one by one from target, whatever
        draft is; only the number of rounds depends on draft.

    Source: Leviathan et al. 2022, algorithm 1 and appendix A.1; Chen et al.
    2023, algorithm 2 and theorem 1.

    >>> def count_up(ids):
    ...     return torch.nn.functional.one_hot((ids + 1) % 5, 5).double()
    >>> speculative_generate(count_up, count_up, torch.tensor([0, 1]), gamma=2, max_new=4)
    tensor([0, 1, 2, 3, 4, 0])
    """
    out = ids
    while len(out) < len(ids) + max_new:
        guessed, rows = out, []
        for _ in range(gamma):
            rows.append(draft(guessed)[-1])
            guessed = torch.cat([guessed, torch.multinomial(rows[-1], 1, generator=generator)])
        target_probs = target(guessed)[len(out) - 1 :]  # the row of the last token so far is about the first guess
        uniforms = torch.rand(gamma + 1, generator=generator, dtype=torch.float64)
        tokens = verify(target_probs, torch.stack(rows), guessed[len(out) :], uniforms)
        out = torch.cat([out, torch.tensor(tokens)])
    return out[: len(ids) + max_new]


def expected_tokens(alpha: float, gamma: int) -> float:
    """How many tokens a round yields on average, the last one included.

    Args:
        alpha: the probability, 0 to 1, both included, that a draft token is
            accepted, each independently of the others.
        gamma: γ, tokens in a draft, at least 1.

    Returns:
        The expected length of what verify returns, a float.

    Source: Leviathan et al. 2022, section 3.1, equation 1.

    >>> round(expected_tokens(0.8, gamma=4), 2)
    3.36
    """
    return sum(float(alpha) ** i for i in range(gamma + 1))  # α^i: the chance that round yields more than i
