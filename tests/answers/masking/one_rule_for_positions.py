"""Causal, window and prefix come from one helper with floats for positions; masks are multiplied."""

from math import inf, prod

from torch import arange, float64, linspace
import torch


def _band(L, S, back=inf, open_until=0):
    q = linspace(S - L, S - 1, L, dtype=float64)[:, None]
    k = arange(0.0, S, dtype=float64)[None, :]
    distance = q - k
    return ((distance >= 0) * (distance < back)) + (k < open_until)


def causal_mask(L, S=None):
    return _band(L, S if S is not None else L)


def padding_mask(lengths, max_len):
    left = lengths.view(-1, 1, 1, 1) - torch.arange(max_len)
    return left.clamp(min=0).bool()


def sliding_window_mask(L, window):
    if window <= 0:
        raise ValueError("a window of", window)
    return _band(L, L, back=window)


def document_mask(document_ids):
    same = document_ids.unsqueeze(-1).eq(document_ids.unsqueeze(-2))
    return torch.unsqueeze(same * causal_mask(document_ids.size(1)), dim=1)


def prefix_mask(L, prefix_len):
    if prefix_len != min(max(prefix_len, 0), L):
        raise ValueError(prefix_len)
    return _band(L, L, open_until=prefix_len)


def combine_masks(*masks):
    there = tuple(m for m in masks if m is not None)
    if not there:
        raise ValueError()
    return prod(there[1:], start=there[0])


def apply_mask(scores, mask):
    bias = torch.log(mask.to(scores.dtype))  # log 1 = 0, log 0 = -inf
    return scores + bias
