"""What dropout made of numbers, in words: the law of chance is the same for all answers, its numbers are not."""

from __future__ import annotations

import torch
from torch import Tensor


def fates(added: Tensor, whole: Tensor, p: float) -> dict[str, str]:
    """Which fates occur among what a sub-layer adds, of which a bias of one is a part.

    Args:
        added: what it added in training, (B, 1, M).
        whole: what it adds in evaluation, (B, 1, M).
        p: the probability with which a number is dropped, once in the result and once in what the bias stands on.

    Returns:
        "some" or "none" for each fate.
    """
    scale = 1 / (1 - p)
    cases = {"dropped": 0 * whole, "only the bias kept": 0 * whole + scale, "kept": ((whole - 1) * scale + 1) * scale}
    hits = {name: torch.isclose(added, case, rtol=1e-4, atol=1e-4) for name, case in cases.items()}
    hits["anything else"] = ~torch.stack(list(hits.values())).any(0)
    dropped = hits["dropped"]
    for axis, name in ((-1, "dropped in a part of a token"), (0, "dropped in a part of a batch")):
        hits[name] = dropped.any(axis) & ~dropped.all(axis)
    return {name: "some" if hit.any() else "none" for name, hit in hits.items()}


def parts_kept(added: Tensor, p: float) -> list[float]:
    """Which shares of a sum occur, its equal parts being dropped with p, and then the sum itself: 1.0 for one part."""
    shares: list[float] = (added * (1 - p) ** 2).round(decimals=3).unique().tolist()
    return shares
