"""Token embeddings and positions.

A Transformer gets a list of token ids. Attention sees them as a set: shuffle
the tokens and the same outputs come back, shuffled. So each id becomes a
vector, and to each vector something is added that says where the token stands.
Write the embedding of the tokens, and both kinds of absolute position: a table
of sines and cosines that is computed, and a table that is learned. While a
model generates, the tokens come one at a time; that is what `start` is for.

B batch, L length of the sequence, M size of the model, V size of the
vocabulary. No module changes its arguments.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def sinusoidal_positions(length: int, d_model: int, base: float = 10000.0) -> Tensor:
    """A row of sines and cosines for each position, from fast to slow.

    Position p, counted from 0, has sin(p / base^(2i / M)) at channel 2i and
    the cosine of the same angle at channel 2i + 1.

    Args:
        length: number of positions.
        d_model: number of channels, M. When it is odd, the last channel is a
            sine without its cosine.
        base: the wavelengths grow from 2π towards base · 2π.

    Returns:
        (length, M), float32 or float64. Computing in float32 is exact enough:
        an error of 1e-4 is allowed at small positions, 1e-3 up to 5000.

    Source: Vaswani et al. 2017, "Attention Is All You Need", section 3.5.

    >>> sinusoidal_positions(3, 4)
    tensor([[ 0.0000,  1.0000,  0.0000,  1.0000],
            [ 0.8415,  0.5403,  0.0100,  0.9999],
            [ 0.9093, -0.4161,  0.0200,  0.9998]])
    """
    position = torch.arange(length)[:, None]
    even = torch.arange(0, d_model, 2)  # 2i for each pair of channels
    angle = position / base ** (even / d_model)
    table = torch.zeros(length, d_model)
    table[:, 0::2] = angle.sin()
    table[:, 1::2] = angle.cos()[:, : d_model // 2]
    return table


class TokenEmbedding(nn.Module):
    """A learned vector for each token of the vocabulary, scaled by √M.

    Args:
        vocab_size: number of tokens, V.
        d_model: size of a vector, M.

    Attributes:
        weight: the only parameter, (V, M); how it is initialised is up to you.

    Source: Vaswani et al. 2017, "Attention Is All You Need", section 3.4.

    >>> TokenEmbedding(10, 4)(torch.tensor([[3, 1, 3]])).shape
    torch.Size([1, 3, 4])
    """

    def __init__(self, vocab_size: int, d_model: int) -> None:
        super().__init__()
        # Scaled by √M in forward, the vectors are about as large as the positions.
        self.weight = nn.Parameter(torch.randn(vocab_size, d_model) * d_model**-0.5)

    def forward(self, ids: Tensor) -> Tensor:
        """The rows of weight that ids name, times √M.

        Args:
            ids: (B, L), int64.

        Returns:
            (B, L, M), dtype of weight.

        Raises:
            IndexError: an id is negative, or V or more.
        """
        return F.embedding(ids, self.weight) * math.sqrt(self.weight.shape[1])


class LearnedPositions(nn.Module):
    """Adds a learned vector to each position.

    Args:
        max_len: number of positions that there are.
        d_model: size of a vector, M.

    Attributes:
        weight: the only parameter, (max_len, M); how it is initialised is up
            to you.

    Source: Gehring et al. 2017, "Convolutional Sequence to Sequence Learning",
    section 3.1.

    >>> positions = LearnedPositions(max_len=8, d_model=4)
    >>> x = torch.zeros(1, 2, 4)
    >>> torch.equal(positions(x, start=5)[0], positions.weight[5:7])
    True
    """

    def __init__(self, max_len: int, d_model: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(max_len, d_model) * 0.02)

    def forward(self, x: Tensor, start: int = 0) -> Tensor:
        """x with row start + j of weight added to its token j, in every sequence.

        Args:
            x: (B, L, M).
            start: position of the first token of x, 0 or more.

        Returns:
            (B, L, M). x is left as it was.

        Raises:
            ValueError: start + L is more than max_len; the message holds both
                of these numbers.
        """
        return x + _rows(self.weight, x, start)


class SinusoidalPositions(nn.Module):
    """Adds sinusoidal_positions, then applies dropout to the sum.

    The table is no parameter but a buffer, so that it goes where the module
    goes (`.to`, `.bfloat16`). It is not persistent: state_dict() is empty.

    Args:
        d_model: number of channels, M.
        max_len: number of positions in the table.
        dropout: in training, each number of the sum by itself becomes 0 with
            this probability, anew in every call, and the others are divided by
            1 - dropout. In evaluation nothing is dropped.

    Source: Vaswani et al. 2017, "Attention Is All You Need", sections 3.5, 5.4.

    >>> positions = SinusoidalPositions(d_model=4)
    >>> positions(torch.ones(1, 2, 4), start=1)
    tensor([[[1.8415, 1.5403, 1.0100, 1.9999],
             [1.9093, 0.5839, 1.0200, 1.9998]]])
    """

    def __init__(self, d_model: int, max_len: int = 5000, dropout: float = 0.0) -> None:
        super().__init__()
        self.register_buffer("table", sinusoidal_positions(max_len, d_model), persistent=False)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, start: int = 0) -> Tensor:
        """x with row start + j of the table added to its token j, in every sequence.

        Args:
            x: (B, L, M).
            start: position of the first token of x, 0 or more.

        Returns:
            (B, L, M), dtype of x if that is float32 or float64. x is left as
            it was.

        Raises:
            ValueError: start + L is more than max_len; the message holds both
                of these numbers.
        """
        return self.dropout(x + _rows(self.table, x, start))


def _rows(table: Tensor, x: Tensor, start: int) -> Tensor:
    """The rows of a table that belong to the tokens of x."""
    end = start + x.shape[1]
    if end > len(table):  # a slice would come out shorter, and a single row would broadcast
        raise ValueError(f"the tokens end at position {end}, but max_len is {len(table)}")
    return table[start:end]
