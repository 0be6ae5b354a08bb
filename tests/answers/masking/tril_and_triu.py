"""Triangles of ones, stacked and reduced; where() applies the mask."""

import torch


def causal_mask(L: int, S: "int | None" = None) -> torch.Tensor:
    S = S or L
    return torch.ones(L, S).tril(diagonal=S - L) == 1


def padding_mask(lengths: torch.Tensor, max_len: int) -> torch.Tensor:
    keys = torch.arange(max_len).unsqueeze(0).repeat(lengths.shape[0], 1)
    return torch.lt(keys, lengths.unsqueeze(1)).unsqueeze(1).unsqueeze(2)


def sliding_window_mask(L: int, window: int) -> torch.Tensor:
    if not window > 0:
        raise ValueError(f"{window=}")
    lower = torch.ones(L, L, dtype=torch.bool).tril()
    return torch.logical_xor(lower, lower.tril(-window))


def document_mask(document_ids: torch.Tensor) -> torch.Tensor:
    L = document_ids.shape[-1]
    difference = document_ids.unsqueeze(2) - document_ids.unsqueeze(1)
    return (difference == 0).tril().reshape(-1, 1, L, L)


def prefix_mask(L: int, prefix_len: int) -> torch.Tensor:
    if prefix_len not in range(L + 1):
        raise ValueError("prefix_len is out of range")
    columns = torch.zeros(L, L, dtype=torch.bool)
    columns[:, :prefix_len] = True
    return torch.logical_or(causal_mask(L), columns)


def combine_masks(*masks):
    masks = list(filter(lambda m: m is not None, masks))
    if len(masks) == 0:
        raise ValueError("combine_masks() needs a mask")
    return torch.stack(torch.broadcast_tensors(*masks)).all(dim=0)


def apply_mask(scores, mask):
    return torch.where(mask, scores, torch.tensor(float("-inf"), dtype=scores.dtype))
