"""The smallest number of the dtype instead of -inf, and rows without keys filled with zero at the end."""

import math

import torch
import torch.nn.functional as F


def softmax(x: torch.Tensor, dim: int) -> torch.Tensor:
    x = torch.clamp(x, min=torch.finfo(x.dtype).min)
    nothing = (x == torch.finfo(x.dtype).min).all(dim=dim, keepdim=True)
    shifted = x - x.max(dim=dim, keepdim=True).values
    powers = shifted.exp()
    return (powers / powers.sum(dim=dim, keepdim=True)).masked_fill(nothing, 0)


def attention_weights(q, k, mask=None):
    d = q.shape[-1]
    q, k = q / math.sqrt(math.sqrt(d)), k / math.sqrt(math.sqrt(d))
    scores = torch.matmul(q, k.transpose(-2, -1))
    if mask is not None:
        scores = scores.masked_fill(torch.logical_not(mask), torch.finfo(scores.dtype).min)
        weights = softmax(scores, dim=-1)
        return weights.masked_fill(torch.logical_not(mask.any(dim=-1, keepdim=True)), 0.0)
    return softmax(scores, dim=-1)


def scaled_dot_product_attention(q, k, v, mask=None):
    weights = attention_weights(q, k, mask)
    return torch.matmul(weights, v)


if __name__ == "__main__":
    q = torch.randn(2, 3, 4)
    torch.testing.assert_close(scaled_dot_product_attention(q, q, q), F.scaled_dot_product_attention(q, q, q))
