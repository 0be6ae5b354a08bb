"""Grouped-query attention.

When a language model writes, its memory fills with the keys and values of
earlier tokens, and every new token waits until all of them have been read. Yet
the queries of different heads often look for similar things. Let several of
them share the same keys and values: the cache and the waiting shrink by that
number, and the model loses next to nothing.

Write what lets neighbouring query heads share one key-value head; a causal
self-attention layer with fewer key-value heads than query heads, from one for
all to one for each; and what makes its projections out of those of a
multi-head model that is trained already.

B batch, L length, M size of the model, H query heads, G key-value heads,
D = M / H size of a head, S key length.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def repeat_kv(x: Tensor, n: int) -> Tensor:
    """Give each of n neighbouring query heads its copy of the key-value head that they share.

    Args:
        x: keys or values, (B, G, S, D).
        n: query heads for each key-value head, 1 or more.

    Returns:
        (B, G·n, S, D), dtype of x: heads 0 to n - 1 are head 0 of x, heads n
        to 2n - 1 are head 1, and so on. Gradients flow to x: what reaches its
        n copies is summed.

    Source: Ainslie et al. 2023, "GQA", section 2.2.

    >>> repeat_kv(torch.tensor([[[[1.0]], [[2.0]]]]), n=2).flatten()
    tensor([1., 1., 2., 2.])
    """
    return x[:, :, None].expand(-1, -1, n, -1, -1).flatten(1, 2)


class GroupedQueryAttention(nn.Module):
    """Self-attention in H heads, of which each H / G neighbours share keys and values.

    Scaled dot-product attention, with the scores divided by √D. Query head h
    takes the channels from h·D up to (h + 1)·D of what q_proj gives, and writes
    to the same channels of what goes into out_proj. Key-value head g takes the
    channels from g·D up to (g + 1)·D of k_proj and v_proj, and serves the query
    heads from g·H/G up to (g + 1)·H/G. With G = H that is multi-head attention,
    with G = 1 multi-query attention.

    Args:
        d_model: M.
        num_heads: H; divides d_model.
        num_kv_heads: G; divides num_heads.
        bias: whether the four projections have biases.

    Attributes:
        q_proj, out_proj: nn.Linear from M to M channels.
        k_proj, v_proj: nn.Linear from M to G·D channels.

    These hold all parameters.

    Raises:
        ValueError: num_heads is not divisible by num_kv_heads.

    Source: Ainslie et al. 2023, "GQA", section 2.2; Shazeer 2019, "Fast
    Transformer Decoding", section 3.

    >>> attention = GroupedQueryAttention(d_model=8, num_heads=4, num_kv_heads=2)
    >>> attention(torch.zeros(1, 5, 8)).shape, attention.k_proj.weight.shape
    (torch.Size([1, 5, 8]), torch.Size([4, 8]))
    """

    def __init__(self, d_model: int, num_heads: int, num_kv_heads: int, bias: bool = False):
        super().__init__()
        if num_heads % num_kv_heads:
            raise ValueError(f"{num_heads} query heads cannot share {num_kv_heads} key-value heads evenly")
        self.head_dim = d_model // num_heads
        self.queries_per_kv = num_heads // num_kv_heads
        self.q_proj = nn.Linear(d_model, d_model, bias=bias)
        self.k_proj = nn.Linear(d_model, num_kv_heads * self.head_dim, bias=bias)
        self.v_proj = nn.Linear(d_model, num_kv_heads * self.head_dim, bias=bias)
        self.out_proj = nn.Linear(d_model, d_model, bias=bias)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Each token attends to itself and the tokens before it, or to those that the mask allows.

        Args:
            x: (B, L, M), of the parameters' dtype, half precision included.
            mask: boolean, of two to four axes, True where a query may attend
                to a key; broadcasts to (B, H, L, L), and each query may attend
                to one key at least.
                It stands in the place of the causal mask: if it allows keys
                after the query, they are attended to.

        Returns:
            (B, L, M). Gradients flow to x and to all parameters; x and mask
            are left as they are. Keys and values are projected once for each
            of the G heads, not for each of the H: fewer floating-point
            operations than multi-head attention takes.
        """
        projections = (self.q_proj, self.k_proj, self.v_proj)
        q, k, v = (project(x).unflatten(-1, (-1, self.head_dim)).transpose(1, 2) for project in projections)
        k, v = repeat_kv(k, self.queries_per_kv), repeat_kv(v, self.queries_per_kv)
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None)
        return self.out_proj(out.transpose(1, 2).flatten(2))


def mean_pool_kv(weight: Tensor, num_heads: int, num_kv_heads: int) -> Tensor:
    """The k_proj or v_proj of multi-head attention, made one for grouped-query attention.

    Args:
        weight: (H·D, M); head h has the rows from h·D up to (h + 1)·D.
        num_heads: H.
        num_kv_heads: G; divides num_heads.

    Returns:
        (G·D, M), dtype of weight: key-value head g is the mean of the H / G
        neighbouring heads that it will stand for, row by row.

    Source: Ainslie et al. 2023, "GQA", section 2.1.

    >>> mean_pool_kv(torch.tensor([[1.0], [3.0], [10.0], [20.0]]), num_heads=4, num_kv_heads=2)
    tensor([[ 2.],
            [15.]])
    """
    return weight.unflatten(0, (num_kv_heads, num_heads // num_kv_heads, -1)).mean(1).flatten(0, 1)
