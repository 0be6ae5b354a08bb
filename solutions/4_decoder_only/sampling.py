"""Sampling.

A language model gives a number for each token of its vocabulary; somebody has
to pick one. The likeliest each time makes for dull, looping text, and plain
draws stumble sooner or later into the long tail of tokens that make no sense.
Write what every inference server has in between: the filters top-k, top-p and
min-p, the repetition penalty, the distribution that a user's settings come
to, and the draw.

V size of the vocabulary; `...` stands for any number of leading axes, none
included, and each row, along the last axis, is treated by itself. Logits are
float32 or float64. An entry of them may be -inf, a token that is ruled out
already, but no row is -inf throughout.

A filter gives back logits: -inf where a token is removed, as they were where
it is kept. What came as -inf stays so. No function changes its arguments.
"""

import torch
from torch import Generator, Tensor


def top_k_filter(logits: Tensor, k: int) -> Tensor:
    """Keep the k largest logits of each row, and those that equal the k-th.

    Args:
        logits: (..., V).
        k: at least 1; V or more keeps all.

    Returns:
        (..., V), dtype of logits.

    Raises:
        ValueError: k is below 1.

    Source: Fan et al. 2018, "Hierarchical Neural Story Generation",
    section 5.4.

    >>> top_k_filter(torch.tensor([1.0, 4.0, 2.0, 3.0]), k=2)
    tensor([-inf, 4., -inf, 3.])
    """
    if k < 1:
        raise ValueError(f"k is {k}, but at least 1 token has to be kept")
    kth = logits.topk(min(k, logits.shape[-1])).values[..., -1:]
    return logits.masked_fill(logits < kth, -torch.inf)


def top_p_filter(logits: Tensor, p: float) -> Tensor:
    """Keep the smallest set of the likeliest tokens whose probabilities together reach p.

    Probabilities are the softmax of the row. Going down from the likeliest,
    the token with which the sum reaches p is the last that is kept; so at
    least one always is. Of equally likely tokens it is free which come first;
    so is, where a sum equals p up to rounding, whether it has reached it.

    Args:
        logits: (..., V).
        p: above 0, at most 1.

    Returns:
        (..., V), dtype of logits.

    Raises:
        ValueError: p is not above 0 and at most 1.

    Source: Holtzman et al. 2020, "The Curious Case of Neural Text
    Degeneration", section 3.1.

    >>> top_p_filter(torch.tensor([0.15, 0.5, 0.05, 0.3]).log(), p=0.6).exp()
    tensor([0.0000, 0.5000, 0.0000, 0.3000])
    """
    if not 0 < p <= 1:
        raise ValueError(f"p is {p}, but has to be above 0 and at most 1")
    sorted_logits, order = logits.sort(descending=True)
    probs = sorted_logits.softmax(-1)
    likelier = probs.cumsum(-1) - probs  # the mass of those before: the crossing token still finds less than p
    removed = torch.empty_like(order, dtype=torch.bool).scatter(-1, order, likelier >= p)
    return logits.masked_fill(removed, -torch.inf)


def min_p_filter(logits: Tensor, p: float) -> Tensor:
    """Keep the tokens whose probability is at least p times that of the likeliest.

    Args:
        logits: (..., V).
        p: from 0, which keeps all, to 1, which keeps the likeliest.

    Returns:
        (..., V), dtype of logits.

    Raises:
        ValueError: p is not from 0 to 1.

    Source: Nguyen et al. 2024, "Turning Up the Heat: Min-p Sampling for
    Creative and Coherent LLM Outputs", section 3.

    >>> min_p_filter(torch.tensor([0.15, 0.5, 0.05, 0.3]).log(), p=0.2).exp()
    tensor([0.1500, 0.5000, 0.0000, 0.3000])
    """
    if not 0 <= p <= 1:
        raise ValueError(f"p is {p}, but has to be from 0 to 1")
    probs = logits.softmax(-1)
    return logits.masked_fill(probs < p * probs.amax(-1, keepdim=True), -torch.inf)


