"""Beam search.

A translation is to be found whose probability as a whole is high, and the
likeliest first word may lead into a sentence that gets ever less likely.
There are too many sentences to try them all, so a handful of beginnings is
carried along, and each round the best of their continuations go on. Write
that search, so that ended and unfinished sentences do not get into each
other's way, and that short ones do not win only because they are short.

N hypotheses at a time, V size of the vocabulary.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor


def beam_search(
    step: Callable[[Tensor], Tensor],
    bos_id: int,
    eos_id: int,
    beam_width: int,
    max_len: int,
    alpha: float = 0.0,
) -> list[tuple[list[int], float]]:
    """The best hypotheses that a beam of this width finds, each with its score.

    A hypothesis is a list of ids that begins with bos. It has ended when its
    last id is eos; until then it is live. At first there is one, bos alone.

    Each round, all continuations of all live hypotheses by one token are
    ranked together by the sum of their log-probabilities, the largest first.
    Going down the ranking, a continuation that ends joins the finished, and
    one that does not joins the next beam, until the next beam holds
    beam_width hypotheses; what ranks lower is dropped. A sum of -inf is
    impossible and is never kept. So a beam may hold less than beam_width.

    The search ends after the round in which hypotheses have max_len tokens
    after bos, or when none is live; those still live then count as finished.
    It may end earlier, as soon as no live hypothesis can still get among the
    best beam_width: the score that one can reach is at most
    sum / max_len ** alpha.

    The score of a hypothesis is sum / n ** alpha, where n counts its tokens
    after bos, eos included.

    Args:
        step: takes ids, (N, t) int64, all of the same length, and gives the
            log-probabilities of the next token, (N, V), none above 0. What it
            gives for a row depends on that row alone, so it may be called
            with any number of hypotheses at once, one included.
        bos_id, eos_id: two different ids.
        beam_width: at least 1; may be larger than V.
        max_len: at least 1; step is called with 1 to max_len ids a row.
        alpha: at least 0; at 0 the score is the sum.

    Returns:
        The best finished hypotheses, at most beam_width of them, best first:
        ids as a list of int, from bos on, up to eos if they have ended, and
        the score as a float. Where scores are equal, the order is free.

    Raises:
        ValueError: beam_width, max_len or alpha is out of range.

    Source: Sutskever et al. 2014, "Sequence to Sequence Learning with Neural
    Networks", section 3.2; Wu et al. 2016, "Google's Neural Machine
    Translation System", section 7 (length normalisation).

    >>> table = torch.tensor([[0.0, 0.6, 0.4], [0.5, 0.3, 0.2], [0.9, 0.1, 0.0]]).log()
    >>> for width in (1, 2):
    ...     ids, score = beam_search(lambda ids: table[ids[:, -1]], bos_id=0, eos_id=2, beam_width=width, max_len=2)[0]
    ...     print(ids, round(math.exp(score), 2))
    [0, 1, 0] 0.3
    [0, 2] 0.4
    """
    if beam_width < 1 or max_len < 1 or not alpha >= 0:
        raise ValueError(f"beam_width {beam_width} and max_len {max_len} have to be at least 1, and alpha {alpha} at least 0")
    live = [([bos_id], 0.0)]
    finished: list[tuple[list[int], float]] = []

    def score(hypothesis: tuple[list[int], float]) -> float:
        ids, total = hypothesis
        return total / (len(ids) - 1) ** alpha

    for _ in range(max_len):
        log_probs = step(torch.tensor([ids for ids, _ in live]))
        totals = torch.tensor([total for _, total in live], dtype=log_probs.dtype)[:, None] + log_probs
        ranking = totals.flatten().sort(descending=True)
        beam: list[tuple[list[int], float]] = []
        for total, place in zip(ranking.values.tolist(), ranking.indices.tolist(), strict=True):
            if len(beam) == beam_width or total == -math.inf:
                break
            parent, token = divmod(place, totals.shape[1])
            ids = [*live[parent][0], token]
            (finished if token == eos_id else beam).append((ids, total))
        live = beam
        finished.sort(key=score, reverse=True)
        last_place = score(finished[beam_width - 1]) if len(finished) >= beam_width else -math.inf
        if not any(total / max_len**alpha > last_place for _, total in live):
            break
    best = sorted(finished + live, key=score, reverse=True)[:beam_width]  # what a break leaves live does not get in
    return [(hypothesis[0], score(hypothesis)) for hypothesis in best]
