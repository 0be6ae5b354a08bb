"""T5.

Where a token stands matters less than how far it is from another one. T5 has
no embedding of positions: each head learns how much it cares for a distance,
with a number for each of the near ones and one number for many of the far. And
T5 learns by mending text from which whole spans were cut, each replaced by a
single sentinel; what was missing is written, not classified.

Write the buckets of distances, the bias that heads learn over them, attention
and blocks of T5 for encoder and decoder, and the cutting of spans. With the
same weights the blocks are equal to the published ones (of 2020, before
version 1.1).

nn.Linear, nn.Embedding, nn.RMSNorm and F.scaled_dot_product_attention are there
to be used; PyTorch's ready-made multi-head attention and Transformer are not.

B batch, L query length, S key length, H heads, M size of the model (d_model),
D size of a head; `...` stands for any number of axes, none included.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def relative_position_bucket(relative: Tensor, bidirectional: bool = True, num_buckets: int = 32, max_distance: int = 128) -> Tensor:
    """Sort distances into buckets: one for each small distance, then ever wider ones.

    One-directional, the distance n of a key is how far it lies back, -relative;
    keys ahead of the query count as n = 0. Let N be num_buckets and E = N // 2.
    Distances below E have a bucket each, number n. Those from E up to
    max_distance share the other N - E on a logarithmic scale:

        E + ⌊(N - E) · log(n / E) / log(max_distance / E)⌋,

    and all that would come to N or above are in N - 1, the last.

    Bidirectional, half of the buckets are for each direction: the same rule
    with |relative| for n and num_buckets // 2 for N gives the bucket of keys
    that lie back or at the query itself; for keys ahead, relative > 0, it is
    num_buckets // 2 more.

    Args:
        relative: (...) int64, place of the key minus place of the query.
        bidirectional: whether keys ahead are told apart.
        num_buckets: a multiple of 4 if bidirectional, else of 2.
        max_distance: larger than E.

    Returns:
        (...) int64, each from 0 to num_buckets - 1.

    Source: Raffel et al. 2020, "Exploring the Limits of Transfer Learning with
    a Unified Text-to-Text Transformer", section 2.1; the formula as in the
    published code.

    >>> relative_position_bucket(torch.tensor([-200, -20, -8, -1, 0, 1, 8, 20, 200]))
    tensor([15, 10,  8,  1,  0, 17, 24, 26, 31])
    >>> relative_position_bucket(torch.tensor([-200, -20, -8, -1, 0, 1, 8]), bidirectional=False)
    tensor([31, 17,  8,  1,  0,  0,  0])
    """
    if bidirectional:
        num_buckets //= 2
        first, distance = num_buckets * (relative > 0), relative.abs()
    else:
        first, distance = torch.zeros_like(relative), (-relative).clamp(min=0)
    exact = num_buckets // 2
    far = torch.log(distance.clamp(min=exact) / exact) / math.log(max_distance / exact) * (num_buckets - exact)
    bucket = torch.where(distance < exact, distance, exact + far.long())
    return first + bucket.clamp(max=num_buckets - 1)


class RelativeBias(nn.Module):
    """What each head adds to its scores, by the distance of key and query.

    Args:
        num_heads: H.
        num_buckets, max_distance, bidirectional: as in
            relative_position_bucket; an encoder is bidirectional, a decoder
            is not.

    Attributes:
        embedding: `weight` (num_buckets, H), a number for each bucket and
            head; the only parameter. How it begins is yours.

    Source: Raffel et al. 2020, section 2.1.

    >>> RelativeBias(num_heads=3)(4, 5).shape
    torch.Size([1, 3, 4, 5])
    """

    def __init__(self, num_heads: int, num_buckets: int = 32, max_distance: int = 128, bidirectional: bool = True):
        super().__init__()
        self.num_buckets, self.max_distance, self.bidirectional = num_buckets, max_distance, bidirectional
        self.embedding = nn.Embedding(num_buckets, num_heads)

    def forward(self, L: int, S: int, offset: int = 0) -> Tensor:
        """Look up the bias of L queries and S keys.

        Args:
            L: queries; they stand at offset, offset + 1, ..., offset + L - 1.
            S: keys; they stand at 0, 1, ..., S - 1.
            offset: how many tokens came before the first query, as in decoding
                with a cache.

        Returns:
            (1, H, L, S), in the weight's dtype, with gradients to the weight.
        """
        device = self.embedding.weight.device
        query, key = torch.arange(offset, offset + L, device=device), torch.arange(S, device=device)
        bucket = relative_position_bucket(key - query[:, None], self.bidirectional, self.num_buckets, self.max_distance)
        return self.embedding(bucket).permute(2, 0, 1)[None]


class T5Attention(nn.Module):
    """Multi-head attention as in T5: scores are q·k, not divided by √D, plus a bias.

    Args:
        d_model: M.
        num_heads: H.
        head_dim: D; H·D need not be M.

    Attributes:
        q_proj, k_proj, v_proj: linear layers, `weight` (H·D, M).
        out_proj: linear layer, `weight` (M, H·D).

    There are no biases and no other parameters. How these begin is yours. Head
    h takes the channels from h·D up to (h + 1)·D of q, k and v, and writes to
    the same channels of what goes into out_proj.

    Source: Raffel et al. 2020, section 2.1; that √D is missing: the published
    code, where q_proj begins smaller instead.

    >>> attention = T5Attention(d_model=8, num_heads=3, head_dim=4)
    >>> attention(torch.randn(2, 5, 8), bias=RelativeBias(3)(5, 5)).shape
    torch.Size([2, 5, 8])
    """

    def __init__(self, d_model: int, num_heads: int, head_dim: int):
        super().__init__()
        self.num_heads = num_heads
        inner = num_heads * head_dim
        self.q_proj, self.k_proj = nn.Linear(d_model, inner, bias=False), nn.Linear(d_model, inner, bias=False)
        self.v_proj, self.out_proj = nn.Linear(d_model, inner, bias=False), nn.Linear(inner, d_model, bias=False)

    def forward(self, x: Tensor, memory: Tensor | None = None, bias: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """Attend from x to the memory.

        Args:
            x: what asks, (B, L, M).
            memory: what is asked, (B, S, M); x itself if None.
            bias: added to the scores, broadcasts to (B, H, L, S); none if None.
            mask: booleans, True where a query may attend, broadcasts to
                (B, H, L, S); with None all may. Each query may attend to some
                key. Nothing is causal unless the mask says so.

        Returns:
            (B, L, M): softmax of q·k + bias over the keys that are allowed,
            times v, heads side by side, out_proj applied.
        """
        memory = x if memory is None else memory
        q = self.q_proj(x).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
        k, v = (p(memory).unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for p in (self.k_proj, self.v_proj))
        scores = q @ k.transpose(-2, -1)  # (B, H, L, S)
        if bias is not None:
            scores = scores + bias
        if mask is not None:
            scores = scores.masked_fill(~mask, -math.inf)
        out = scores.softmax(-1) @ v
        return self.out_proj(out.transpose(1, 2).flatten(2))


class T5Block(nn.Module):
    """A block of the encoder, or of the decoder, where cross-attention stands in the middle.

    All is pre-norm, with a residual connection past each part:

        x = x + attention(norm1(x)), with bias and mask
        x = x + cross-attention(cross_norm(x)), to memory; in a decoder only
        x = x + feed-forward(norm2(x))

    Norms are RMSNorms with eps 1e-6: x / √(mean of x² + eps), times weight.
    The feed-forward network is down(relu(up(x))). The memory is not
    normalised. Cross-attention has no bias: distances between two texts mean
    nothing. There is no dropout here.

    Args:
        d_model: M.
        num_heads: H.
        head_dim: D.
        d_hidden: channels within the feed-forward network.
        decoder: whether it is a block of the decoder.

    Attributes:
        norm1, norm2: `weight` (M,).
        attn: a T5Attention.
        ff: up and down, linear layers, `weight` (d_hidden, M) and (M, d_hidden),
            no biases.
        cross_norm, cross_attn: like norm1 and attn, in a decoder only.

    There are no other parameters. The relative bias is none of them: all
    blocks of a stack share one.

    Source: Raffel et al. 2020, section 2.1.

    >>> block = T5Block(d_model=8, num_heads=3, head_dim=4, d_hidden=16, decoder=True)
    >>> causal, bias = torch.ones(5, 5, dtype=torch.bool).tril(), RelativeBias(3, bidirectional=False)
    >>> block(torch.randn(2, 5, 8), bias(5, 5), causal, memory=torch.randn(2, 7, 8)).shape
    torch.Size([2, 5, 8])
    """

    def __init__(self, d_model: int, num_heads: int, head_dim: int, d_hidden: int, decoder: bool = False):
        super().__init__()
        self.norm1, self.norm2 = nn.RMSNorm(d_model, eps=1e-6), nn.RMSNorm(d_model, eps=1e-6)
        self.attn, self.ff = T5Attention(d_model, num_heads, head_dim), _FeedForward(d_model, d_hidden)
        if decoder:
            self.cross_norm, self.cross_attn = nn.RMSNorm(d_model, eps=1e-6), T5Attention(d_model, num_heads, head_dim)
        self.decoder = decoder

    def forward(
        self,
        x: Tensor,
        bias: Tensor | None = None,
        mask: Tensor | None = None,
        memory: Tensor | None = None,
        memory_mask: Tensor | None = None,
    ) -> Tensor:
        """Pass x through the block.

        Args:
            x: (B, L, M).
            bias: of self-attention, broadcasts to (B, H, L, L), as RelativeBias
                gives it.
            mask: of self-attention, booleans, True where a query may attend,
                broadcasts to (B, H, L, L). In a decoder the caller gives a
                causal one; the block adds nothing to it.
            memory: what the encoder made of its text, (B, S, M); a decoder
                needs it, an encoder has none.
            memory_mask: of cross-attention, broadcasts to (B, H, L, S).

        Returns:
            (B, L, M). x and memory are left as they are.
        """
        x = x + self.attn(self.norm1(x), bias=bias, mask=mask)
        if self.decoder:
            x = x + self.cross_attn(self.cross_norm(x), memory, mask=memory_mask)
        return x + self.ff(self.norm2(x))


class _FeedForward(nn.Module):
    def __init__(self, d_model: int, d_hidden: int):
        super().__init__()
        self.up, self.down = nn.Linear(d_model, d_hidden, bias=False), nn.Linear(d_hidden, d_model, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(F.relu(self.up(x)))


def corrupt_spans(ids: list[int], spans: list[tuple[int, int]], first_sentinel: int) -> tuple[list[int], list[int]]:
    """Cut spans out of a text, and ask for them.

    The sentinels count down, as T5's do: the first span of the text has
    first_sentinel, the second first_sentinel - 1, and so on.

    Args:
        ids: the text. Left as it is.
        spans: (start, length) of each, in any order; the sentinels go by their
            places in the text. Spans may touch, and each has a sentinel of its
            own all the same.
        first_sentinel: id of the first sentinel.

    Returns:
        (inputs, targets), new lists. inputs are the ids with each span replaced
        by its sentinel. targets are, span by span, its sentinel and then its
        ids, and at the end one more sentinel, the next in the count, which no
        span has. No end-of-sequence id is added to either.

    Raises:
        ValueError: a span has a length below 1, begins before the text, reaches
            beyond it, or overlaps another.

    Source: Raffel et al. 2020, section 3.1.4 and figure 2.

    >>> corrupt_spans([10, 11, 12, 13, 14, 15, 16], [(1, 2), (5, 1)], first_sentinel=99)
    ([10, 99, 13, 14, 98, 16], [99, 11, 12, 98, 15, 97])
    """
    inputs, targets, end = [], [], 0
    for sentinel, (start, length) in zip(range(first_sentinel, first_sentinel - len(spans), -1), sorted(spans), strict=True):
        if length < 1 or start < end or start + length > len(ids):
            raise ValueError(f"the span of {length} ids at {start} is empty, overlaps another, or leaves the text of {len(ids)}")
        inputs += [*ids[end:start], sentinel]
        end = start + length
        targets += [sentinel, *ids[start:end]]
    return inputs + list(ids[end:]), [*targets, first_sentinel - len(spans)]
