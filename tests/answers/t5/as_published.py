"""As in the published code: buckets summed up step by step, a position bias made of bias and mask together, a norm by hand in float32."""

import math

import torch
import torch.nn as nn


def relative_position_bucket(relative, bidirectional=True, num_buckets=32, max_distance=128):
    relative_position, relative_buckets = relative, 0
    if bidirectional:
        num_buckets //= 2
        relative_buckets += (relative_position > 0).to(torch.long) * num_buckets
        relative_position = torch.abs(relative_position)
    else:
        relative_position = -torch.min(relative_position, torch.zeros_like(relative_position))
    max_exact = num_buckets // 2
    is_small = relative_position < max_exact
    relative_position_if_large = max_exact + (
        torch.log(relative_position.float() / max_exact) / math.log(max_distance / max_exact) * (num_buckets - max_exact)
    ).to(torch.long)
    relative_position_if_large = torch.min(relative_position_if_large, torch.full_like(relative_position_if_large, num_buckets - 1))
    relative_buckets += torch.where(is_small, relative_position, relative_position_if_large)
    return relative_buckets


class RelativeBias(nn.Module):
    def __init__(self, num_heads, num_buckets=32, max_distance=128, bidirectional=True):
        super().__init__()
        self.embedding = nn.Embedding(num_buckets, num_heads)
        self.options = dict(bidirectional=bidirectional, num_buckets=num_buckets, max_distance=max_distance)

    def forward(self, L, S, offset=0):
        context_position = torch.arange(L, dtype=torch.long)[:, None] + offset
        memory_position = torch.arange(S, dtype=torch.long)[None, :]
        values = self.embedding(relative_position_bucket(memory_position - context_position, **self.options))
        return values.permute([2, 0, 1]).unsqueeze(0)


class T5LayerNorm(nn.Module):
    def __init__(self, hidden_size, eps=1e-6):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(hidden_size))
        self.variance_epsilon = eps

    def forward(self, hidden_states):
        variance = hidden_states.to(torch.float32).pow(2).mean(-1, keepdim=True)
        hidden_states = hidden_states * torch.rsqrt(variance + self.variance_epsilon)
        return self.weight * hidden_states.to(self.weight.dtype)


class T5Attention(nn.Module):
    def __init__(self, d_model, num_heads, head_dim):
        super().__init__()
        self.n_heads, self.key_value_proj_dim, self.inner_dim = num_heads, head_dim, num_heads * head_dim
        self.q_proj = nn.Linear(d_model, self.inner_dim, bias=False)
        self.k_proj = nn.Linear(d_model, self.inner_dim, bias=False)
        self.v_proj = nn.Linear(d_model, self.inner_dim, bias=False)
        self.out_proj = nn.Linear(self.inner_dim, d_model, bias=False)

    def forward(self, x, memory=None, bias=None, mask=None):
        source = x if memory is None else memory

        def shape(states):
            return states.view(x.shape[0], -1, self.n_heads, self.key_value_proj_dim).transpose(1, 2)

        query, key, value = shape(self.q_proj(x)), shape(self.k_proj(source)), shape(self.v_proj(source))
        scores = torch.matmul(query, key.transpose(3, 2))
        if bias is None:
            bias = torch.zeros((1, 1, 1, 1), dtype=scores.dtype)
        if mask is not None:
            bias = bias + (1.0 - mask.to(scores.dtype)) * torch.finfo(scores.dtype).min
        weights = nn.functional.softmax((scores + bias).float(), dim=-1).type_as(scores)
        context = torch.matmul(weights, value).transpose(1, 2).contiguous().view(x.shape[0], -1, self.inner_dim)
        return self.out_proj(context)


class T5Block(nn.Module):
    def __init__(self, d_model, num_heads, head_dim, d_hidden, decoder=False):
        super().__init__()
        self.is_decoder = decoder
        self.norm1 = T5LayerNorm(d_model)
        self.attn = T5Attention(d_model, num_heads, head_dim)
        if self.is_decoder:
            self.cross_norm = T5LayerNorm(d_model)
            self.cross_attn = T5Attention(d_model, num_heads, head_dim)
        self.norm2 = T5LayerNorm(d_model)
        self.ff = nn.ModuleDict({"up": nn.Linear(d_model, d_hidden, bias=False), "down": nn.Linear(d_hidden, d_model, bias=False)})

    def forward(self, x, bias=None, mask=None, memory=None, memory_mask=None):
        x = x + self.attn(self.norm1(x), mask=mask, bias=bias)
        if self.is_decoder and memory is not None:
            x = x + self.cross_attn(self.cross_norm(x), memory=memory, mask=memory_mask)
        return x + self.ff["down"](torch.relu(self.ff["up"](self.norm2(x))))


def corrupt_spans(ids, spans, first_sentinel):
    mask = [None] * len(ids)
    for number, (start, length) in enumerate(sorted(spans)):
        if length <= 0 or start < 0 or start + length > len(ids):
            raise ValueError("span out of range")
        for place in range(start, start + length):
            if mask[place] is not None:
                raise ValueError("spans overlap")
            mask[place] = number
    inputs, targets, last = [], [], None
    for token, number in zip(ids, mask):
        if number is None:
            inputs.append(token)
        else:
            if number != last:
                inputs.append(first_sentinel - number)
                targets.append(first_sentinel - number)
            targets.append(token)
        last = number
    targets.append(first_sentinel - len(spans))
    return inputs, targets
