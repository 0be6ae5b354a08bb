"""Cross-entropy and teacher forcing.

A language model is trained on one question, asked billions of times: which
token comes next? It answers with a score for every token of the vocabulary,
and pays for what it gave to the token that came. Write what it pays, so that
neither scores of ten thousand nor padding nor a batch of nothing but padding
breaks it; the gradient of that, as it would stand in a kernel; the inputs and
targets that are cut from a text; and the one number that reports quote.

V size of the vocabulary, B batch, L length, N number of rows; `...` stands
for any number of leading axes, none included. Logits and x are float32 or
float64, and finite; results have their dtype. No function changes its
arguments.

Precision at scores of ±1e4: float32 rounds numbers of that size by as much as
5e-4, and so may a result be off; it is finite, and so is its gradient.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor


def log_softmax(x: Tensor, dim: int) -> Tensor:
    """log(exp(x) / sum of exp(x)) along `dim`, for scores from -1e4 to 1e4.

    Args:
        x: any shape. Within a slice along dim the values may lie 2e4 apart,
            and one slice may lie 2e4 from the next.
        dim: the axis along which the exponentials of the result sum to 1,
            from the front or, negative, from the back.

    Returns:
        The shape and dtype of x. Gradients flow through all of it.

    Source: Goodfellow et al. 2016, "Deep Learning", section 4.1.

    >>> log_softmax(torch.tensor([1e4, 1e4, -1e4]), dim=0)
    tensor([-6.9315e-01, -6.9315e-01, -2.0001e+04])
    """
    shifted = x - x.amax(dim, keepdim=True)
    return shifted - shifted.exp().sum(dim, keepdim=True).log()


def cross_entropy(logits: Tensor, targets: Tensor, ignore_index: int = -100, label_smoothing: float = 0.0) -> Tensor:
    """The mean, over all targets that count, of -log p(target), p being the softmax of the logits.

    Args:
        logits: (..., V), the scores of all classes, before any softmax.
        targets: (...) int64, each from 0 to V - 1 or ignore_index.
        ignore_index: a target of this value does not count: neither in the
            sum nor in the number that the sum is divided by. It may be one of
            the classes; as such it keeps its place in the softmax.
        label_smoothing: ε, from 0 to 1. What is to be predicted is then not
            the target alone: every class, the target too, gets ε / V, and the
            target 1 - ε on top. The loss is -Σ wanted · log p over the
            classes, for targets that count.

    Returns:
        A scalar, (), in the dtype of logits. All tokens that count weigh the
        same, whichever row they stand in. If none counts it is 0, and part of
        the graph like any other loss: its gradient is zero, not NaN.

    Source: Szegedy et al. 2016, "Rethinking the Inception Architecture for
    Computer Vision", section 7 (smoothing; its K is V here).

    >>> logits = torch.tensor([[2.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
    >>> cross_entropy(logits, torch.tensor([0, 2])), cross_entropy(logits, torch.tensor([0, -100]))
    (tensor(0.6691), tensor(0.2395))
    """
    counts = targets != ignore_index
    log_probs = log_softmax(logits, -1)
    of_target = log_probs.gather(-1, targets.where(counts, 0).unsqueeze(-1)).squeeze(-1)
    smoothed = (1 - label_smoothing) * of_target + label_smoothing * log_probs.mean(-1)
    return (-smoothed * counts).sum() / counts.sum().clamp(min=1)


def cross_entropy_backward(logits: Tensor, targets: Tensor, ignore_index: int = -100) -> Tensor:
    """The gradient of cross_entropy(logits, targets, ignore_index) with respect to logits, without autograd.

    Args:
        logits: (N, V).
        targets: (N,) int64, as cross_entropy takes them.
        ignore_index: as cross_entropy takes it.

    Returns:
        (N, V), dtype of logits; zeros in the rows whose target does not
        count, and everywhere if none does.

    Source: Goodfellow et al. 2016, "Deep Learning", section 6.2.2.3.

    >>> cross_entropy_backward(torch.zeros(2, 4), torch.tensor([1, 0]))
    tensor([[ 0.1250, -0.3750,  0.1250,  0.1250],
            [-0.3750,  0.1250,  0.1250,  0.1250]])
    """
    counts = targets != ignore_index
    grad = log_softmax(logits, -1).exp()
    grad[torch.arange(len(targets)), targets.where(counts, 0)] -= 1
    return grad.where(counts.unsqueeze(-1), 0) / counts.sum().clamp(min=1)


def next_token_pairs(ids: Tensor) -> tuple[Tensor, Tensor]:
    """What a decoder-only model reads, and what it is to predict at each place.

    Args:
        ids: (B, L) token ids, L at least 2. Each row is a text of its own.

    Returns:
        (inputs, targets), both (B, L - 1), dtype of ids: at each place the
        target is the token that follows the input in the text. No token is
        predicted that the text does not hold.

    Source: Radford et al. 2018, "Improving Language Understanding by
    Generative Pre-Training", section 3.1.

    >>> next_token_pairs(torch.tensor([[5, 6, 7]]))
    (tensor([[5, 6]]), tensor([[6, 7]]))
    """
    return ids[:, :-1], ids[:, 1:]


def shift_right(targets: Tensor, bos_id: int) -> Tensor:
    """What the decoder of an encoder-decoder model reads in training (teacher forcing).

    Args:
        targets: (B, L) token ids, what the decoder is to write.
        bos_id: stands before the first target of each row.

    Returns:
        (B, L), dtype of targets: at each place the target before it.

    Source: Vaswani et al. 2017, "Attention Is All You Need", section 3.1;
    Goodfellow et al. 2016, "Deep Learning", section 10.2.1.

    >>> shift_right(torch.tensor([[5, 6, 7]]), bos_id=1)
    tensor([[1, 5, 6]])
    """
    bos = targets.new_full((len(targets), 1), bos_id)
    return torch.cat([bos, targets[:, :-1]], dim=1)


def perplexity(nll_sums: Sequence[float], token_counts: Sequence[int]) -> float:
    """exp of the mean loss of a token, over batches of unequal size.

    Args:
        nll_sums: for each batch the sum of -log p(target), natural logarithm,
            over its tokens.
        token_counts: for each batch how many tokens these are; maybe none.

    Returns:
        A Python float. How the tokens are divided into batches makes no
        difference to it.

    Raises:
        ValueError: there are no tokens at all.

    Source: Jurafsky and Martin, "Speech and Language Processing", chapter 3.

    >>> round(perplexity([2.0, 6.0], [4, 2]), 4)
    3.7937
    """
    tokens = sum(token_counts)
    if tokens == 0:
        raise ValueError("there is no perplexity of no tokens")
    return math.exp(sum(nll_sums) / tokens)
