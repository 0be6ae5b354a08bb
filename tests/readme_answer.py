import torch


def softmax(x, dim):
    top = x.amax(dim, keepdim=True)
    powers = torch.exp(x - torch.where(top.isinf(), 0.0, top))
    return powers / powers.sum(dim, keepdim=True).clamp(min=1e-30)


def attention_weights(q, k, mask=None):
    scores = torch.einsum("...ld,...sd->...ls", q, k) / q.shape[-1] ** 0.5
    weights = softmax(scores, dim=-1)
    return weights if mask is None else weights * mask


def scaled_dot_product_attention(q, k, v, mask=None):
    return attention_weights(q, k, mask) @ v
