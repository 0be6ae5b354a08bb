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
    rotated = torch.einsum("...d,ndr->n...r", x, rotations)
    return torch.cat([rotated, -rotated], dim=-1).argmax(dim=-1)


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
    if qk.shape[2] % chunk:
        raise ValueError(f"{qk.shape[2]} tokens cannot be cut into chunks of {chunk}")
    rounds = [_one_round(qk, v, buckets, chunk, causal) for buckets in lsh_buckets(qk, rotations)]
    outs, logsumexps = (torch.stack(parts) for parts in zip(*rounds, strict=True))
    return (logsumexps.softmax(dim=0) * outs).sum(dim=0)


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
        super().__init__()
        self.f, self.g = f, g

    def forward(self, x1: Tensor, x2: Tensor) -> tuple[Tensor, Tensor]:
        """(x1, x2), each (..., M), to (y1, y2) of the same shape."""
        params = [param for param in self.parameters() if param.requires_grad]
        return _Reversible.apply(x1, x2, self.f, self.g, *params)

    def inverse(self, y1: Tensor, y2: Tensor) -> tuple[Tensor, Tensor]:
        """The (x1, x2) of which forward makes (y1, y2), but for rounding; f and g draw no random numbers."""
        x2 = y2 - self.g(y1)
        return y1 - self.f(x2), x2


def _one_round(qk: Tensor, v: Tensor, buckets: Tensor, chunk: int, causal: bool) -> tuple[Tensor, Tensor]:
    """Attention by the buckets (B, H, L) of one round: results, and the logsumexp of the scores, (B, H, L, 1)."""
    order = buckets.argsort(dim=-1, stable=True)
    q, values = (_taken(x, order).unflatten(2, (-1, chunk)) for x in (qk, v))
    keys, values = _with_chunk_before(F.normalize(q, dim=-1)), _with_chunk_before(values)
    places = order.unflatten(2, (-1, chunk)).unsqueeze(-1)
    own = buckets.gather(-1, order).unflatten(2, (-1, chunk)).unsqueeze(-1)
    places_seen, theirs = (_with_chunk_before(x, nobody=-1).mT for x in (places, own))

    seen = own == theirs  # (B, H, chunks, chunk, 2 · chunk)
    if causal:
        seen = seen & (places_seen <= places)
    scores = q @ keys.mT / math.sqrt(qk.shape[-1])
    # So low that it matters only if there is nothing else, and yet a number: the softmax always has something.
    scores = scores.masked_fill(places_seen == places, torch.finfo(scores.dtype).min).masked_fill(~seen, -math.inf)
    logsumexp = scores.logsumexp(dim=-1, keepdim=True)
    out = (scores - logsumexp).exp() @ values
    back = order.argsort(dim=-1)
    return _taken(out.flatten(2, 3), back), _taken(logsumexp.flatten(2, 3), back)


def _taken(x: Tensor, places: Tensor) -> Tensor:
    """The tokens of x (B, H, L, C) at the places (B, H, L)."""
    return x.gather(2, places.unsqueeze(-1).expand(-1, -1, -1, x.shape[-1]))


def _with_chunk_before(x: Tensor, nobody: float = 0) -> Tensor:
    """Each chunk behind the one before it: (B, H, chunks, chunk, C) to (B, H, chunks, 2 · chunk, C)."""
    before = F.pad(x, (0, 0, 0, 0, 1, 0), value=nobody)[:, :, :-1]
    return torch.cat([before, x], dim=3)


class _Reversible(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x1: Tensor, x2: Tensor, f: nn.Module, g: nn.Module, *params: Tensor) -> tuple[Tensor, Tensor]:
        ctx.f, ctx.g, ctx.params = f, g, params
        ctx.before_f = torch.get_rng_state()
        y1 = x1 + f(x2)
        ctx.before_g = torch.get_rng_state()
        y2 = x2 + g(y1)
        ctx.save_for_backward(y1, y2)
        return y1, y2

    @staticmethod
    def backward(ctx: Any, dy1: Tensor, dy2: Tensor) -> tuple[Tensor | None, ...]:
        y1, y2 = ctx.saved_tensors
        g_of_y1, through_g, by_g = _run_again(ctx.g, y1, ctx.before_g, dy2, ctx.params)
        dx1 = dy1 + through_g
        _, through_f, by_f = _run_again(ctx.f, y2 - g_of_y1, ctx.before_f, dx1, ctx.params)
        return dx1, dy2 + through_f, None, None, *(one + other for one, other in zip(by_f, by_g, strict=True))


def _run_again(
    module: nn.Module, x: Tensor, random_state: Tensor, dout: Tensor, params: tuple[Tensor, ...]
) -> tuple[Tensor, Tensor, list[Tensor]]:
    """module(x), and the gradients of x and of the parameters, where dout is that of the result."""
    x = x.detach().requires_grad_()
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        torch.set_rng_state(random_state)
        out = module(x)
    dx, *dparams = torch.autograd.grad(out, (x, *params), dout, materialize_grads=True)
    return out.detach(), dx, dparams
