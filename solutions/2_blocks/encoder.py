"""Transformer encoder.

BERT reads a sentence with a stack of equal blocks. In each of them every token
first gathers from the others (self-attention), then thinks for itself
(feed-forward), and both times what was found is added to what was there: the
residual stream, on which gradients travel from the last block to the first.
Where the normalisation stands decides how deep such a stack can be trained.

Write one block, with the normalisation before or after each sub-layer, and
the stack. With the same parameters they give what nn.TransformerEncoderLayer
and nn.TransformerEncoder give.

B batch, H heads, L length, M size of the model (d_model), D = M / H size of a
head. F.scaled_dot_product_attention, nn.Linear and nn.LayerNorm are yours to
use; PyTorch's ready-made multi-head attention and encoder are not.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class _SelfAttention(nn.Module):
    def __init__(self, d_model: int, num_heads: int, dropout: float):
        super().__init__()
        self.num_heads, self.dropout = num_heads, dropout
        self.q_proj = nn.Linear(d_model, d_model)
        self.k_proj = nn.Linear(d_model, d_model)
        self.v_proj = nn.Linear(d_model, d_model)
        self.out_proj = nn.Linear(d_model, d_model)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        q = self._heads(self.q_proj(x))
        k = self._heads(self.k_proj(x))
        v = self._heads(self.v_proj(x))
        if mask is not None and mask.ndim == 3:
            mask = mask[:, None]  # for all heads; broadcasting would take its B for H
        dropout = self.dropout if self.training else 0.0
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout)
        return self.out_proj(out.transpose(1, 2).flatten(2))

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)  # (B, L, M) to (B, H, L, D)


class _FeedForward(nn.Module):
    def __init__(self, d_model: int, d_hidden: int, dropout: float):
        super().__init__()
        self.up = nn.Linear(d_model, d_hidden)
        self.down = nn.Linear(d_hidden, d_model)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(self.dropout(F.relu(self.up(x))))


class EncoderBlock(nn.Module):
    """Self-attention, then feed-forward, each with a residual connection and a LayerNorm.

    Pre-norm normalises what goes into a sub-layer and leaves the residual
    stream alone; post-norm, as in the paper, normalises each sum of the stream
    and what a sub-layer adds to it.

    Args:
        d_model: M.
        num_heads: H; divides d_model.
        d_hidden: channels between the two layers of the feed-forward.
        dropout: in training, numbers are dropped with this probability p, each
            by itself, and the others divided by 1 - p, in four places: among
            the attention weights, behind the ReLU, and in what each of the
            two sub-layers adds to the stream. In evaluation, or with 0,
            nothing is dropped.
        norm_first: pre-norm if true, post-norm if not.

    Attributes:
        self_attn: multi-head attention with its q_proj, k_proj, v_proj and
            out_proj, linear from M to M. Head h takes the channels from h * D
            up to (h + 1) * D of q, k and v, and writes to the same channels of
            what goes into out_proj; scores are divided by √D.
        norm1: LayerNorm of the attention, eps 1e-5.
        ff: up, linear from M to d_hidden, a ReLU, and down, linear from
            d_hidden to M.
        norm2: LayerNorm of the feed-forward, eps 1e-5.

        All of them have biases, and the block has no other parameters
        (`self_attn.q_proj.weight`, `ff.up.bias`, `norm1.weight`, ...).

    Source: Vaswani et al. 2017, "Attention Is All You Need", section 3.1;
    pre-norm: Xiong et al. 2020, "On Layer Normalization in the Transformer
    Architecture", section 3.

    >>> block = EncoderBlock(d_model=6, num_heads=2, d_hidden=12)
    >>> block(torch.zeros(1, 4, 6), mask=torch.ones(4, 4).tril().bool()).shape
    torch.Size([1, 4, 6])
    """

    def __init__(self, d_model: int, num_heads: int, d_hidden: int, dropout: float = 0.0, norm_first: bool = True):
        super().__init__()
        self.norm_first = norm_first
        self.self_attn = _SelfAttention(d_model, num_heads, dropout)
        self.norm1 = nn.LayerNorm(d_model)
        self.ff = _FeedForward(d_model, d_hidden, dropout)
        self.norm2 = nn.LayerNorm(d_model)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Let the tokens attend to one another, and pass each through the feed-forward.

        Args:
            x: (B, L, M), of the parameters' dtype; left as it was.
            mask: boolean, True where a token may attend: (L, L), (B, L, L), or
                four axes that broadcast to (B, H, L, L). Three axes are always
                (B, L, L), the same for all heads.

        Returns:
            (B, L, M). For a token that may attend to nothing all attention
            weights are zero, so that attention gives it the bias of out_proj,
            and all gradients stay finite.
        """
        if self.norm_first:
            x = x + self.dropout(self.self_attn(self.norm1(x), mask))
            return x + self.dropout(self.ff(self.norm2(x)))
        x = self.norm1(x + self.dropout(self.self_attn(x, mask)))
        return self.norm2(x + self.dropout(self.ff(x)))


class Encoder(nn.Module):
    """A stack of blocks, each with parameters of its own.

    Args:
        num_layers: blocks, at least 1.
        d_model, num_heads, d_hidden, dropout, norm_first: of every block.

    Attributes:
        layers: nn.ModuleList of the blocks, in the order in which they work.
        norm: with pre-norm only, a LayerNorm (eps 1e-5) of what leaves the
            last block: nothing else has normalised the stream. With post-norm
            there are no parameters of that name.

        There are no other parameters (`layers.0.ff.up.weight`, ...,
        `norm.weight`, `norm.bias`).

    Source: Vaswani et al. 2017, "Attention Is All You Need", section 3.1;
    the final norm: Xiong et al. 2020, "On Layer Normalization in the
    Transformer Architecture", table 1.

    >>> encoder = Encoder(num_layers=2, d_model=6, num_heads=2, d_hidden=12)
    >>> encoder(torch.zeros(1, 4, 6)).shape, encoder.norm.weight.shape
    (torch.Size([1, 4, 6]), torch.Size([6]))
    """

    def __init__(
        self,
        num_layers: int,
        d_model: int,
        num_heads: int,
        d_hidden: int,
        dropout: float = 0.0,
        norm_first: bool = True,
    ):
        super().__init__()
        self.layers = nn.ModuleList(EncoderBlock(d_model, num_heads, d_hidden, dropout, norm_first) for _ in range(num_layers))
        self.norm = nn.LayerNorm(d_model) if norm_first else None

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Pass x through all blocks.

        Args:
            x: (B, L, M), of the parameters' dtype; left as it was.
            mask: as in EncoderBlock; it holds in every block.

        Returns:
            (B, L, M).
        """
        for layer in self.layers:
            x = layer(x, mask)
        return x if self.norm is None else self.norm(x)
