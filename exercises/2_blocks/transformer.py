"""Transformer.

A sentence in one language goes in, a sentence in another comes out, and
neither their lengths nor the order of their words agree. An encoder reads the
whole source into a memory, one vector a token. A decoder writes the target
from left to right; for each next token it looks at what has been written and
at the memory.

Write the whole model, from token ids to logits, and the loop that translates
with it. `make train` then trains it on real data: numbers written in words.

nn.Linear, nn.LayerNorm, nn.Embedding and F.scaled_dot_product_attention are
there to be used; PyTorch's ready-made multi-head attention, blocks and
Transformer are not.

B batch, S source length, L target length, H heads, M size of the model
(d_model), V size of the target vocabulary.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Transformer(nn.Module):
    """Encoder and decoder, from token ids to logits.

    Every layer of the encoder has self-attention and a feed-forward network.
    Every layer of the decoder has causal self-attention, cross-attention to
    the memory and a feed-forward network. A residual connection runs past each
    of these, and each is normalised. Every attention has four projections from
    M to M channels (queries, keys, values, output) of its own, and H heads; a
    feed-forward network goes from M to d_hidden channels, through an
    activation, and back. Source and target know the order of their tokens.

    How positions are told, pre-norm or post-norm, biases, the activation, all
    names, and whether the target's embedding is also the last projection, is
    yours to choose.

    Args:
        src_vocab: source ids are below this.
        tgt_vocab: target ids are below this; it may differ from src_vocab.
        d_model: M.
        num_heads: H; divides d_model.
        num_layers: layers of the encoder, and layers of the decoder, at least
            1; no two share parameters.
        d_hidden: channels inside a feed-forward network.
        dropout: in training numbers are dropped with this probability, in the
            encoder and in the decoder; in evaluation, or with 0, none are.
        max_len: sources and targets are at most this long.
        pad_id: the id, in both languages, that fills short sequences up, on
            the right. Every other id is a token like any other, 0 included.

    Padding changes nothing: the memory of real source tokens and the logits at
    real target tokens are the same with little padding, much, or none, and
    whatever else is in the batch. Every sequence has a real token.

    Source: Vaswani et al. 2017, "Attention Is All You Need", section 3.

    >>> model = Transformer(src_vocab=11, tgt_vocab=7, d_model=8, num_heads=2, num_layers=2, d_hidden=16)
    >>> src, tgt = torch.tensor([[3, 10, 4, 0], [5, 6, 3, 9]]), torch.tensor([[1, 6, 3], [1, 4, 0]])
    >>> model(src, tgt).shape
    torch.Size([2, 3, 7])
    >>> torch.equal(model(src, tgt), model.decode(tgt, model.encode(src), src))
    True
    """

    def __init__(
        self,
        src_vocab: int,
        tgt_vocab: int,
        d_model: int,
        num_heads: int,
        num_layers: int,
        d_hidden: int,
        dropout: float = 0.0,
        max_len: int = 256,
        pad_id: int = 0,
    ):
        # TODO: make the parameters and whatever else it takes.
        raise NotImplementedError

    def forward(self, src: Tensor, tgt: Tensor) -> Tensor:
        """Predict each next target token; training runs through here.

        Args:
            src: source ids, (B, S) integers.
            tgt: target ids, (B, L) integers, beginning with bos.

        Returns:
            The same as decode(tgt, encode(src), src). Gradients flow to all
            weights, those of the encoder included.
        """
        # TODO: write it as described above.
        raise NotImplementedError

    def encode(self, src: Tensor) -> Tensor:
        """Read the source.

        Args:
            src: (B, S) integers, padded on the right.

        Returns:
            The memory, (B, S, M). Each token has seen all real tokens of its
            own source, before and after it. What stands at padding is free.
        """
        # TODO: write it as described above.
        raise NotImplementedError

    def decode(self, tgt: Tensor, memory: Tensor, src: Tensor) -> Tensor:
        """Predict each next target token from the memory.

        Args:
            tgt: (B, L) integers, padded on the right.
            memory: what encode made of src, (B, S, M).
            src: (B, S); only tells where the memory is padding.

        Returns:
            Logits, (B, L, V), not probabilities. Those at position t are for
            token t + 1. They depend on target tokens 0 to t, t included, and
            on nothing later, and on the memory of all real source tokens. A
            target token attends to itself too. Logits are finite, at padding
            too.
        """
        # TODO: write it as described above.
        raise NotImplementedError

    @torch.no_grad()
    def greedy_decode(self, src: Tensor, bos_id: int, eos_id: int, max_new: int) -> Tensor:
        """Translate: begin with bos, and add the likeliest next token until eos.

        Args:
            src: (B, S) integers, padded on the right.
            bos_id: the token that each target begins with.
            eos_id: the token that ends a target; it may be bos_id too.
            max_new: no target gets longer than this; at least 1.

        Returns:
            (B, n) int64, n ≤ max_new, without bos. Each token is the arg max
            over all V logits, bos and padding included. A row keeps its eos,
            and after it stands pad_id. It stops when every row has ended: n is
            the length of the longest row.

        >>> model = Transformer(11, 7, d_model=8, num_heads=2, num_layers=1, d_hidden=16).eval()
        >>> model.greedy_decode(torch.tensor([[3, 4, 5], [6, 7, 0]]), bos_id=1, eos_id=2, max_new=1).shape
        torch.Size([2, 1])
        """
        # TODO: write it as described above.
        raise NotImplementedError
