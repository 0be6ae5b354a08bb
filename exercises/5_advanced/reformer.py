"""Reformer.

A model is to read a novel at once: half a million tokens. Two things do not
fit. Attention compares all tokens with all others, though after the softmax a
token listens to a handful, those whose vectors point where its own does. And
the backward pass wants everything that the forward pass has computed, layer
upon layer.

Write what the Reformer does about both: a hash that puts vectors of similar
direction into the same bucket, attention that looks only within a bucket, at a
cost in proportion to the length, and a reversible block, whose inputs can be
computed from its outputs, so that nothing else has to be kept.

B batch, H heads, L length, D size of queries and keys, Dv size of values,
N rounds of hashing, R columns of a rotation.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def lsh_buckets(x: Tensor, rotations: Tensor) -> Tensor:
    """The bucket of each vector in each round: which of 2R directions it is nearest to.

    Args:
        x: (..., D), with any number of leading axes, none included.
        rotations: (N, D, R), one matrix A for each round.

    Returns:
        (N, ...), int64, from 0 to 2R - 1: in each round the place of the
        largest of the 2R numbers [xA; -xA], those with the minus behind. Which
        of several equally large ones is taken is not fixed.

    Source: Kitaev et al. 2020, "Reformer: The Efficient Transformer", section
    2; Andoni et al. 2015, "Practical and Optimal LSH for Angular Distance".

    >>> x = torch.tensor([[3.0, 1.0], [1.0, 2.0], [-3.0, 1.0], [1.0, -2.0]])
    >>> lsh_buckets(x, torch.eye(2)[None])
    tensor([[0, 1, 2, 3]])
    """
    # TODO: write it as described above.
    raise NotImplementedError


def lsh_attention(qk: Tensor, v: Tensor, rotations: Tensor, chunk: int, causal: bool = True) -> Tensor:
    """Attention of each token to tokens of its own bucket that stand near it when all are sorted by bucket.

    Each round by itself: the tokens of each head are sorted by their buckets of
    this round, from 0 up, those of the same bucket by their positions, and cut
    into chunks of `chunk` tokens. Token i sees token j if

    - j is in i's chunk or in the chunk before it (the first chunk has none
      before it), and
    - both are in the same bucket, and
    - with causal, j's position in the sequence is not after i's, and
    - j is not i.

    Over all rounds: a token that sees another one in some round attends to all
    that it sees, and does not see itself in any round. Only if it sees no other
    in any round, it attends to itself: its result is its own value.

    Args:
        qk: (B, H, L, D), queries and keys in one. No row is zero.
        v: (B, H, L, Dv).
        rotations: (N, D, R), for all heads; their buckets are those of
            lsh_buckets.
        chunk: divides L.
        causal: whether tokens see only earlier ones.

    Returns:
        (B, H, L, Dv), of the inputs' dtype, tokens in their places in the
        sequence: softmax, over all that is seen in any round, of the scores
        q_i · k_j / √D, times the values. The query is the row of qk as it is,
        the key the row divided by its Euclidean length. A key that is seen in
        several rounds stands in the softmax once for each of them. Right also where
        scores are in the thousands. Gradients flow to qk, as queries and as
        keys, and to v. Inputs are left as they are. With a fixed chunk,
        operations and the largest tensor grow in proportion to L, even if all
        tokens are in one bucket.

    Raises:
        ValueError: L is not divisible by chunk.

    Source: Kitaev et al. 2020, "Reformer: The Efficient Transformer", section
    2; the paper counts a key once, however many rounds see it.

    >>> qk = torch.tensor([[[[1.0], [-1.0], [1.0], [1.0]]]])  # two buckets
    >>> v = torch.tensor([[[[8.0], [5.0], [4.0], [1.0]]]])
    >>> lsh_attention(qk, v, torch.ones(1, 1, 1), chunk=4).flatten()
    tensor([8., 5., 8., 6.])
    """
    # TODO: write it as described above.
    raise NotImplementedError


class ReversibleBlock(nn.Module):
    """A residual block on two streams, whose inputs can be computed from its outputs.

        y1 = x1 + f(x2)
        y2 = x2 + g(y1)

    Gradients with respect to x1, x2 and all parameters are those of these two
    lines, but what lies between is computed anew in the backward pass. From
    forward to backward the block keeps its two outputs and no other tensor that
    was made on the way: not its inputs, and nothing that f and g compute. (The
    state of a random generator does not count.) So a stack of blocks keeps two
    tensors for each, however much f and g compute.

    Args:
        f, g: modules from (..., M) to (..., M). They become the submodules f and
            g. Some of their parameters may be frozen or without influence,
            and the two may share parameters, or be the same module.

    Gradients come by calling backward() on something computed from y1, y2, or
    both, and are added to the .grad of each parameter, also if neither x1 nor
    x2 requires a gradient. A block may be called several times before a
    backward pass, also on its own outputs. f and g may draw random numbers
    from PyTorch's global generator of the CPU, as dropout does: forward leaves
    it as f and g leave it, the backward pass draws the same numbers again, and
    the generator is afterwards as it was before the backward pass.

    Source: Gomez et al. 2017, "The Reversible Residual Network", section 3;
    Kitaev et al. 2020, "Reformer: The Efficient Transformer", section 3.

    >>> block = ReversibleBlock(nn.Identity(), nn.Identity())
    >>> y1, y2 = block(torch.tensor([1.0]), torch.tensor([2.0]))
    >>> y1, y2
    (tensor([3.]), tensor([5.]))
    >>> block.inverse(y1, y2)
    (tensor([1.]), tensor([2.]))
    """

    def __init__(self, f: nn.Module, g: nn.Module) -> None:
        # TODO: make the parameters and whatever else it takes.
        raise NotImplementedError

    def forward(self, x1: Tensor, x2: Tensor) -> tuple[Tensor, Tensor]:
        """(x1, x2), each (..., M), to (y1, y2) of the same shape."""
        # TODO: write it as described above.
        raise NotImplementedError

    def inverse(self, y1: Tensor, y2: Tensor) -> tuple[Tensor, Tensor]:
        """The (x1, x2) of which forward makes (y1, y2), but for rounding; f and g draw no random numbers."""
        # TODO: write it as described above.
        raise NotImplementedError
