"""The softmax as the exponential of x less its log-sum, a slice of nothing set aside first; keys and queries share the scale."""

import torch as th


def softmax(x, dim):
    nothing = th.isneginf(x).all(dim, keepdim=True)
    filled = th.where(nothing, 0.0, x if x.itemsize > 2 else x.float())
    normaliser = th.logsumexp(filled, dim=dim, keepdim=True)
    return th.exp(th.where(nothing, -th.inf, filled - normaliser)).to(x.dtype)


def attention_weights(q, k, mask=None):
    root = q.size(-1) ** 0.25
    scores = th.einsum("...ld,...sd->...ls", q / root, k / root)
    if mask is not None:
        scores = scores + th.zeros(mask.shape, dtype=scores.dtype).masked_fill_(th.logical_not(mask), float("-inf"))
    return softmax(scores, -1)


def scaled_dot_product_attention(q, k, v, mask=None):
    return th.matmul(attention_weights(q, k, mask), v)
