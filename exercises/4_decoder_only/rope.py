"""Rotary positions and ALiBi.

Positions that are added to the embeddings mix with what the tokens mean, and a
model that was trained on 2048 of them does not know the next one. What
attention needs is how far apart two tokens are. Today's decoders tell it by
turning queries and keys before they meet; others give each head a taste for
what is near, added to its scores.

Write the angles of the first and the rotation itself, in both layouts of the
channel pairs that are in use, for texts of thousands of tokens in half
precision too; what makes weights of one layout fit the other; the two ways of
stretching a trained model over longer texts; and the biases of the second.

B batch, H heads, L query length, S key length, D head size, M model size.
"""

import math

import torch
from torch import Tensor


def rope_angles(positions: Tensor, head_dim: int, base: float = 10000.0) -> Tensor:
    """The angle by which each pair of channels turns: position * base ** (-2i / D) for pair i.

    Args:
        positions: (L,), or (B, L) with those of each sequence; integers or,
            after linear_scaling, fractions.
        head_dim: D, even.
        base: the larger it is, the slower the later pairs turn; the first
            turns by one radian a position.

    Returns:
        (L, D/2) or (B, L, D/2), in radians, float32 whatever positions are.

    Source: Su et al. 2021, "RoFormer", section 3.2.2.

    >>> rope_angles(torch.arange(3), head_dim=4)
    tensor([[0.0000, 0.0000],
            [1.0000, 0.0100],
            [2.0000, 0.0200]])
    """
    # TODO: write it as described above.
    raise NotImplementedError


def apply_rope(x: Tensor, positions: Tensor, base: float = 10000.0, interleaved: bool = True) -> Tensor:
    """Turn each pair of channels of x by its angle: (a, b) becomes (a cos - b sin, a sin + b cos).

    Args:
        x: queries or keys, (B, H, L, D), floating point; D even. It is left
            as it is.
        positions: where the L tokens stand, (L,), or (B, L) with those of each
            sequence; the same for all heads. Any numbers in any order, as
            rope_angles takes them; thousands too.
        base: for rope_angles.
        interleaved: pair i is the channels (2i, 2i + 1) if true, as in the
            paper, else (i, i + D/2), as in Llama's weights at Hugging Face.

    Returns:
        (B, H, L, D), dtype of x, each channel in its old place; gradients flow
        to x. Angles are computed in float32 or wider, also where x is half
        precision: bfloat16 does not tell position 4096 from 4100.

    Raises:
        ValueError: D is odd.

    Source: Su et al. 2021, "RoFormer", sections 3.2.2 and 3.4.2.

    >>> apply_rope(torch.tensor([[[[1.0, 0.0]]]]), torch.tensor([1]))  # cos 1, sin 1
    tensor([[[[0.5403, 0.8415]]]])
    """
    # TODO: write it as described above.
    raise NotImplementedError


def interleaved_to_half_split(weight: Tensor, num_heads: int) -> Tensor:
    """Reorder the rows of q_proj or k_proj for a model that rotates halves.

    Args:
        weight: of a model trained with interleaved=True, (H·D, M), D even;
            head h has the rows from h·D up to (h + 1)·D. It is left as it is.
        num_heads: H.

    Returns:
        (H·D, M): the same rows in another order, each within its head. If the
        weights of queries and of keys are both reordered, apply_rope with
        interleaved=False gives each head the scores that it had with
        interleaved=True.

    Source: the script that converts Llama's weights for Hugging Face's
    transformers, models/llama/convert_llama_weights_to_hf.py.

    >>> interleaved_to_half_split(torch.tensor([[0.0], [1.0], [2.0], [3.0]]), num_heads=1).flatten()
    tensor([0., 2., 1., 3.])
    """
    # TODO: write it as described above.
    raise NotImplementedError


def linear_scaling(positions: Tensor, factor: float) -> Tensor:
    """Positions squeezed into the range that was trained: position interpolation.

    Args:
        positions: of any shape, integers or fractions.
        factor: how many times as long texts are to become.

    Returns:
        positions / factor, in floating point: no position is rounded.

    Source: Chen et al. 2023, "Extending Context Window of Large Language
    Models via Positional Interpolation", section 2.3.

    >>> linear_scaling(torch.arange(4), factor=2.0)
    tensor([0.0000, 0.5000, 1.0000, 1.5000])
    """
    # TODO: write it as described above.
    raise NotImplementedError


def ntk_base(base: float, factor: float, head_dim: int) -> float:
    """A base that stretches the slowest pair alone by the whole factor: base * factor ** (D / (D - 2)).

    Args:
        base: that of the trained model.
        factor: how many times as long texts are to become.
        head_dim: D, even, more than 2.

    Returns:
        The new base, a float. With it the last pair turns `factor` times as
        slowly as before, and the first as fast as ever.

    Source: Peng et al. 2023, "YaRN", section 3.1.

    >>> ntk_base(10000.0, factor=4.0, head_dim=4)
    160000.0
    """
    # TODO: write it as described above.
    raise NotImplementedError


def alibi_slopes(num_heads: int) -> Tensor:
    """How strongly each head prefers what is near.

    If H is a power of two, the slopes are a geometric sequence that begins at
    2 ** (-8 / H) and has this same number as its ratio. If it is not, take the
    slopes for P heads, the largest power of two below H, and behind them the
    first, third, fifth ... of the slopes for 2P heads, as many as are missing.

    Args:
        num_heads: H, 1 or more.

    Returns:
        (H,), float32.

    Source: Press et al. 2021, "Train Short, Test Long", section 3; the rule
    for other numbers of heads stands in the authors' code.

    >>> alibi_slopes(4)
    tensor([0.2500, 0.0625, 0.0156, 0.0039])
    >>> alibi_slopes(3)
    tensor([0.0625, 0.0039, 0.2500])
    """
    # TODO: write it as described above.
    raise NotImplementedError


def alibi_bias(num_heads: int, L: int, S: int | None = None) -> Tensor:
    """What is added to the scores of causal attention: -slope * distance.

    Args:
        num_heads: H; head h takes slope h of alibi_slopes.
        L: number of queries.
        S: number of keys, L or more; L by default. The last query stands at
            the last key, as it does when decoding with a cache.

    Returns:
        (H, L, S), float32: -slope times how far the key lies behind the query,
        0 for the key where the query stands. What stands at keys after the
        query is free: a causal mask hides them.

    Source: Press et al. 2021, "Train Short, Test Long", section 3 and figure 3.

    >>> alibi_bias(num_heads=1, L=1, S=3) * 2**8
    tensor([[[-2., -1.,  0.]]])
    """
    # TODO: write it as described above.
    raise NotImplementedError
