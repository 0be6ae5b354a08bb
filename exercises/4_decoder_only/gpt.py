"""GPT.

A language model reads text and says, at each position, what comes next. One
causal stack is enough: every position predicts the token that follows it, all
of them in one pass, and what has been learnt writes text, one token at a time.

Write GPT-2: the model with its initialisation and its loss, how many
parameters it has, and the loop that generates. With the same weights it is
equal to the published one. `make train` then trains it on a book.

nn.Linear, nn.LayerNorm, nn.Embedding, F.gelu and F.scaled_dot_product_attention
are there to be used; PyTorch's ready-made multi-head attention, blocks and
Transformer are not.

B batch, L length, H heads, M size of the model (d_model), D = M / H head size,
V size of the vocabulary, N layers.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class GPT(nn.Module):
    """A decoder-only Transformer, from token ids to logits.

    The embedding of each token and the embedding of its position, 0 for the
    first, are added, as they are. N blocks follow, each of them pre-norm:

        x = x + attention(norm1(x))
        x = x + feed-forward(norm2(x))

    then a last norm, and the head.

    Attention is causal and scaled by 1/√D. Head h takes the channels from h·D
    up to (h + 1)·D of q, k and v, and writes to the same channels of what goes
    into out_proj. The feed-forward network goes from M to 4M channels and
    back, with GELU in its tanh form in between. Norms are LayerNorms with eps
    1e-5.

    Args:
        vocab_size: ids are below this, V.
        max_len: as many positions have an embedding.
        d_model: M.
        num_layers: N.
        num_heads: H; divides d_model.
        dropout: in training, numbers are dropped with this probability from
            the sum of the embeddings, and from what each attention and each
            feed-forward network adds to x, and those that are kept are
            divided by 1 - dropout; whether attention weights are dropped too
            is yours to choose (GPT-2 does). In evaluation none are.

    Attributes:
        token_embedding: `weight` (V, M).
        position_embedding: `weight` (max_len, M).
        blocks: in order, each with
            norm1, norm2: `weight` (M,) and `bias` (M,);
            attn: q_proj, k_proj, v_proj, out_proj, linear layers from M to
                M channels, `weight` (M, M) and `bias` (M,);
            ff: up and down, linear layers, `weight` (4M, M) and (M, 4M),
                with `bias`.
        final_norm: `weight` (M,) and `bias` (M,).
        lm_head: `weight` (V, M), no bias. It is the same Parameter as
            token_embedding.weight: one tensor, found under two names.

    There are no other parameters. They begin like this: all matrices, tables
    included, are drawn from N(0, 0.02²), but out_proj and down, which write to
    the residual stream, from N(0, 0.02² / 2N); biases are 0, the norms'
    weights 1.

    Source: Radford et al. 2019, "Language Models are Unsupervised Multitask
    Learners", section 2.3; Hendrycks & Gimpel 2016, "Gaussian Error Linear
    Units", section 2; Press & Wolf 2017, "Using the Output Embedding to Improve
    Language Models", section 3.

    >>> model = GPT(vocab_size=11, max_len=8, d_model=12, num_layers=2, num_heads=3)
    >>> model(torch.tensor([[3, 1, 4, 1], [5, 9, 2, 6]])).shape
    torch.Size([2, 4, 11])
    >>> model.lm_head.weight is model.token_embedding.weight
    True
    """

    def __init__(self, vocab_size: int, max_len: int, d_model: int, num_layers: int, num_heads: int, dropout: float = 0.0):
        # TODO: make the parameters and whatever else it takes.
        raise NotImplementedError

    def forward(self, ids: Tensor, targets: Tensor | None = None) -> Tensor | tuple[Tensor, Tensor]:
        """Predict at each position the token that follows it.

        Args:
            ids: (B, L) integers, L at most max_len.
            targets: (B, L) integers: what is to be predicted at each position,
                so targets[b, t] is the token after ids[b, t]. The caller has
                shifted them; nothing is shifted here. -100 stands where
                nothing is to be predicted.

        Returns:
            Logits (B, L, V), those at position t from tokens 0 to t. With
            targets (logits, loss): the logits of all positions, and the
            cross-entropy, a single number, its mean over all targets that are
            not -100. There is at least one.

        Raises:
            ValueError: L is above max_len.
        """
        # TODO: write it as described above.
        raise NotImplementedError


def num_parameters(model: nn.Module) -> int:
    """How many numbers are learnt.

    Args:
        model: any module.

    Returns:
        The elements of all its parameters, frozen ones included, buffers not.
        A parameter that is used in several places counts once.

    Source: Radford et al. 2019, table 2, for GPT-2's sizes (its smallest model
    has 124 million, not the 117 that stand there).

    >>> tied = nn.Sequential(nn.Embedding(10, 4), nn.Linear(4, 10))
    >>> tied[1].weight = tied[0].weight
    >>> num_parameters(tied)
    50
    """
    # TODO: write it as described above.
    raise NotImplementedError


def generate(model: GPT, ids: Tensor, max_new: int) -> Tensor:
    """Continue each row by its likeliest next token, max_new times.

    Args:
        model: a GPT. While it generates it is in evaluation mode; afterwards
            it is in the mode, training or evaluation, in which it came.
        ids: (B, L) int64, L ≥ 1; L may be above max_len. Left as they are.
        max_new: tokens to add to each row, 0 or more.

    Returns:
        (B, L + max_new) int64: the rows, whole, and what follows them.
        Each new token is the arg max of the logits at the last position, when
        the model is given the last max_len tokens so far, or all if they are
        fewer. Nothing is kept for a backward pass.

    Source: Radford et al. 2019, section 3.

    >>> model = GPT(vocab_size=11, max_len=4, d_model=12, num_layers=1, num_heads=3)
    >>> generate(model, torch.tensor([[3, 1, 4], [1, 5, 9]]), max_new=5).shape
    torch.Size([2, 8])
    """
    # TODO: write it as described above.
    raise NotImplementedError
