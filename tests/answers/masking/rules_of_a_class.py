"""A rule says of (batch, query, key) whether it is allowed; a small class turns rules into masks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce
from operator import and_
from typing import Optional

import torch


class BadMask(ValueError):
    pass


@dataclass(frozen=True)
class Rule:
    allows: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]

    def __and__(self, other: Rule) -> Rule:
        return Rule(lambda q, k: self.allows(q, k) & other.allows(q, k))

    def __or__(self, other: Rule) -> Rule:
        return Rule(lambda q, k: self.allows(q, k) | other.allows(q, k))

    def mask(self, queries: int, keys: int, start: int = 0) -> torch.Tensor:
        q, k = torch.meshgrid(torch.arange(start, start + queries), torch.arange(keys), indexing="ij")
        return self.allows(q, k)


CAUSAL = Rule(lambda q, k: torch.ge(q, k))


def causal_mask(L: int, S: Optional[int] = None) -> torch.Tensor:
    keys = L if S is None else S
    return CAUSAL.mask(L, keys, start=keys - L)


def padding_mask(lengths: torch.Tensor, max_len: int) -> torch.Tensor:
    return torch.stack([Rule(lambda q, k, n=n: k < n).mask(1, max_len) for n in lengths]).unsqueeze(1)


def sliding_window_mask(L: int, window: int) -> torch.Tensor:
    if window < 1:
        raise BadMask("the window must hold one key at least")
    return (CAUSAL & Rule(lambda q, k: q < k + window)).mask(L, L)


def document_mask(document_ids: torch.Tensor) -> torch.Tensor:
    masks = [(CAUSAL & Rule(lambda q, k, ids=ids: ids[q] == ids[k])).mask(len(ids), len(ids)) for ids in document_ids]
    return torch.stack(masks)[:, None]


def prefix_mask(L: int, prefix_len: int) -> torch.Tensor:
    if prefix_len < 0:
        raise BadMask("negative prefix")
    if L < prefix_len:
        raise BadMask("prefix longer than the sequence")
    return (CAUSAL | Rule(lambda q, k: k < prefix_len)).mask(L, L)


def combine_masks(*masks: Optional[torch.Tensor]) -> torch.Tensor:
    try:
        return reduce(and_, [mask for mask in masks if mask is not None])
    except TypeError as error:
        raise BadMask("no masks") from error


def apply_mask(scores: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    bias = torch.zeros(mask.shape, dtype=scores.dtype)
    bias = bias.masked_fill(mask.logical_not(), -torch.inf)
    return scores + bias