def repetition_penalty(logits: Tensor, ids: Tensor, penalty: float) -> Tensor:
    """Make the tokens that a row has already produced less likely.

    The logit of each token among the row's ids is divided by the penalty if
    it is positive and multiplied by it if it is negative: once, however often
    the token occurs. All others stay as they are.

    Args:
        logits: (B, V).
        ids: what each row has produced so far, (B, L); L may be 0.
        penalty: above 0; 1 changes nothing, less than 1 rewards repetition.

    Returns:
        (B, V), dtype of logits.

    Raises:
        ValueError: the penalty is not above 0.

    Source: Keskar et al. 2019, "CTRL: A Conditional Transformer Language
    Model for Controllable Generation", section 4.1; the multiplication of
    negative logits is common practice.

    >>> repetition_penalty(torch.tensor([[3.0, -1.0, 2.0]]), torch.tensor([[0, 1, 0]]), penalty=2.0)
    tensor([[ 1.5000, -2.0000,  2.0000]])
    """
    if not penalty > 0:
        raise ValueError(f"the penalty is {penalty}, but has to be above 0")
    seen = torch.zeros_like(logits, dtype=torch.bool).scatter(-1, ids, True)
    penalised = torch.where(logits > 0, logits / penalty, logits * penalty)
    return torch.where(seen, penalised, logits)


def distribution(
    logits: Tensor,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    min_p: float | None = None,
) -> Tensor:
    """The probabilities that the next token is drawn from.

    First the logits are divided by the temperature, then come top-k, top-p
    and min-p, each on what the one before has left, and last the softmax.
    A filter that is None is left out.

    Args:
        logits: (..., V).
        temperature: at least 0; at 0 the token with the largest logit, the
            only largest one, has probability 1.
        top_k, top_p, min_p: as the filters take them. 0 does not mean None.

    Returns:
        Probabilities, (..., V), dtype of logits; exactly 0 for what is
        removed.

    Raises:
        ValueError: the temperature is below 0, or a filter refuses its
            argument.

    Source: Holtzman et al. 2020, "The Curious Case of Neural Text
    Degeneration", sections 3.1 to 3.3.

    >>> distribution(torch.tensor([0.1, 0.6, 0.3]).log(), temperature=0.5, top_k=2)
    tensor([0.0000, 0.8000, 0.2000])
    """
    if not temperature >= 0:
        raise ValueError(f"the temperature is {temperature}, but has to be at least 0")
    if temperature == 0:
        return torch.zeros_like(logits).scatter(-1, logits.argmax(-1, keepdim=True), 1.0)
    logits = logits / temperature
    if top_k is not None:
        logits = top_k_filter(logits, top_k)
    if top_p is not None:
        logits = top_p_filter(logits, top_p)
    if min_p is not None:
        logits = min_p_filter(logits, min_p)
    return logits.softmax(-1)


def sample(
    logits: Tensor,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    min_p: float | None = None,
    generator: Generator | None = None,
) -> Tensor:
    """Draw a token for each row from its `distribution`, independently of the other rows.

    Args:
        logits: (B, V).
        temperature, top_k, top_p, min_p: as `distribution` takes them.
        generator: the one source of randomness: the same state gives the same
            tokens, and each draw moves it on. PyTorch's global generator is
            neither used nor changed, unless this is None.

    Returns:
        Ids, (B,), int64.

    Raises:
        ValueError: `distribution` refuses an argument.

    Source: Holtzman et al. 2020, "The Curious Case of Neural Text
    Degeneration", section 3.

    >>> sample(torch.tensor([[2.0, 1.0, 5.0], [4.0, 3.0, 1.0]]), top_k=1)
    tensor([2, 0])
    """
    probs = distribution(logits, temperature, top_k, top_p, min_p)
    return probs.multinomial(1, generator=generator).squeeze(-1)
