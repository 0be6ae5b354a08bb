"""BERT.

To classify a sentence, to find an answer in a passage, to search, one need not
write text, only read it, and a reader may look to the left and to the right of
every word. But a model that sees the next word cannot be trained to predict
it. So hide some words, and ask what they were.

Write BERT: which tokens are hidden and how, the model that reads, and the head
that says what was hidden. With the same weights it is equal to the published
one.

nn.Linear, nn.LayerNorm, nn.Embedding, F.gelu and F.scaled_dot_product_attention
are there to be used; PyTorch's ready-made multi-head attention and Transformer
are not.

B batch, L length, H heads, M size of the model (d_model), D = M / H head size,
V size of the vocabulary; `...` stands for any number of axes.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def mask_tokens(
    ids: Tensor,
    mask_id: int,
    vocab_size: int,
    special_ids: list[int],
    rate: float = 0.15,
    generator: torch.Generator | None = None,
) -> tuple[Tensor, Tensor]:
    """Choose the tokens that are to be predicted, and hide most of them.

    Each token that is not special is chosen with probability `rate`, whatever
    happens to the others. A token that was chosen becomes, again for itself,

        mask_id with probability 0.8,
        a random id with probability 0.1, drawn for it alone from all V ids
            alike: special ids and the token's own are among them,
        or stays what it is, with probability 0.1.

    It is to be predicted in all three cases.

    Args:
        ids: (...) int64. Left as they are.
        mask_id: the id of [MASK].
        vocab_size: V; ids are below this.
        special_ids: these ids, wherever they stand, are never chosen: [CLS],
            [SEP] and padding, and [MASK] if it is among them. May be empty.
        rate: from 0, where none is chosen, to 1, where all are that are not
            special.
        generator: everything is drawn from it, and the global generator is
            neither read nor changed: two generators with the same seed give
            the same. With None everything comes from PyTorch's global
            generator. In which order, and how many numbers, is yours.

    Returns:
        (inputs, labels), (...) int64 each, tensors of their own: what the model
        reads, and at chosen tokens the id that stood there, elsewhere -100,
        which cross_entropy ignores.

    Source: Devlin et al. 2019, "BERT: Pre-training of Deep Bidirectional
    Transformers for Language Understanding", section 3.1 and appendix A.1.

    >>> ids = torch.tensor([[1, 7, 8, 9, 2], [1, 5, 2, 0, 0]])
    >>> inputs, labels = mask_tokens(ids, mask_id=3, vocab_size=10, special_ids=[0, 1, 2, 3], rate=1.0)
    >>> labels
    tensor([[-100,    7,    8,    9, -100],
            [-100,    5, -100, -100, -100]])
    """

    def happens(probability: float) -> Tensor:
        return torch.rand(ids.shape, generator=generator, device=ids.device) < probability

    special = torch.isin(ids, torch.tensor(special_ids, dtype=ids.dtype, device=ids.device))
    chosen = happens(rate) & ~special
    labels = ids.masked_fill(~chosen, -100)
    hidden = chosen & happens(0.8)
    replaced = chosen & ~hidden & happens(0.5)  # half of the two tenths that are left
    random_ids = torch.randint(vocab_size, ids.shape, generator=generator, device=ids.device)
    inputs = ids.masked_fill(hidden, mask_id)
    inputs = torch.where(replaced, random_ids, inputs)
    return inputs, labels


class Bert(nn.Module):
    """An encoder-only Transformer, with a pooler and a head for masked tokens.

    The embeddings of each token, of its position, 0 for the first, and of its
    segment are added, as they are, and normalised by embedding_norm. N layers
    follow, each of them post-norm:

        x = norm1(x + attention(x))
        x = norm2(x + feed-forward(x))

    There is no norm behind the last.

    Attention goes both ways and is scaled by 1/√D. Head h takes the channels
    from h·D up to (h + 1)·D of q, k and v, and writes to the same channels of
    what goes into out_proj. The feed-forward network is down(gelu(up(x))), with
    GELU in its exact form, x·Φ(x). All norms are LayerNorms with eps 1e-12.
    There is no dropout here.

    Args:
        vocab_size: ids are below this, V.
        max_len: as many positions have an embedding.
        d_model: M.
        num_layers: N.
        num_heads: H; divides d_model.
        d_hidden: channels within the feed-forward network.
        num_segments: a token may belong to as many segments.

    Attributes:
        token_embedding: `weight` (V, M).
        position_embedding: `weight` (max_len, M).
        segment_embedding: `weight` (num_segments, M).
        embedding_norm: `weight` (M,) and `bias` (M,).
        layers: in order, each with
            attn: q_proj, k_proj, v_proj, out_proj, linear layers from M to
                M channels, `weight` (M, M) and `bias` (M,);
            ff: up and down, linear layers, `weight` (d_hidden, M) and
                (M, d_hidden), with `bias`;
            norm1, norm2: `weight` (M,) and `bias` (M,).
        pooler: `weight` (M, M) and `bias` (M,).
        mlm_transform: `weight` (M, M) and `bias` (M,).
        mlm_norm: `weight` (M,) and `bias` (M,).
        mlm_bias: itself a parameter (V,).

    There are no other parameters, under any name. How these begin is yours.

    Source: Devlin et al. 2019, section 3 and appendix A.2; post-norm: Vaswani
    et al. 2017, "Attention Is All You Need", section 3.1; the head as in the
    published code.

    >>> model = Bert(vocab_size=11, max_len=8, d_model=12, num_layers=2, num_heads=3, d_hidden=20)
    >>> hidden, pooled = model(torch.tensor([[1, 3, 4, 2], [1, 5, 2, 0]]))
    >>> hidden.shape, pooled.shape, model.mlm_logits(hidden).shape
    (torch.Size([2, 4, 12]), torch.Size([2, 12]), torch.Size([2, 4, 11]))
    """

    def __init__(self, vocab_size: int, max_len: int, d_model: int, num_layers: int, num_heads: int, d_hidden: int, num_segments: int = 2):
        super().__init__()
        self.token_embedding = nn.Embedding(vocab_size, d_model)
        self.position_embedding = nn.Embedding(max_len, d_model)
        self.segment_embedding = nn.Embedding(num_segments, d_model)
        self.embedding_norm = nn.LayerNorm(d_model, eps=1e-12)
        self.layers = nn.ModuleList(_Layer(d_model, num_heads, d_hidden) for _ in range(num_layers))
        self.pooler = nn.Linear(d_model, d_model)
        self.mlm_transform = nn.Linear(d_model, d_model)
        self.mlm_norm = nn.LayerNorm(d_model, eps=1e-12)
        self.mlm_bias = nn.Parameter(torch.zeros(vocab_size))

    def forward(self, ids: Tensor, segments: Tensor | None = None, keep: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Read text.

        Args:
            ids: (B, L) integers, L at most max_len.
            segments: (B, L) integers, the segment that each token belongs to;
                with None all belong to segment 0.
            keep: (B, L) booleans, True at real tokens, False at padding, which
                may stand anywhere but first: keep[:, 0] is True. No token
                attends to padding; positions are counted as if it were text.
                With None all tokens are real.

        Returns:
            (hidden, pooled). hidden (B, L, M) is what the last layer gives;
            what stands there at padding is yours. pooled (B, M) is tanh of the
            pooler of the first token's hidden vector.

        Raises:
            ValueError: L is above max_len.
        """
        length, max_len = ids.shape[1], self.position_embedding.num_embeddings
        if length > max_len:
            raise ValueError(f"{length} tokens, but there are positions for {max_len}")
        if segments is None:
            segments = torch.zeros_like(ids)
        position = torch.arange(length, device=ids.device)
        x = self.token_embedding(ids) + self.position_embedding(position) + self.segment_embedding(segments)
        x = self.embedding_norm(x)
        mask = None if keep is None else keep[:, None, None, :]  # of keys, the same for all heads and queries
        for layer in self.layers:
            x = layer(x, mask)
        return x, torch.tanh(self.pooler(x[:, 0]))

    def mlm_logits(self, hidden: Tensor) -> Tensor:
        """Say which token stood where.

        Args:
            hidden: (..., M), of all positions or of some.

        Returns:
            (..., V), the dot products of mlm_norm(gelu(mlm_transform(hidden)))
            with all rows of token_embedding.weight, plus mlm_bias. Gradients
            flow to that weight from here as well as from the input.
        """
        x = self.mlm_norm(F.gelu(self.mlm_transform(hidden)))
        return F.linear(x, self.token_embedding.weight, self.mlm_bias)


