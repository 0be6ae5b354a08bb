"""One function does all; low precision is widened to float32; rows without keys are multiplied away."""

import torch


def softmax(x, dim):
    wide = x if x.dtype == torch.float64 else x.to(torch.float32)
    m, _ = torch.max(wide, dim=dim, keepdim=True)
    m = torch.where(torch.isinf(m), torch.zeros_like(m), m)
    e = torch.exp(wide - m)
    s = torch.sum(e, dim=dim, keepdim=True)
    return torch.where(s > 0, e / torch.clamp(s, min=1e-30), torch.zeros_like(e)).to(x.dtype)


def attention_weights(q, k, mask=None):
    dtype = q.dtype
    if dtype != torch.float64:
        q, k = q.float(), k.float()
    scores = torch.einsum("...ld,...sd->...ls", q, k) / q.size(-1) ** 0.5
    if mask is None:
        return softmax(scores, -1).to(dtype)
    scores = torch.where(mask, scores, torch.tensor(-1e9, dtype=scores.dtype))
    return (softmax(scores, -1) * mask).to(dtype)


def scaled_dot_product_attention(q, k, v, mask=None):
    return torch.einsum("...ls,...sd->...ld", attention_weights(q, k, mask), v)
