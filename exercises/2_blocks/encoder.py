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
        # TODO: make the parameters and whatever else it takes.
        raise NotImplementedError

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
        # TODO: write it as described above.
        raise NotImplementedError


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
        # TODO: make the parameters and whatever else it takes.
        raise NotImplementedError

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Pass x through all blocks.

        Args:
            x: (B, L, M), of the parameters' dtype; left as it was.
            mask: as in EncoderBlock; it holds in every block.

        Returns:
            (B, L, M).
        """
        # TODO: write it as described above.
        raise NotImplementedError
