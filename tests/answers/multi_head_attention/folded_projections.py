"""No splitting in forward: scores by a bilinear form of each head, outputs by the product of its v_proj and out_proj."""

import torch
from torch import nn


def split_heads(x, num_heads):
    B, L, M = x.shape
    if M % num_heads:
        raise ValueError("M=%d, H=%d" % (M, num_heads))
    D = M // num_heads
    channel = torch.arange(M).view(num_heads, 1, D).expand(-1, L, -1)
    return x.unsqueeze(1).expand(-1, num_heads, -1, -1).gather(3, channel.expand(B, -1, -1, -1))


def merge_heads(x):
    return torch.cat(x.unbind(1), 2)


class MultiHeadAttention(nn.Module):
    def __init__(self, d_model, num_heads, dropout=0.0, bias=True):
        if d_model % num_heads:
            raise ValueError("M=%d, H=%d" % (d_model, num_heads))
        nn.Module.__init__(self)
        self.H, self.D = num_heads, d_model // num_heads
        self.q_proj = nn.Linear(d_model, d_model, bias)
        self.k_proj = nn.Linear(d_model, d_model, bias)
        self.v_proj = nn.Linear(d_model, d_model, bias)
        self.out_proj = nn.Linear(d_model, d_model, bias)
        self.dropout = nn.Dropout(dropout)

    def weights(self, query, key, mask):
        ones = query.new_ones(*query.shape[:2], 1), key.new_ones(*key.shape[:2], 1)
        query, key = torch.cat([query, ones[0]], -1), torch.cat([key, ones[1]], -1)  # the bias as one more channel
        a, b = self.with_bias(self.q_proj), self.with_bias(self.k_proj)
        form = a.view(self.H, self.D, -1).mT @ b.view(self.H, self.D, -1)  # (H, M + 1, M + 1)
        scores = query[:, None] @ form @ key[:, None].mT / self.D**0.5
        if mask is None:
            return torch.softmax(scores, -1)
        mask = mask.reshape(len(mask), 1, *mask.shape[1:]) if len(mask.shape) == 3 else mask
        scores, mask = torch.broadcast_tensors(scores, mask)
        log_total = torch.where(mask, scores, -torch.inf).logsumexp(-1, keepdim=True)
        return torch.where(mask, (torch.where(mask, scores - log_total, 0.0)).exp(), 0.0)

    def with_bias(self, linear):
        bias = linear.weight.new_zeros(len(linear.weight)) if linear.bias is None else linear.bias
        return torch.cat([linear.weight, bias[:, None]], 1)

    def forward(self, query, key=None, value=None, mask=None, need_weights=False):
        if key is None:
            key = query
        if value is None:
            value = key
        w = self.dropout(self.weights(query, key, mask))
        v = self.v_proj(value)
        out = 0 if self.out_proj.bias is None else self.out_proj.bias
        for h in range(self.H):
            own = slice(h * self.D, h * self.D + self.D)
            out = out + w[:, h] @ (v[..., own] @ self.out_proj.weight[:, own].T)
        return (out, w) if need_weights else out
