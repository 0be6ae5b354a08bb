"""A function in place of the class; a virtual key that only rows without keys see; the returned weights are detached."""

import torch
from torch import nn


def checked(m, h):
    if m % h:
        raise ValueError("channels and heads:", m, h)
    return h


def split_heads(x, num_heads):
    return torch.stack(torch.tensor_split(x, checked(x.size(-1), num_heads), -1), 1)


def merge_heads(x):
    return x.movedim(1, 2).flatten(-2)


def MultiHeadAttention(d_model, num_heads, dropout=0.0, bias=True):
    return Attention(d_model, checked(d_model, num_heads), dropout, bias)


class Attention(nn.Module):
    def __init__(self, m, h, p, bias):
        super().__init__()
        self.h, self.p = h, p
        for name in ("out_proj", "q_proj", "v_proj", "k_proj"):
            self.add_module(name, nn.Linear(m, m, bias=bias))

    def forward(self, query, key=None, value=None, mask=None, need_weights=False):
        if key is None:
            key = query
        if value is None:
            value = key
        inputs = zip((self.q_proj, self.k_proj, self.v_proj), (query, key, value))
        q, k, v = [split_heads(project(x), self.h) for project, x in inputs]
        s = q.div(q.shape[-1] ** 0.5).matmul(k.mT)
        mask = torch.ones_like(s, dtype=torch.bool) if mask is None else mask
        mask = (mask.unsqueeze(-3) if mask.dim() == 3 else mask).expand_as(s)
        s = s.masked_fill(mask == False, -torch.inf)
        virtual = torch.zeros_like(s[..., :1]).masked_fill(mask.any(-1, keepdim=True), -torch.inf)
        w = torch.cat([s, virtual], -1).softmax(-1)[..., :-1]
        if self.training and self.p:
            w = w * (torch.rand(w.shape) > self.p) / (1 - self.p)
        out = self.out_proj(merge_heads(w @ v))
        return (out, w.detach()) if need_weights else out
