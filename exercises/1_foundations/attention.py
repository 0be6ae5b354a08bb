"""Scaled dot-product attention.

Each query asks all keys how well they match, turns the scores into weights
that sum to one, and takes the weighted mean of the values. Write the softmax
by hand so that neither large scores nor rows without any allowed key break
it, then the weights, then the whole.

B batch, H heads, L query length, S key length, D size of queries and keys,
Dv size of values; `...` stands for any number of leading axes.
"""

import math

import torch
from torch import Tensor


def softmax(x: Tensor, dim: int) -> Tensor:
    """Exponentials of x along dim, divided by their sum.

    Args:
        x: any shape, floating point; large values (1e4, -1e4) are fine.
        dim: the axis whose slices sum to one.

    Returns:
        Shape and dtype of x. A slice that is -inf throughout gives zeros.

    Source: Goodfellow et al. 2016, "Deep Learning", section 4.1.

    >>> softmax(torch.tensor([0.0, 0.0, -torch.inf]), dim=0)
    tensor([0.5000, 0.5000, 0.0000])
    """
    # TODO: write it as described above.
    raise NotImplementedError


def attention_weights(q: Tensor, k: Tensor, mask: Tensor | None = None) -> Tensor:
    """How much each query takes from each key: softmax of q·k / √D over the keys.

    Args:
        q: queries, (..., L, D).
        k: keys, (..., S, D); leading axes broadcast as in matmul.
        mask: boolean, True where a query may attend; broadcasts to (..., L, S).

    Returns:
        (..., L, S), dtype of q. Each row sums to one; a row with no allowed
        key is all zeros, and its gradients are finite. float16 and bfloat16
        stay finite also where q·k itself exceeds the range of float16 and
        q·k / √D does not.

    Source: Vaswani et al. 2017, "Attention Is All You Need", section 3.2.1.

    >>> q, k = torch.zeros(2, 3, 4), torch.zeros(2, 5, 4)
    >>> attention_weights(q, k).shape
    torch.Size([2, 3, 5])
    """
    # TODO: write it as described above.
    raise NotImplementedError


def scaled_dot_product_attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """The mean of the values, weighted by attention_weights.

    Args:
        q: queries, (..., L, D).
        k: keys, (..., S, D).
        v: values, (..., S, Dv).
        mask: boolean, True where a query may attend; broadcasts to (..., L, S).

    Returns:
        (..., L, Dv), dtype of v; zeros for a query with no allowed key. The
        inputs are left as they were.

    Source: Vaswani et al. 2017, "Attention Is All You Need", equation 1.

    >>> q, k, v = torch.randn(1, 2, 4), torch.randn(1, 3, 4), torch.ones(1, 3, 5)
    >>> scaled_dot_product_attention(q, k, v).shape
    torch.Size([1, 2, 5])
    """
    # TODO: write it as described above.
    raise NotImplementedError
