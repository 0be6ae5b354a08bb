"""Chunks as long as half a window, each against itself and its two neighbours; sums of exponentials for all blocks at once."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def _chunks(q: Tensor, k: Tensor, v: Tensor, half: int, hidden: Tensor) -> tuple[Tensor, Tensor]:
    """Scores (B, H, N, C, 3C), -inf where not seen, and the values that belong to them."""
    L, C = q.shape[2], max(half, 1)
    n = math.ceil(L / C)
    pad = n * C - L

    def three(x: Tensor) -> Tensor:
        x = F.pad(x, (0, 0, C, pad + C))
        return torch.cat([x[:, :, s * C : s * C + n * C].reshape(*x.shape[:2], n, C, -1) for s in range(3)], dim=3)

    queries = F.pad(q, (0, 0, 0, pad)).reshape(*q.shape[:2], n, C, -1)
    scores = torch.einsum("bhnid,bhnjd->bhnij", queries, three(k)) / q.shape[-1] ** 0.5
    exists = three((~hidden).double()[:, None, :, None])[..., 0] > 0  # (B, 1, N, 3C)
    own, other = torch.arange(C)[:, None] + C, torch.arange(3 * C)
    seen = exists[..., None, :] & ((own - other).abs() <= half)
    return scores.masked_fill(~seen, -torch.inf), three(v)


def sliding_window_attention(q: Tensor, k: Tensor, v: Tensor, window: int) -> Tensor:
    nobody = torch.zeros(q.shape[0], q.shape[2], dtype=torch.bool)
    scores, values = _chunks(q, k, v, window // 2, nobody)
    weights = _safe_softmax(scores)
    return (weights @ values).flatten(2, 3)[:, :, : q.shape[2]]


def _safe_softmax(scores: Tensor) -> Tensor:
    top = scores.detach().amax(-1, keepdim=True).clamp(min=torch.finfo(scores.dtype).min)
    exps = (scores - top).exp()
    return exps / exps.sum(-1, keepdim=True).clamp(min=torch.finfo(scores.dtype).tiny)


def longformer_attention(q: Tensor, k: Tensor, v: Tensor, window: int, is_global: Tensor) -> Tensor:
    L = q.shape[2]
    scores, values = _chunks(q, k, v, window // 2, is_global)
    results = []
    for b in range(len(q)):  # each sequence has its own number of global tokens
        g = is_global[b].nonzero()[:, 0]
        far = torch.einsum("hld,hgd->hlg", q[b], k[b][:, g]) * q.shape[-1] ** -0.5
        far = F.pad(far, (0, 0, 0, scores.shape[2] * scores.shape[3] - L)).unflatten(1, scores.shape[2:4])
        weights = _safe_softmax(torch.cat([scores[b], far], dim=-1))
        near = weights[..., : scores.shape[-1]] @ values[b]
        out = (near + torch.einsum("hncg,hge->hnce", weights[..., scores.shape[-1] :], v[b][:, g])).flatten(1, 2)[:, :L]
        if len(g):
            full = F.scaled_dot_product_attention(q[b][:, g], k[b], v[b])
            out = out.index_copy(1, g, full)
        results.append(out)
    return torch.stack(results)


def bigbird_mask(L, block, window, num_global, num_random, generator=None):
    if L % block != 0:
        raise ValueError(f"L = {L} is no multiple of block = {block}")
    n = L // block
    i, j = torch.meshgrid(torch.arange(n), torch.arange(n), indexing="ij")
    fixed = torch.logical_or((i - j).abs() * 2 <= window, torch.minimum(i, j) < num_global)
    noise = torch.rand(n, n, generator=generator).masked_fill(fixed, -1.0)
    best = noise.topk(min(num_random, n), dim=1).indices
    layout = fixed.scatter(1, best, True) if num_random else fixed
    return torch.kron(layout.int(), torch.ones(block, block, dtype=torch.int)).bool()


def block_sparse_attention(q, k, v, layout, block):
    """All seen pairs of blocks as one batch; the softmax of a row is put together from its pieces."""
    q, k, v = (x.unflatten(2, (-1, block)) for x in (q, k, v))
    rows, columns = layout.nonzero(as_tuple=True)
    scores = q[:, :, rows] @ k[:, :, columns].transpose(-1, -2) / math.sqrt(q.shape[-1])  # (B, H, pairs, block, block)
    top = torch.full(q.shape[:-1], -torch.inf, dtype=q.dtype)
    top = top.index_reduce(2, rows, scores.detach().amax(-1), "amax")
    exps = (scores - top[:, :, rows].unsqueeze(-1)).exp()
    below = torch.zeros_like(top).index_add(2, rows, exps.sum(-1))
    above = torch.zeros(*q.shape[:-1], v.shape[-1], dtype=v.dtype).index_add(2, rows, exps @ v[:, :, columns])
    return torch.where(below.unsqueeze(-1) > 0, above / below.clamp(min=1e-30).unsqueeze(-1), 0.0).flatten(2, 3)
