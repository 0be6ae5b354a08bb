"""Everything through one function: each query has a list of places, padded, and a mask that says which of them count."""

import torch
from torch import Tensor


def _gathered(q: Tensor, k: Tensor, v: Tensor, places: Tensor, counts: Tensor) -> Tensor:
    """places and counts: (B, L, N)."""
    B, H, L, N = *q.shape[:3], places.shape[-1]

    def fetch(x: Tensor) -> Tensor:
        index = places.view(B, 1, L * N, 1).expand(B, H, L * N, x.shape[-1])
        return torch.gather(x, 2, index).view(B, H, L, N, -1)

    scores = torch.einsum("bhld,bhlnd->bhln", q, fetch(k)).div(q.shape[-1] ** 0.5)
    scores = scores.masked_fill(counts.logical_not().unsqueeze(1), -1e30)
    scores = scores - scores.max(dim=-1, keepdim=True).values
    weights = scores.exp() * counts.unsqueeze(1)
    weights = weights / weights.sum(-1, keepdim=True)
    return torch.einsum("bhln,bhlne->bhle", weights, fetch(v))


def _window(B: int, L: int, window: int) -> tuple[Tensor, Tensor]:
    half = min(window // 2, L - 1)
    places = torch.arange(L).unsqueeze(1) + torch.arange(-half, half + 1)
    inside = (places >= 0) & (places < L)
    return places.clamp(0, L - 1).expand(B, -1, -1), inside.expand(B, -1, -1)


def sliding_window_attention(q, k, v, window):
    return _gathered(q, k, v, *_window(len(q), q.shape[2], window))


def longformer_attention(q, k, v, window, is_global):
    B, L = is_global.shape
    places, counts = _window(B, L, window)
    out = []
    for b in range(B):
        chosen = is_global[b].nonzero(as_tuple=True)[0]
        new = ~torch.isin(places[b], chosen)  # a global key counts in its own column
        everyone = chosen.expand(L, -1)
        both = torch.cat([places[b], everyone], dim=1)
        valid = torch.cat([counts[b] & new, torch.ones_like(everyone, dtype=torch.bool)], dim=1)
        row = _gathered(q[b : b + 1], k[b : b + 1], v[b : b + 1], both[None], valid[None])
        if chosen.numel() > 0:
            weights = torch.softmax(q[b][:, chosen] @ k[b].transpose(1, 2) / q.shape[-1] ** 0.5, dim=-1)
            row = row.clone()
            row[0][:, chosen] = weights @ v[b]
        out.append(row)
    return torch.cat(out)


def bigbird_mask(L, block, window, num_global, num_random, generator=None):
    blocks = L // block
    if blocks * block != L:
        raise ValueError("L must be a multiple of block")
    layout = torch.ones(blocks, blocks, dtype=torch.bool).triu(-(window // 2)).tril(window // 2)
    layout[:num_global] = True
    layout[:, :num_global] = True
    for row in layout:
        free = (~row).nonzero().flatten()
        take = min(num_random, len(free))
        if take:
            row[free[torch.multinomial(torch.ones(len(free)), take, generator=generator)]] = True
    at = torch.arange(L) // block
    return layout[at][:, at]


def block_sparse_attention(q, k, v, layout, block):
    pieces = []
    for queries, seen in zip(q.split(block, dim=2), layout.repeat_interleave(block, dim=1), strict=True):
        if not bool(seen.any()):
            pieces.append(torch.zeros_like(v[:, :, :block]))
            continue
        scores = torch.einsum("bhld,bhsd->bhls", queries, k[:, :, seen]) * q.shape[-1] ** -0.5
        pieces.append(torch.einsum("bhls,bhse->bhle", torch.softmax(scores, -1), v[:, :, seen]))
    return torch.cat(pieces, dim=2)
