"""Normalisation and residual connections.

Stack fifty layers, and what flows through them explodes or fades, unless each
layer finds its input at the same scale and leaves the gradient a way around
it. Write the two normalisations that Transformers use, so that neither a row
without spread, nor one far from zero, nor half precision breaks them; the
backward pass of the first, as it would stand in a kernel; both as modules;
and the residual connection that puts a normalisation before or after any
sublayer.

M size of the model; `...` stands for any number of leading axes, none
included. Each row, along the last axis, is normalised by itself. No function
changes its arguments.

Precision, everywhere: float16 and bfloat16 are computed in float32 or wider,
float64 in float64, and only the result is rounded. Weight and bias may be
wider than x.
"""

import math

import torch
from torch import Tensor, nn


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float = 1e-5) -> Tensor:
    """(x - mean) / √(variance + eps) * weight + bias, with mean and variance of each row.

    The variance is the mean of the squared distances from the mean.

    Args:
        x: (..., M), floating point. A row may be constant, and it may be far
            from zero: in float64 ten million times its spread.
        weight: (M,).
        bias: (M,).
        eps: added to the variance, under the root.

    Returns:
        (..., M), dtype of x, with finite gradients; bias for a constant row.

    Source: Ba et al. 2016, "Layer Normalization", section 3.

    >>> layer_norm(torch.tensor([1.0, 3.0]), torch.ones(2), torch.zeros(2))
    tensor([-1.0000,  1.0000])
    """
    # TODO: write it as described above.
    raise NotImplementedError


def rms_norm(x: Tensor, weight: Tensor, eps: float = 1e-6) -> Tensor:
    """x / √(mean square + eps) * weight, with the mean of the squares of each row.

    Args:
        x: (..., M), floating point. A row may be all zeros.
        weight: (M,).
        eps: added to the mean square, under the root.

    Returns:
        (..., M), dtype of x, with finite gradients.

    Source: Zhang and Sennrich 2019, "Root Mean Square Layer Normalization",
    section 4.

    >>> rms_norm(torch.tensor([3.0, 4.0]), torch.ones(2))
    tensor([0.8485, 1.1314])
    """
    # TODO: write it as described above.
    raise NotImplementedError


def layer_norm_backward(grad_out: Tensor, x: Tensor, weight: Tensor, eps: float = 1e-5) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of a loss that depends on layer_norm(x, weight, bias, eps), without autograd.

    Args:
        grad_out: gradient of the loss with respect to layer_norm's result,
            (..., M), dtype of x.
        x: what layer_norm was given, (..., M).
        weight: (M,).
        eps: what layer_norm was given.

    Returns:
        (dx, dweight, dbias), the gradients with respect to x, (..., M), dtype
        of x, and to weight and bias, both (M,), dtype of weight. They hold
        for all x that layer_norm takes.

    Source: the chain rule; Ioffe and Szegedy 2015, "Batch Normalization",
    section 3, apply it where the statistics are those of a batch.

    >>> dx, dweight, dbias = layer_norm_backward(torch.ones(5, 3), torch.randn(5, 3), torch.ones(3))
    >>> dx.shape, dweight.shape, dbias
    (torch.Size([5, 3]), torch.Size([3]), tensor([5., 5., 5.]))
    """
    # TODO: write it as described above.
    raise NotImplementedError


class LayerNorm(nn.Module):
    """layer_norm with a weight and a bias that are learned.

    Args:
        d_model: M, the size of a row.
        eps: for layer_norm.

    Parameters, and no others: `weight`, (M,), ones at first; `bias`, (M,),
    zeros at first. forward(x) takes x, (..., M), in whatever dtype and gives
    the same shape and dtype.

    Source: Ba et al. 2016, "Layer Normalization", section 3.

    >>> LayerNorm(4)(torch.randn(2, 3, 4)).shape
    torch.Size([2, 3, 4])
    """

    def __init__(self, d_model: int, eps: float = 1e-5):
        # TODO: make the parameters and whatever else it takes.
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        # TODO: write forward.
        raise NotImplementedError


class RMSNorm(nn.Module):
    """rms_norm with a weight that is learned.

    Args:
        d_model: M, the size of a row.
        eps: for rms_norm.

    Parameters, and no others: `weight`, (M,), ones at first. forward(x) takes
    x, (..., M), in whatever dtype and gives the same shape and dtype.

    Source: Zhang and Sennrich 2019, "Root Mean Square Layer Normalization",
    section 4.

    >>> RMSNorm(4)(torch.randn(2, 3, 4)).shape
    torch.Size([2, 3, 4])
    """

    def __init__(self, d_model: int, eps: float = 1e-6):
        # TODO: make the parameters and whatever else it takes.
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        # TODO: write forward.
        raise NotImplementedError


class Residual(nn.Module):
    """A sublayer with a way around it, and a LayerNorm before or after.

    Args:
        sublayer: a module that takes (..., M) and gives (..., M).
        d_model: M.
        norm_first: pre-norm, x + drop(sublayer(norm(x))), if true; else
            post-norm, norm(x + drop(sublayer(x))).
        dropout: what nn.Dropout does to the output of the sublayer, in
            training only: sets each value to zero with this probability, from
            0 to 1, and divides the others by 1 - dropout. At 1 all are zero.

    Modules: `norm`, a LayerNorm of this file with its default eps, and
    `sublayer`, the one given; parameters stand under these two names alone.
    forward(x) takes x, (..., M), and gives the same shape.

    Source: Vaswani et al. 2017, "Attention Is All You Need", sections 3.1 and
    5.4; Xiong et al. 2020, "On Layer Normalization in the Transformer
    Architecture", section 3.

    >>> Residual(nn.Linear(4, 4), d_model=4)(torch.randn(2, 3, 4)).shape
    torch.Size([2, 3, 4])
    """

    def __init__(self, sublayer: nn.Module, d_model: int, norm_first: bool = True, dropout: float = 0.0):
        # TODO: make the parameters and whatever else it takes.
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        # TODO: write forward.
        raise NotImplementedError
