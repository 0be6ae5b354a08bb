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
        super().__init__()
        self.token_embedding = nn.Embedding(vocab_size, d_model)
        self.position_embedding = nn.Embedding(max_len, d_model)
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(_Block(d_model, num_heads, dropout) for _ in range(num_layers))
        self.final_norm = nn.LayerNorm(d_model)
        self.lm_head = nn.Linear(d_model, vocab_size, bias=False)
        self.lm_head.weight = self.token_embedding.weight
        for name, parameter in self.named_parameters():
            if parameter.ndim == 2:
                residual = name.endswith(("out_proj.weight", "down.weight"))
                nn.init.normal_(parameter, std=0.02 / (2 * num_layers) ** 0.5 if residual else 0.02)
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)

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
        length, max_len = ids.shape[1], self.position_embedding.num_embeddings
        if length > max_len:
            raise ValueError(f"{length} tokens, but there are positions for {max_len}")
        position = torch.arange(length, device=ids.device)
        x = self.dropout(self.token_embedding(ids) + self.position_embedding(position))
        for block in self.blocks:
            x = block(x)
        logits = self.lm_head(self.final_norm(x))
        if targets is None:
            return logits
        return logits, F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=-100)


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
    return sum(parameter.numel() for parameter in model.parameters())


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
    was_training = model.training
    max_len = model.position_embedding.num_embeddings
    model.eval()
    with torch.no_grad():
        for _ in range(max_new):
            logits = model(ids[:, -max_len:])
            ids = torch.cat([ids, logits[:, -1:].argmax(-1)], dim=1)
    model.train(was_training)
    return ids


class _Block(nn.Module):
    """Pre-norm: attention and feed-forward."""

    def __init__(self, d_model: int, num_heads: int, dropout: float):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(d_model), nn.LayerNorm(d_model)
        self.attn, self.ff = _CausalSelfAttention(d_model, num_heads, dropout), _FeedForward(d_model)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.dropout(self.attn(self.norm1(x)))
        return x + self.dropout(self.ff(self.norm2(x)))


class _CausalSelfAttention(nn.Module):
    def __init__(self, d_model: int, num_heads: int, dropout: float):
        super().__init__()
        self.num_heads, self.dropout = num_heads, dropout
        self.q_proj, self.k_proj = nn.Linear(d_model, d_model), nn.Linear(d_model, d_model)
        self.v_proj, self.out_proj = nn.Linear(d_model, d_model), nn.Linear(d_model, d_model)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (p(x).unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for p in (self.q_proj, self.k_proj, self.v_proj))
        dropout = self.dropout if self.training else 0.0  # a function does not know in which mode we are
        out = F.scaled_dot_product_attention(q, k, v, dropout_p=dropout, is_causal=True)  # (B, H, L, D)
        return self.out_proj(out.transpose(1, 2).flatten(2))


class _FeedForward(nn.Module):
    def __init__(self, d_model: int):
        super().__init__()
        self.up, self.down = nn.Linear(d_model, 4 * d_model), nn.Linear(4 * d_model, d_model)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(F.gelu(self.up(x), approximate="tanh"))
