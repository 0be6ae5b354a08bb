"""Loops: every query fetches its keys; the mask is filled block by block."""

import torch
from torch.nn.functional import scaled_dot_product_attention


def _one(q, k, v, places):
    """Of one head: a query (D,) and the places of its keys."""
    weights = torch.softmax(k[places] @ q / q.numel() ** 0.5, dim=0)
    return weights @ v[places]


def longformer_attention(q, k, v, window, is_global):
    B, H, L, _ = q.shape
    half = window // 2
    rows = []
    for b in range(B):
        chosen = is_global[b].nonzero().flatten().tolist()
        heads = []
        for h in range(H):
            line = []
            for i in range(L):
                near = range(max(0, i - half), min(L, i + half + 1))
                places = range(L) if i in chosen else sorted({*near, *chosen})
                line.append(_one(q[b, h, i], k[b, h], v[b, h], list(places)))
            heads.append(torch.stack(line))
        rows.append(torch.stack(heads))
    return torch.stack(rows)


def sliding_window_attention(q, k, v, window):
    half, L = window // 2, q.size(2)
    out = []
    for i in range(L):
        near = slice(max(0, i - half), i + half + 1)
        out.append(scaled_dot_product_attention(q[:, :, i : i + 1], k[:, :, near], v[:, :, near]))
    return torch.cat(out, dim=2)


def bigbird_mask(L, block, window, num_global, num_random, generator=None):
    n, rest = divmod(L, block)
    if rest:
        raise ValueError("uneven")
    mask = torch.zeros(L, L, dtype=torch.bool)
    for i in range(n):
        if i < num_global:
            sees = set(range(n))
        else:
            sees = {j for j in range(n) if abs(i - j) <= window // 2 or j < num_global}
            others = [j for j in range(n) if j not in sees]
            order = torch.randperm(len(others), generator=generator).tolist()
            sees |= {others[o] for o in order[:num_random]}
        for j in sees:
            mask[i * block : (i + 1) * block, j * block : (j + 1) * block] = True
    return mask


def block_sparse_attention(q, k, v, layout, block):
    out = torch.zeros_like(q[..., :1] * v)
    for i in range(len(layout)):
        mine = slice(i * block, (i + 1) * block)
        places = [j * block + t for j in range(len(layout)) if layout[i, j] for t in range(block)]
        if places:
            out[:, :, mine] = scaled_dot_product_attention(q[:, :, mine], k[:, :, places], v[:, :, places])
    return out
