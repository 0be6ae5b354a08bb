"""Sparse attention.

A report has 100,000 words, and every word would be compared with each of the
others: ten billion scores for each head. Yet most of what a word needs stands
near it, and the rest can be passed on by a few words that see everything.

Write attention in a window; the Longformer's, in which chosen tokens see all
and are seen by all; the BigBird's mask, with blocks at random besides; and
attention over any layout of blocks. The results are those of softmax attention
with the equivalent mask. The costs are not: nothing may grow with the square
of the length.

B batch, H heads, L length, D size of queries and keys, Dv size of values.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def sliding_window_attention(q: Tensor, k: Tensor, v: Tensor, window: int) -> Tensor:
    """Softmax attention in which each token sees itself and window // 2 tokens on either side.

    Args:
        q, k: (B, H, L, D).
        v: (B, H, L, Dv).
        window: 0 or more, odd or even; may exceed L. Token i sees token j if
            |i - j| ≤ window // 2. What would lie outside of the sequence does
            not exist: it has no weight.

    Returns:
        (B, H, L, Dv), of the inputs' dtype: softmax of q·k / √D over the keys
        that are seen, times their values; right also where scores are in the
        thousands. With a fixed window, operations and the largest tensor grow
        in proportion to L. Gradients flow to q, k and v. Inputs are left as
        they are.

    Source: Beltagy et al. 2020, "Longformer", section 3.1.

    >>> x = torch.zeros(1, 1, 4, 1)
    >>> v = torch.tensor([[[[6.0], [12.0], [0.0], [30.0]]]])
    >>> sliding_window_attention(x, x, v, window=2).flatten()
    tensor([ 9.,  6., 14., 15.])
    """
    nobody = torch.zeros(len(q), q.shape[2], dtype=torch.bool)
    return longformer_attention(q, k, v, window, nobody)


def longformer_attention(q: Tensor, k: Tensor, v: Tensor, window: int, is_global: Tensor) -> Tensor:
    """Attention in a window, and some tokens that see all tokens and are seen by all.

    Args:
        q, k, v, window: as in sliding_window_attention. All tokens, global or
            not, use the same q, k and v.
        is_global: (B, L), boolean. Their number may differ from sequence to
            sequence, and may be 0.

    Returns:
        (B, H, L, Dv): attention in which token i sees token j if
        |i - j| ≤ window // 2, or if i or j is global. Each key counts once,
        whatever it is seen for. With a fixed window and a fixed number of global
        tokens, operations and the largest tensor grow in proportion to L.
        Everything else is as in sliding_window_attention.

    Source: Beltagy et al. 2020, "Longformer", section 3.1.

    >>> x, v = torch.zeros(1, 1, 4, 1), torch.tensor([[[[6.0], [12.0], [0.0], [30.0]]]])
    >>> longformer_attention(x, x, v, 0, torch.tensor([[True, False, False, False]])).flatten()
    tensor([12.,  9.,  3., 18.])
    """
    H, D = q.shape[1], q.shape[-1]
    side = window // 2
    # The keys of each window: those that exist, and that are not counted as global ones.
    local = torch.einsum("bhld,bhldw->bhlw", q, _windows(k, side))
    local = local.masked_fill(~_windows(~is_global[:, None, :, None], side).squeeze(-2), -math.inf)

    # The global tokens of each sequence in front; sequences with fewer have others there, which are not valid.
    most = int(is_global.sum(-1).max())
    places = is_global.int().argsort(dim=-1, descending=True)[:, :most]
    valid = is_global.gather(1, places)[:, None, None]
    q_global, k_global, v_global = (_taken(x, places) for x in (q, k, v))
    among_global = (q @ k_global.mT).masked_fill(~valid, -math.inf)

    weights = (torch.cat([local, among_global], dim=-1) / math.sqrt(D)).softmax(-1)
    near, far = weights.split([2 * side + 1, most], dim=-1)
    out = torch.einsum("bhlw,bhlew->bhle", near, _windows(v, side)) + far @ v_global

    seeing_all = (q_global @ k.mT / math.sqrt(D)).softmax(-1) @ v
    index = places[:, None, :, None].expand(-1, H, -1, v.shape[-1])
    return torch.where(is_global[:, None, :, None], out.scatter(2, index, seeing_all), out)


def bigbird_mask(L: int, block: int, window: int, num_global: int, num_random: int, generator: torch.Generator | None = None) -> Tensor:
    """Which keys each query sees in BigBird: a window, global and random ones, all in whole blocks.

    The sequence is cut into n = L / block blocks. Whether the queries of one block
    see the keys of another is the same for all of them.

    Args:
        L, block: tokens in all and in a block.
        window: in blocks. Block i sees block j if |i - j| ≤ window // 2.
        num_global: in blocks, up to n. The first num_global blocks see all blocks, and
            are seen by all.
        num_random: in blocks. Each block that is not global sees exactly this
            many besides, drawn uniformly, without replacement and for each
            block anew, from those that it would not see otherwise; if fewer
            are left, it sees them all.
        generator: all randomness comes from it; None is PyTorch's global one.
            With the same seed the mask is the same.

    Returns:
        (L, L), boolean, True where a query (row) sees a key (column).

    Raises:
        ValueError: L is not divisible by block.

    Source: Zaheer et al. 2020, "Big Bird", section 2 and appendix D.

    >>> bigbird_mask(4, block=1, window=1, num_global=1, num_random=0).int()
    tensor([[1, 1, 1, 1],
            [1, 1, 0, 0],
            [1, 0, 1, 0],
            [1, 0, 0, 1]], dtype=torch.int32)
    """
    if L % block:
        raise ValueError(f"{L} tokens cannot be cut into blocks of {block}")
    place = torch.arange(L // block)
    seen = (place[:, None] - place).abs() <= window // 2
    seen |= (place[:, None] < num_global) | (place < num_global)
    lots = torch.rand(seen.shape, generator=generator).masked_fill(seen, 2.0)  # the smallest win
    drawn = lots.argsort(dim=-1).argsort(dim=-1) < num_random
    return (seen | drawn).repeat_interleave(block, dim=0).repeat_interleave(block, dim=1)


def block_sparse_attention(q: Tensor, k: Tensor, v: Tensor, layout: Tensor, block: int) -> Tensor:
    """Softmax attention of blocks of queries to those blocks of keys that a layout names.

    Args:
        q, k: (B, H, L, D); L is a multiple of block.
        v: (B, H, L, Dv).
        layout: (L / block, L / block), boolean: True where the queries of a
            block (row) see the keys of another (column), each of them.
        block: tokens in a block.

    Returns:
        (B, H, L, Dv): softmax of q·k / √D over all keys that are seen, times their
        values; zeros, with gradients of zero, for queries that see none. With a
        fixed block, operations grow in proportion to the number of True in the
        layout, however they are spread over its rows: a row that sees all does
        not make the others dearer. No tensor has a number for each of L² pairs.
        Everything else is as in sliding_window_attention.

    Source: Child et al. 2019, "Generating Long Sequences with Sparse
    Transformers", section 5.5; Zaheer et al. 2020, "Big Bird", appendix D.

    >>> x, v = torch.zeros(1, 1, 4, 1), torch.tensor([[[[6.0], [12.0], [0.0], [30.0]]]])
    >>> block_sparse_attention(x, x, v, torch.tensor([[True, True], [False, False]]), block=2).flatten()
    tensor([12., 12.,  0.,  0.])
    """
    q, k, v = (x.unflatten(2, (-1, block)) for x in (q, k, v))
    out = []
    for i, row in enumerate(layout):
        keys, values = (x[:, :, row].flatten(2, 3) for x in (k, v))
        out.append((q[:, :, i] @ keys.mT / math.sqrt(q.shape[-1])).softmax(-1) @ values)
    return torch.cat(out, dim=2)


def _windows(x: Tensor, side: int) -> Tensor:
    """What stands around each token, (B, H, L, D) to (B, H, L, D, 2 · side + 1), without a copy; zeros outside."""
    return F.pad(x, (0, 0, side, side)).unfold(2, 2 * side + 1, 1)


def _taken(x: Tensor, places: Tensor) -> Tensor:
    """Tokens at the places (B, N) of each sequence: (B, H, L, D) to (B, H, N, D)."""
    return x.gather(2, places[:, None, :, None].expand(-1, x.shape[1], -1, x.shape[-1]))
