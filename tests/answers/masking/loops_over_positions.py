"""Python loops over queries and keys; nothing is broadcast that can be written out."""

import torch


def causal_mask(L, S=None):
    if S is None:
        S = L
    mask = torch.zeros((L, S), dtype=torch.bool)
    for i in range(L):
        for j in range(S):
            if j - (S - L) <= i:
                mask[i, j] = True
    return mask


def padding_mask(lengths, max_len):
    rows = []
    for n in lengths.tolist():
        rows.append([j < n for j in range(max_len)])
    return torch.tensor(rows).view(len(rows), 1, 1, max_len)


def sliding_window_mask(L, window):
    if window <= 0:
        raise ValueError("window!")
    mask = torch.zeros(L, L).bool()
    for i in range(L):
        mask[i, max(0, i - window + 1) : i + 1] = True
    return mask


def document_mask(document_ids):
    B, L = document_ids.size()
    mask = torch.full((B, 1, L, L), False)
    for b in range(B):
        for i in range(L):
            for j in range(i + 1):
                mask[b, 0, i, j] = bool(document_ids[b, i] == document_ids[b, j])
    return mask


def prefix_mask(L, prefix_len):
    if prefix_len < 0 or prefix_len > L:
        raise ValueError
    mask = causal_mask(L)
    mask[:prefix_len, :prefix_len] = True
    return mask


def combine_masks(*masks):
    result = None
    for mask in masks:
        if mask is None:
            continue
        if result is None:
            result = mask
        else:
            result = result & mask
    if result is None:
        raise ValueError("nothing to combine")
    return result


def apply_mask(scores, mask):
    mask = mask.expand(scores.shape)
    out = scores.clone()
    out[~mask] = float("-inf")
    return out
