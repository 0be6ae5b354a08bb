"""Decoder block.

A translation is written word by word. For the next word two things count: what
has been written so far, and what the source says, which an encoder has read
into a memory. So a decoder block has three sub-layers: self-attention that
cannot see the future, cross-attention from the target to the memory, and a
feed-forward network. A residual connection runs past each of them.

Write the block, in its pre-norm and its post-norm form, and the stack of
blocks. With the same parameters they compute what nn.TransformerDecoderLayer
and nn.TransformerDecoder compute when those are given a causal mask. nn.Linear,
nn.LayerNorm and F.scaled_dot_product_attention are there to be used.

B batch, L target length, S source length, H heads, M size of the model
(d_model).
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class DecoderBlock(nn.Module):
    """Causal self-attention, cross-attention, feed-forward, each with a residual connection and a norm.

    Attention is multi-head attention: the scores are divided by √(M / H), and
    head h takes the channels from h · M / H up to (h + 1) · M / H of q, k and
    v, and writes to the same channels of what goes into out_proj. In
    cross-attention the queries come from the target, keys and values from the
    memory. The feed-forward network is linear, ReLU, linear.

    Args:
        d_model: channels of a token, M.
        num_heads: heads of both attentions, H; divides d_model.
        d_hidden: channels between the two layers of the feed-forward network.
        dropout: with this probability, 0 <= dropout < 1, numbers are set to
            zero in training, each by itself, and the others divided by
            1 - dropout: attention weights, hidden channels, and what a
            sub-layer gives, before it is added to x. x itself is never
            dropped. In evaluation nothing is.
        norm_first: if true, a sub-layer turns x into x + sub_layer(norm(x)),
            pre-norm; if false, into norm(x + sub_layer(x)), post-norm.

    Attributes:
        self_attn, cross_attn: modules with q_proj, k_proj, v_proj and
            out_proj, each an nn.Linear from M to M channels.
        ff: a module with up and down, nn.Linear from M to d_hidden channels
            and back.
        norm1, norm2, norm3: nn.LayerNorm (eps 1e-5) of self-attention,
            cross-attention and feed-forward, in this order, which is also
            the order of the sub-layers. The memory is not normalised.

    All layers have biases, and there are no other parameters. Modules beyond
    these, and their types, are yours to choose.

    Source: Vaswani et al. 2017, "Attention Is All You Need", sections 3.1 to
    3.3 and 5.4; pre-norm: Xiong et al. 2020, "On Layer Normalization in the
    Transformer Architecture", section 3.

    >>> block = DecoderBlock(d_model=8, num_heads=2, d_hidden=16)
    >>> x, memory = torch.randn(1, 5, 8), torch.randn(1, 3, 8)
    >>> out = block(x, memory)
    >>> out.shape
    torch.Size([1, 5, 8])
    >>> torch.allclose(block(x[:, :2], memory), out[:, :2], atol=1e-5)  # the future changes nothing
    True
    """

    def __init__(self, d_model: int, num_heads: int, d_hidden: int, dropout: float = 0.0, norm_first: bool = True):
        super().__init__()
        self.norm_first = norm_first
        self.self_attn = _Attention(d_model, num_heads, dropout)
        self.cross_attn = _Attention(d_model, num_heads, dropout)
        self.ff = _FeedForward(d_model, d_hidden, dropout)
        self.norm1 = nn.LayerNorm(d_model, eps=1e-5)
        self.norm2 = nn.LayerNorm(d_model, eps=1e-5)
        self.norm3 = nn.LayerNorm(d_model, eps=1e-5)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, memory: Tensor, mask: Tensor | None = None, memory_mask: Tensor | None = None) -> Tensor:
        """Pass the target through the three sub-layers.

        Args:
            x: the target, (B, L, M), in the parameters' dtype, whichever it is.
            memory: what the encoder made of the source, (B, S, M); its numbers
                may be large, and so may the scores, on either side of zero.
            mask: for self-attention, boolean, True where a query may attend:
                (L, L), (B, L, L), or four axes that broadcast to
                (B, H, L, L). Three axes are always (B, L, L), the same for
                all heads. Self-attention is causal with and without a mask:
                a position attends where the mask allows it, but never to
                later positions.
            memory_mask: the same for cross-attention, with S keys in place of
                L. Without it every position attends to the whole memory.

        Returns:
            (B, L, M), same dtype. A key that is blocked has weight zero,
            whatever the scores of the others. A query with no allowed key has
            no weights but zeros, so that its attention gives the bias of
            out_proj alone, and all gradients stay finite. Gradients flow to
            x, memory and all parameters. The arguments are left as they were.
            L and S are any lengths from 1 up, and nothing is kept from one
            call to the next.
        """
        causal = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool, device=x.device).tril()
        allowed = causal if mask is None else causal & _with_heads(mask)
        seen = None if memory_mask is None else _with_heads(memory_mask)
        if self.norm_first:
            normed = self.norm1(x)
            x = x + self.dropout(self.self_attn(normed, normed, allowed))
            x = x + self.dropout(self.cross_attn(self.norm2(x), memory, seen))
            x = x + self.dropout(self.ff(self.norm3(x)))
        else:
            x = self.norm1(x + self.dropout(self.self_attn(x, x, allowed)))
            x = self.norm2(x + self.dropout(self.cross_attn(x, memory, seen)))
            x = self.norm3(x + self.dropout(self.ff(x)))
        return x


class Decoder(nn.Module):
    """A stack of decoder blocks, each with parameters of its own.

    Args:
        num_layers: blocks, at least 1.
        d_model, num_heads, d_hidden, dropout, norm_first: of every block.

    Attributes:
        layers: nn.ModuleList of the blocks.
        norm: nn.LayerNorm (eps 1e-5) over what the last block gives, only if
            norm_first. Post-norm blocks end in a norm: there the stack has
            no norm of its own.

    Source: Vaswani et al. 2017, "Attention Is All You Need", section 3.1; final
    norm: Xiong et al. 2020, "On Layer Normalization in the Transformer
    Architecture", section 3.

    >>> decoder = Decoder(num_layers=2, d_model=8, num_heads=2, d_hidden=16)
    >>> decoder(torch.randn(4, 5, 8), torch.randn(4, 3, 8)).shape
    torch.Size([4, 5, 8])
    """

    def __init__(self, num_layers: int, d_model: int, num_heads: int, d_hidden: int, dropout: float = 0.0, norm_first: bool = True):
        super().__init__()
        blocks = [DecoderBlock(d_model, num_heads, d_hidden, dropout, norm_first) for _ in range(num_layers)]
        self.layers = nn.ModuleList(blocks)
        self.norm = nn.LayerNorm(d_model, eps=1e-5) if norm_first else nn.Identity()

    def forward(self, x: Tensor, memory: Tensor, mask: Tensor | None = None, memory_mask: Tensor | None = None) -> Tensor:
        """Pass the target through all blocks; each attends to the same memory.

        Args:
            x: the target, (B, L, M).
            memory: (B, S, M).
            mask: as in DecoderBlock, the same for every block.
            memory_mask: as in DecoderBlock, the same for every block.

        Returns:
            (B, L, M); all that DecoderBlock promises holds here too.
        """
        for layer in self.layers:
            x = layer(x, memory, mask, memory_mask)
        return self.norm(x)


class _Attention(nn.Module):
    """Multi-head attention of x to a source, which may be x itself."""

    def __init__(self, d_model: int, num_heads: int, dropout: float):
        super().__init__()
        self.num_heads, self.dropout = num_heads, dropout
        self.q_proj = nn.Linear(d_model, d_model)
        self.k_proj = nn.Linear(d_model, d_model)
        self.v_proj = nn.Linear(d_model, d_model)
        self.out_proj = nn.Linear(d_model, d_model)

    def forward(self, x: Tensor, source: Tensor, allowed: Tensor | None) -> Tensor:
        projected = (self.q_proj(x), self.k_proj(source), self.v_proj(source))
        q, k, v = (t.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for t in projected)  # (B, H, length, D)
        dropped = self.dropout if self.training else 0.0
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=allowed, dropout_p=dropped)
        return self.out_proj(out.transpose(1, 2).flatten(2))


class _FeedForward(nn.Module):
    def __init__(self, d_model: int, d_hidden: int, dropout: float):
        super().__init__()
        self.up = nn.Linear(d_model, d_hidden)
        self.down = nn.Linear(d_hidden, d_model)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(self.dropout(F.relu(self.up(x))))


def _with_heads(mask: Tensor) -> Tensor:
    return mask[:, None] if mask.ndim == 3 else mask
