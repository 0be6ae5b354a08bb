"""Vit.

TODO: the interviewer's question: a situation, then what to write. No recipe.
"""

from torch import Tensor


def vit(x: Tensor) -> Tensor:
    """TODO: what it gives back, in one line.

    Args:
        x: TODO, (B, L, D).

    Returns:
        TODO, with shape and dtype. State every rule that a check tests.

    Source: TODO, with the section.

    >>> import torch
    >>> vit(torch.zeros(1, 2, 3)).shape
    torch.Size([1, 2, 3])
    """
    return x
