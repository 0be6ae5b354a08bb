"""Padding is really left out: each sentence is read alone, its real tokens only. Tokens are masked one by one, in plain Python."""

import torch
import torch.nn.functional as F
from torch import nn


def mask_tokens(ids, mask_id, vocab_size, special_ids, rate=0.15, generator=None):
    numbers = torch.rand(ids.numel(), 3, generator=generator).tolist()
    specials, inputs, labels = set(special_ids), [], []
    for token, (first, second, third) in zip(ids.flatten().tolist(), numbers):
        if token in specials or first >= rate:
            inputs.append(token)
            labels.append(-100)
            continue
        labels.append(token)
        if second < 0.1:
            inputs.append(token)
        elif second < 0.2:
            inputs.append(int(third * vocab_size))
        else:
            inputs.append(mask_id)
    return torch.tensor(inputs).view(ids.shape), torch.tensor(labels).view(ids.shape)


class Attention(nn.Module):
    def __init__(self, d_model, num_heads):
        super().__init__()
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            self.add_module(name, nn.Linear(d_model, d_model))
        self.num_heads = num_heads

    def forward(self, x):  # (L, M)
        D = x.shape[-1] // self.num_heads
        q, k, v = self.q_proj(x) / D**0.5, self.k_proj(x), self.v_proj(x)
        heads = []
        for h in range(self.num_heads):
            own = slice(h * D, (h + 1) * D)
            heads.append(F.softmax(q[:, own] @ k[:, own].T, dim=-1) @ v[:, own])
        return self.out_proj(torch.cat(heads, dim=-1))


class Layer(nn.Module):
    def __init__(self, d_model, num_heads, d_hidden):
        super().__init__()
        self.attn = Attention(d_model, num_heads)
        self.ff = nn.Sequential()
        self.ff.add_module("up", nn.Linear(d_model, d_hidden))
        self.ff.add_module("act", nn.GELU())
        self.ff.add_module("down", nn.Linear(d_hidden, d_model))
        self.norm1 = nn.LayerNorm(d_model, 1e-12)
        self.norm2 = nn.LayerNorm(d_model, 1e-12)

    def forward(self, x):
        x = self.norm1(x + self.attn(x))
        return self.norm2(x + self.ff(x))


class Bert(nn.Module):
    def __init__(self, vocab_size, max_len, d_model, num_layers, num_heads, d_hidden, num_segments=2):
        super().__init__()
        self.token_embedding = nn.Embedding(vocab_size, d_model)
        self.position_embedding = nn.Embedding(max_len, d_model)
        self.segment_embedding = nn.Embedding(num_segments, d_model)
        self.embedding_norm = nn.LayerNorm(d_model, 1e-12)
        self.layers = nn.Sequential(*(Layer(d_model, num_heads, d_hidden) for _ in range(num_layers)))
        self.pooler = nn.Linear(d_model, d_model)
        self.mlm_transform = nn.Linear(d_model, d_model)
        self.mlm_norm = nn.LayerNorm(d_model, 1e-12)
        self.mlm_bias = nn.Parameter(torch.zeros(vocab_size))
        self.max_len = max_len

    def forward(self, ids, segments=None, keep=None):
        B, L = ids.shape
        if L > self.max_len:
            raise ValueError(f"{L} > {self.max_len}")
        keep = torch.ones(B, L, dtype=torch.bool) if keep is None else keep
        segments = ids * 0 if segments is None else segments
        rows = []
        for b in range(B):
            place = keep[b].nonzero()[:, 0]
            x = self.token_embedding(ids[b, place]) + self.position_embedding(place) + self.segment_embedding(segments[b, place])
            x = self.layers(self.embedding_norm(x))
            rows.append(x.new_zeros(L, x.shape[-1]).index_copy(0, place, x))
        hidden = torch.stack(rows)
        return hidden, torch.tanh(self.pooler(hidden[:, 0]))

    def mlm_logits(self, hidden):
        return self.mlm_norm(F.gelu(self.mlm_transform(hidden))) @ self.token_embedding.weight.T + self.mlm_bias
