"""Flash attention.

A sequence of a hundred thousand tokens makes ten billion attention scores for
each head: they fit no memory, and writing and reading them is what attention
spends its time on. Yet the result has only one row a token. Compute attention
and its gradients exactly, with scores for one block of keys at a time, so
that no matrix of all scores ever exists: neither forward nor backward. Write
the step that joins what was found in two blocks, the forward pass, and the
backward pass.

B batch, H heads, L queries, S keys, D size of a head; L, S and D are at least
1. A score is q·k / √D, and attention is the softmax of the scores over the
keys, times the values. Tensors are float32 or float64, all of one dtype, which
the results have too. Scores may be huge, thousands in size and of either
sign: nothing overflows and nothing becomes NaN. No function changes its
arguments.

Causal: L is at most S, and the last query belongs to the last key, so query i
sees keys 0 to i + S - L. Every query then sees a key.

Memory and work, of both passes: scores exist for at most `block` keys at a
time. So no tensor is made that has as many numbers as a head has scores, L · S,
if S is several blocks; a mask of L · S booleans is one as well. And with
causal, blocks of scores that are hidden from all their queries are not
computed: with L = S, three blocks cost at most 4/5 of the operations that they
cost without causal, and many blocks little more than half.
"""

import math

import torch
from torch import Tensor

State = tuple[Tensor, Tensor, Tensor]  # given


def merge_blocks(one: State, other: State) -> State:
    """What is known of the keys of two blocks together, from what is known of each.

    A state sums up some of the keys for each query. With scores s_j and values
    v_j of these keys it is (m, l, o):

        m: max s_j, (..., L);
        l: Σ exp(s_j - m), (..., L);
        o: Σ exp(s_j - m) v_j, (..., L, D), not yet divided by l.

    A query that has seen no key yet has the empty state: m is -inf, l is 0, and
    o is 0.

    Args:
        one: the state of some keys.
        other: the state of other keys, of the same shapes.

    Returns:
        The state of all these keys. For a query to which one of the two is
        empty, it is the other one; if both are, it is empty again.

    Source: Milakov and Gimelshein 2018, "Online normalizer calculation for
    softmax", section 3.1.

    >>> one = torch.tensor([0.0]), torch.tensor([1.0]), torch.tensor([[2.0]])
    >>> other = torch.tensor([0.0]), torch.tensor([1.0]), torch.tensor([[4.0]])
    >>> merge_blocks(one, other)
    (tensor([0.]), tensor([2.]), tensor([[6.]]))
    """
    # TODO: write it as described above.
    raise NotImplementedError


def flash_forward(q: Tensor, k: Tensor, v: Tensor, block: int, causal: bool = False) -> tuple[Tensor, Tensor]:
    """Attention, and for each query the logarithm of the sum of its exponentials.

    Args:
        q: (B, H, L, D).
        k: (B, H, S, D).
        v: (B, H, S, D).
        block: the number of keys for which scores exist at a time, at least 1.
            S need not be divisible by it, and it may be larger than S. The
            results do not depend on it.
        causal: whether queries see no later keys; L ≤ S then.

    Returns:
        (out, logsumexp): out, (B, H, L, D), and log Σ exp(score) over the keys
        that the query sees, (B, H, L), natural logarithm.

    Source: Dao et al. 2022, "FlashAttention", section 3.1; Dao 2023,
    "FlashAttention-2", section 3.1.

    >>> q = k = v = torch.ones(1, 1, 5, 4)
    >>> out, logsumexp = flash_forward(q, k, v, block=2, causal=True)
    >>> out.shape, logsumexp
    (torch.Size([1, 1, 5, 4]), tensor([[[2.0000, 2.6931, 3.0986, 3.3863, 3.6094]]]))
    """
    # TODO: write it as described above.
    raise NotImplementedError


def flash_backward(
    dout: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, logsumexp: Tensor, block: int, causal: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of a loss that depends on out, without autograd.

    Args:
        dout: gradient of the loss with respect to out, (B, H, L, D).
        q, k, v: what flash_forward was given.
        out, logsumexp: what flash_forward gave for them.
        block: as for flash_forward, not necessarily the same.
        causal: what flash_forward was given.

    Returns:
        (dq, dk, dv), the gradients with respect to q, k and v.

    Source: Dao et al. 2022, "FlashAttention", section 3.1 and appendix B.2.

    >>> q = k = v = torch.ones(1, 1, 5, 4)
    >>> out, logsumexp = flash_forward(q, k, v, block=2)
    >>> dq, dk, dv = flash_backward(torch.ones(1, 1, 5, 4), q, k, v, out, logsumexp, block=3)
    >>> dq.shape, dv.shape
    (torch.Size([1, 1, 5, 4]), torch.Size([1, 1, 5, 4]))
    """
    # TODO: write it as described above.
    raise NotImplementedError