class _Layer(nn.Module):
    """Post-norm: attention and feed-forward."""

    def __init__(self, d_model: int, num_heads: int, d_hidden: int):
        super().__init__()
        self.attn, self.ff = _SelfAttention(d_model, num_heads), _FeedForward(d_model, d_hidden)
        self.norm1, self.norm2 = nn.LayerNorm(d_model, eps=1e-12), nn.LayerNorm(d_model, eps=1e-12)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        x = self.norm1(x + self.attn(x, mask))
        return self.norm2(x + self.ff(x))


class _SelfAttention(nn.Module):
    def __init__(self, d_model: int, num_heads: int):
        super().__init__()
        self.num_heads = num_heads
        self.q_proj, self.k_proj = nn.Linear(d_model, d_model), nn.Linear(d_model, d_model)
        self.v_proj, self.out_proj = nn.Linear(d_model, d_model), nn.Linear(d_model, d_model)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        q, k, v = (p(x).unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for p in (self.q_proj, self.k_proj, self.v_proj))
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)  # (B, H, L, D)
        return self.out_proj(out.transpose(1, 2).flatten(2))


class _FeedForward(nn.Module):
    def __init__(self, d_model: int, d_hidden: int):
        super().__init__()
        self.up, self.down = nn.Linear(d_model, d_hidden), nn.Linear(d_hidden, d_model)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(F.gelu(self.up(x)))
