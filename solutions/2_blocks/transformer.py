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
        super().__init__()
        self.pad_id = pad_id
        self.src_embedding = nn.Embedding(src_vocab, d_model)
        self.tgt_embedding = nn.Embedding(tgt_vocab, d_model)
        self.register_buffer("positions", _sinusoids(max_len, d_model), persistent=False)
        self.encoder = nn.ModuleList(_EncoderLayer(d_model, num_heads, d_hidden, dropout) for _ in range(num_layers))
        self.decoder = nn.ModuleList(_DecoderLayer(d_model, num_heads, d_hidden, dropout) for _ in range(num_layers))
        self.encoder_norm = nn.LayerNorm(d_model)
        self.decoder_norm = nn.LayerNorm(d_model)
        self.dropout = nn.Dropout(dropout)
        self.to_logits = nn.Linear(d_model, tgt_vocab)

    def forward(self, src: Tensor, tgt: Tensor) -> Tensor:
        """Predict each next target token; training runs through here.

        Args:
            src: source ids, (B, S) integers.
            tgt: target ids, (B, L) integers, beginning with bos.

        Returns:
            The same as decode(tgt, encode(src), src). Gradients flow to all
            weights, those of the encoder included.
        """
        return self.decode(tgt, self.encode(src), src)

    def encode(self, src: Tensor) -> Tensor:
        """Read the source.

        Args:
            src: (B, S) integers, padded on the right.

        Returns:
            The memory, (B, S, M). Each token has seen all real tokens of its
            own source, before and after it. What stands at padding is free.
        """
        real = self._real_source(src)
        x = self.dropout(self.src_embedding(src) + self.positions[: src.shape[1]])
        for layer in self.encoder:
            x = layer(x, real)
        return self.encoder_norm(x)

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
        L = tgt.shape[1]
        causal = torch.ones(L, L, dtype=torch.bool, device=tgt.device).tril()
        real = self._real_source(src)
        x = self.dropout(self.tgt_embedding(tgt) + self.positions[:L])
        for layer in self.decoder:
            x = layer(x, causal, memory, real)
        return self.to_logits(self.decoder_norm(x))

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
        memory = self.encode(src)
        ids = torch.full((len(src), 1), bos_id, device=src.device)
        ended = torch.zeros(len(src), dtype=torch.bool, device=src.device)
        for _ in range(max_new):
            new = self.decode(ids, memory, src)[:, -1].argmax(-1)
            new = new.masked_fill(ended, self.pad_id)
            ids = torch.cat([ids, new[:, None]], dim=1)
            ended = ended | (new == eos_id)
            if ended.all():
                break
        return ids[:, 1:]

    def _real_source(self, src: Tensor) -> Tensor:
        return (src != self.pad_id)[:, None, None, :]  # the keys that any head and any query may attend to


class _EncoderLayer(nn.Module):
    """Pre-norm: self-attention and feed-forward."""

    def __init__(self, d_model: int, num_heads: int, d_hidden: int, dropout: float):
        super().__init__()
        self.norm1, self.self_attn = nn.LayerNorm(d_model), _Attention(d_model, num_heads)
        self.norm2, self.ff = nn.LayerNorm(d_model), _feed_forward(d_model, d_hidden)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, real: Tensor) -> Tensor:
        normed = self.norm1(x)
        x = x + self.dropout(self.self_attn(normed, normed, real))
        return x + self.dropout(self.ff(self.norm2(x)))


class _DecoderLayer(nn.Module):
    """Pre-norm: causal self-attention, cross-attention to the memory, feed-forward."""

    def __init__(self, d_model: int, num_heads: int, d_hidden: int, dropout: float):
        super().__init__()
        self.norm1, self.self_attn = nn.LayerNorm(d_model), _Attention(d_model, num_heads)
        self.norm2, self.cross_attn = nn.LayerNorm(d_model), _Attention(d_model, num_heads)
        self.norm3, self.ff = nn.LayerNorm(d_model), _feed_forward(d_model, d_hidden)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, causal: Tensor, memory: Tensor, real: Tensor) -> Tensor:
        y = self.norm1(x)
        x = x + self.dropout(self.self_attn(y, y, causal))
        x = x + self.dropout(self.cross_attn(self.norm2(x), memory, real))
        return x + self.dropout(self.ff(self.norm3(x)))


class _Attention(nn.Module):
    """Multi-head attention of x to a source, which may be x itself."""

    def __init__(self, d_model: int, num_heads: int):
        super().__init__()
        self.num_heads = num_heads
        self.q_proj = nn.Linear(d_model, d_model)
        self.k_proj = nn.Linear(d_model, d_model)
        self.v_proj = nn.Linear(d_model, d_model)
        self.out_proj = nn.Linear(d_model, d_model)

    def forward(self, x: Tensor, source: Tensor, allowed: Tensor) -> Tensor:
        projected = (self.q_proj(x), self.k_proj(source), self.v_proj(source))
        q, k, v = (t.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for t in projected)  # (B, H, length, D)
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=allowed)
        return self.out_proj(out.transpose(1, 2).flatten(2))


def _feed_forward(d_model: int, d_hidden: int) -> nn.Module:
    return nn.Sequential(nn.Linear(d_model, d_hidden), nn.ReLU(), nn.Linear(d_hidden, d_model))


def _sinusoids(length: int, d_model: int) -> Tensor:
    """Sines at even, cosines at odd channels, (length, M)."""
    channel = torch.arange(d_model)
    angle = torch.arange(length)[:, None] / 10000 ** (channel // 2 * 2 / d_model)
    return torch.where(channel % 2 == 0, angle.sin(), angle.cos())
