"""Views and einsum; the softmax by hand; -inf rows made harmless before the exponential."""

import torch
import torch.nn as nn


def split_heads(x, num_heads):
    b, l, m = x.shape
    if m % num_heads != 0:
        raise ValueError(f"cannot split {m} channels into {num_heads} heads")
    return torch.einsum("blhd->bhld", x.reshape(b, l, num_heads, m // num_heads))


def merge_heads(x):
    b, h, l, d = x.size()
    return x.permute(0, 2, 1, 3).contiguous().view(b, l, h * d)


class MultiHeadAttention(nn.Module):
    def __init__(self, d_model, num_heads, dropout=0.0, bias=True):
        super().__init__()
        if d_model % num_heads != 0:
            raise ValueError("d_model (%d) must be a multiple of num_heads (%d)" % (d_model, num_heads))
        self.h = num_heads
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            setattr(self, name, nn.Linear(d_model, d_model, bias))
        self.drop = nn.Dropout(p=dropout)

    def forward(self, query, key=None, value=None, mask=None, need_weights=False):
        if key is None:
            key = query
        if value is None:
            value = key
        q, k, v = (split_heads(p(t), self.h) for p, t in ((self.q_proj, query), (self.k_proj, key), (self.v_proj, value)))
        scores = torch.einsum("bhld,bhsd->bhls", q, k) / q.size(-1) ** 0.5
        if mask is not None:
            if mask.dim() == 3:
                mask = mask.unsqueeze(1)
            scores = scores.masked_fill(~mask, float("-inf"))
        top = scores.amax(-1, keepdim=True).detach()
        top = torch.where(torch.isinf(top), torch.zeros_like(top), top)
        powers = torch.exp(scores - top)
        total = powers.sum(-1, keepdim=True)
        weights = self.drop(powers / torch.where(total == 0, torch.ones_like(total), total))
        out = self.out_proj(merge_heads(torch.einsum("bhls,bhsd->bhld", weights, v)))
        if need_weights:
            return out, weights
        return out
