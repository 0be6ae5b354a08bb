"""Multi-head attention.

One attention can look at one thing at a time. Project queries, keys and values,
cut the channels into heads, let every head attend for itself, put the heads
back side by side and project once more. Write the two functions that cut and
join, then the module: for self-attention and for cross-attention, with masks
of every shape and with dropout on the weights. With the same parameters its
outputs are those of nn.MultiheadAttention.

B batch, H heads, L query length, S key length, M size of the model (d_model),
D = M / H size of a head. softmax and matmul are PyTorch's here; its fused
attention is not.
"""

import math

import torch
from torch import Tensor, nn


def split_heads(x: Tensor, num_heads: int) -> Tensor:
    """Cut the channels of every token into heads.

    Args:
        x: (B, L, M).
        num_heads: H, at least 1.

    Returns:
        (B, H, L, D): head h holds channels h * D to (h + 1) * D - 1 of each
        token.

    Raises:
        ValueError: M is not divisible by H; the text holds both numbers.

    Source: Vaswani et al. 2017, "Attention Is All You Need", section 3.2.2.

    >>> split_heads(torch.tensor([[[1, 2, 3, 4], [5, 6, 7, 8]]]), num_heads=2)
    tensor([[[[1, 2],
              [5, 6]],
    <BLANKLINE>
             [[3, 4],
              [7, 8]]]])
    """
    D = _head_size(x.shape[-1], num_heads)
    return x.unflatten(-1, (num_heads, D)).transpose(1, 2)


def merge_heads(x: Tensor) -> Tensor:
    """Put the heads of every token side by side; the inverse of split_heads.

    Args:
        x: (B, H, L, D).

    Returns:
        (B, L, M), M = H * D.

    Source: Vaswani et al. 2017, "Attention Is All You Need", section 3.2.2.

    >>> merge_heads(torch.zeros(2, 3, 5, 4)).shape
    torch.Size([2, 5, 12])
    """
    return x.transpose(1, 2).flatten(2)


class MultiHeadAttention(nn.Module):
    """Attention in H heads, between four projections.

    Its parameters are those of q_proj, k_proj, v_proj and out_proj, each an
    nn.Linear from M to M, and no others. Head h works on the channels that
    split_heads gives it.

    Args:
        d_model: M.
        num_heads: H, at least 1.
        dropout: with this probability p, 0 <= p < 1, each attention weight is
            set to zero in training, by itself and anew at every call; the
            others are divided by 1 - p. In evaluation nothing is dropped.
        bias: whether the four projections have biases.

    Raises:
        ValueError: d_model is not divisible by num_heads; the text holds both
            numbers.

    Source: Vaswani et al. 2017, "Attention Is All You Need", section 3.2.2;
    dropout and bias as in PyTorch's nn.MultiheadAttention.

    >>> attention = MultiHeadAttention(d_model=6, num_heads=2)
    >>> out, weights = attention(torch.zeros(1, 3, 6), torch.zeros(1, 5, 6), need_weights=True)
    >>> out.shape, weights.shape
    (torch.Size([1, 3, 6]), torch.Size([1, 2, 3, 5]))
    """

    def __init__(self, d_model: int, num_heads: int, dropout: float = 0.0, bias: bool = True):
        super().__init__()
        _head_size(d_model, num_heads)  # refuses here what forward would refuse later
        self.num_heads = num_heads
        self.q_proj = nn.Linear(d_model, d_model, bias=bias)
        self.k_proj = nn.Linear(d_model, d_model, bias=bias)
        self.v_proj = nn.Linear(d_model, d_model, bias=bias)
        self.out_proj = nn.Linear(d_model, d_model, bias=bias)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self,
        query: Tensor,
        key: Tensor | None = None,
        value: Tensor | None = None,
        mask: Tensor | None = None,
        need_weights: bool = False,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Let each position of query attend to the positions of key.

        Args:
            query: (B, L, M), of the parameters' dtype, whichever it is.
            key: (B, S, M); query when None.
            value: (B, S, M); key when None.
            mask: boolean, True where a query may attend: (L, S), (B, L, S), or
                anything that broadcasts to (B, H, L, S). Three axes are always
                (B, L, S), the same for all heads. A blocked key gets no
                weight, however far its score lies above the allowed ones.
            need_weights: whether the weights are wanted too.

        Returns:
            (B, L, M), or a pair of that and the weights of every head,
            (B, H, L, S): those by which the values were weighted, after
            dropout. A query with no allowed key has zero weights, so its
            output is the bias of out_proj, and all gradients stay finite. The
            inputs are left as they were.
        """
        key = query if key is None else key
        value = key if value is None else value
        q = split_heads(self.q_proj(query), self.num_heads)
        k = split_heads(self.k_proj(key), self.num_heads)
        v = split_heads(self.v_proj(value), self.num_heads)
        weights = self.dropout(_attention_weights(q, k, mask))
        out = self.out_proj(merge_heads(weights @ v))
        return (out, weights) if need_weights else out


def _head_size(d_model: int, num_heads: int) -> int:
    if d_model % num_heads:
        raise ValueError(f"d_model = {d_model} is not divisible by num_heads = {num_heads}")
    return d_model // num_heads


def _attention_weights(q: Tensor, k: Tensor, mask: Tensor | None) -> Tensor:
    """(B, H, L, S), before dropout."""
    scores = q @ k.mT * q.shape[-1] ** -0.5
    if mask is None:
        return scores.softmax(-1)
    if mask.ndim == 3:
        mask = mask[:, None]  # for all heads; broadcasting would take its B for H
    empty = ~mask.any(-1, keepdim=True)  # a softmax over nothing would be NaN: there, all are allowed first
    return scores.masked_fill(~(mask | empty), -math.inf).softmax(-1).masked_fill(empty, 0.0)
