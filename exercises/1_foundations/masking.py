"""Attention masks.

Whatever a language model may not look at is kept from it by a mask: the
future, the padding of a batch, what lies too far back, the neighbours in a
packed sequence. A wrong mask raises no error. The loss even falls faster, for
the model reads the answer. Write the masks that decoders use, a way to combine
them, and a way to apply them to the scores.

Every mask is a torch.bool tensor on the CPU, True where a query may attend to
a key. Rows are queries, columns are keys; L and S are at least 1. No function
changes its arguments.

B batch, H heads, L query length, S key length.
"""

import math

import torch
from torch import Tensor


def causal_mask(L: int, S: int | None = None) -> Tensor:
    """Which keys each query sees that may not look ahead.

    The queries are the last L of S positions, as in decoding with a cache of
    keys: the last query sees all S keys, the one before it all but the last,
    and so on.

    Args:
        L: number of queries.
        S: number of keys; L when None. It may be smaller than L: then the
            first L - S queries see nothing.

    Returns:
        (L, S), boolean.

    Source: Vaswani et al. 2017, "Attention Is All You Need", section 3.2.3;
    for L != S, PyTorch's torch.nn.attention.bias.causal_lower_right.

    >>> causal_mask(2, 4).int()
    tensor([[1, 1, 1, 0],
            [1, 1, 1, 1]], dtype=torch.int32)
    """
    # TODO: write it as described above.
    raise NotImplementedError


def padding_mask(lengths: Tensor, max_len: int) -> Tensor:
    """Which keys are tokens, in a batch of sequences padded at the end.

    Args:
        lengths: tokens in each sequence, (B,), integers from 0 to max_len.
        max_len: length to which all are padded; it may exceed every one.

    Returns:
        (B, 1, 1, max_len), boolean: the same for all heads and queries. A
        sequence of length 0 has no key that may be seen.

    Source: PyTorch's F.scaled_dot_product_attention, attn_mask.

    >>> padding_mask(torch.tensor([1, 3]), 4)[:, 0, 0].int()
    tensor([[1, 0, 0, 0],
            [1, 1, 1, 0]], dtype=torch.int32)
    """
    # TODO: write it as described above.
    raise NotImplementedError


def sliding_window_mask(L: int, window: int) -> Tensor:
    """Causal, and no query sees more than the last `window` keys, its own included.

    Args:
        L: number of queries and of keys.
        window: at least 1; from L on, the mask is the causal one.

    Returns:
        (L, L), boolean.

    Raises:
        ValueError: window is less than 1.

    Source: Jiang et al. 2023, "Mistral 7B", section 2; Beltagy et al. 2020,
    "Longformer", section 3.1, where the window is not causal.

    >>> sliding_window_mask(4, window=2).int()
    tensor([[1, 0, 0, 0],
            [1, 1, 0, 0],
            [0, 1, 1, 0],
            [0, 0, 1, 1]], dtype=torch.int32)
    """
    # TODO: write it as described above.
    raise NotImplementedError


def document_mask(document_ids: Tensor) -> Tensor:
    """Causal within each document, for several documents packed into one sequence.

    Args:
        document_ids: the document of each token, (B, L), integers of any
            value; no id is special. Equal ids in a sequence are one document,
            even when other documents lie between them.

    Returns:
        (B, 1, L, L), boolean: the same for all heads.

    Source: Grattafiori et al. 2024, "The Llama 3 Herd of Models", section 3.2.

    >>> document_mask(torch.tensor([[7, 7, 5, 5]]))[0, 0].int()
    tensor([[1, 0, 0, 0],
            [1, 1, 0, 0],
            [0, 0, 1, 0],
            [0, 0, 1, 1]], dtype=torch.int32)
    """
    # TODO: write it as described above.
    raise NotImplementedError


def prefix_mask(L: int, prefix_len: int) -> Tensor:
    """Bidirectional in the prefix, causal after it.

    The tokens of the prefix see all of the prefix and nothing behind it; each
    later token sees the prefix and everything up to itself.

    Args:
        L: number of queries and of keys.
        prefix_len: tokens in the prefix, from 0 to L.

    Returns:
        (L, L), boolean.

    Raises:
        ValueError: prefix_len is less than 0 or greater than L.

    Source: Raffel et al. 2020, "Exploring the Limits of Transfer Learning
    with a Unified Text-to-Text Transformer", section 3.2.1.

    >>> prefix_mask(4, prefix_len=2).int()
    tensor([[1, 1, 0, 0],
            [1, 1, 0, 0],
            [1, 1, 1, 0],
            [1, 1, 1, 1]], dtype=torch.int32)
    """
    # TODO: write it as described above.
    raise NotImplementedError


def combine_masks(*masks: Tensor | None) -> Tensor:
    """One mask that allows what all of them allow.

    Args:
        masks: any number of boolean masks whose shapes broadcast; each None
            is skipped, wherever it stands.

    Returns:
        Boolean, of the shape to which the masks broadcast. The masks are left
        as they were.

    Raises:
        ValueError: there is no mask, or nothing but None.

    Source: PyTorch's torch.nn.attention.flex_attention.and_masks.

    >>> causal, padding = torch.tensor([[True, False], [True, True]]), torch.tensor([False, True])
    >>> combine_masks(causal, None, padding)
    tensor([[False, False],
            [False,  True]])
    """
    # TODO: write it as described above.
    raise NotImplementedError


def apply_mask(scores: Tensor, mask: Tensor) -> Tensor:
    """The scores, with -inf where the mask does not allow to attend.

    Args:
        scores: (..., L, S), floating point, float16 and bfloat16 too.
        mask: boolean, True where a query may attend; broadcasts to scores.

    Returns:
        A new tensor of the shape and dtype of scores, which are left as they
        were. Allowed scores pass unchanged, their gradients too; a row
        without any allowed key is -inf throughout.

    Source: Vaswani et al. 2017, "Attention Is All You Need", section 3.2.3.

    >>> apply_mask(torch.tensor([[1.0, 2.0]]), torch.tensor([True, False]))
    tensor([[1., -inf]])
    """
    # TODO: write it as described above.
    raise NotImplementedError
