"""Masking as in the well-known collator, with bernoulli and assignments by index; attention written out, scores filled with -inf."""

import math

import torch
import torch.nn as nn
from torch.nn import functional as F


def mask_tokens(ids, mask_id, vocab_size, special_ids, rate=0.15, generator=None):
    inputs, labels = ids.clone(), ids.clone()
    probability_matrix = torch.full(labels.shape, rate)
    special_tokens_mask = torch.zeros_like(ids, dtype=torch.bool)
    for s in special_ids:
        special_tokens_mask |= ids == s
    probability_matrix.masked_fill_(special_tokens_mask, value=0.0)
    masked_indices = torch.bernoulli(probability_matrix, generator=generator).bool()
    labels[~masked_indices] = -100

    indices_replaced = torch.bernoulli(torch.full(labels.shape, 0.8), generator=generator).bool() & masked_indices
    inputs[indices_replaced] = mask_id

    indices_random = torch.bernoulli(torch.full(labels.shape, 0.5), generator=generator).bool() & masked_indices & ~indices_replaced
    random_words = torch.randint(vocab_size, labels.shape, dtype=torch.long, generator=generator)
    inputs[indices_random] = random_words[indices_random]
    return inputs, labels


class BertSelfAttention(nn.Module):
    def __init__(self, hidden_size, heads):
        super().__init__()
        self.heads = heads
        self.q_proj = nn.Linear(hidden_size, hidden_size)
        self.k_proj = nn.Linear(hidden_size, hidden_size)
        self.v_proj = nn.Linear(hidden_size, hidden_size)
        self.out_proj = nn.Linear(hidden_size, hidden_size)

    def transpose_for_scores(self, x):
        return x.view(*x.shape[:-1], self.heads, -1).permute(0, 2, 1, 3)

    def forward(self, hidden_states, attention_mask):
        q = self.transpose_for_scores(self.q_proj(hidden_states))
        k = self.transpose_for_scores(self.k_proj(hidden_states))
        v = self.transpose_for_scores(self.v_proj(hidden_states))
        scores = torch.matmul(q, k.transpose(-1, -2)) / math.sqrt(q.size(-1))
        probs = nn.Softmax(dim=-1)(scores + attention_mask)
        context = torch.matmul(probs, v).permute(0, 2, 1, 3).contiguous()
        return self.out_proj(context.view(*context.shape[:2], -1))


class BertLayer(nn.Module):
    def __init__(self, hidden_size, heads, intermediate):
        super().__init__()
        self.attn = BertSelfAttention(hidden_size, heads)
        self.norm1 = nn.LayerNorm(hidden_size, eps=1e-12)
        self.ff = nn.ModuleDict({"up": nn.Linear(hidden_size, intermediate), "down": nn.Linear(intermediate, hidden_size)})
        self.norm2 = nn.LayerNorm(hidden_size, eps=1e-12)

    def forward(self, x, attention_mask):
        x = self.norm1(self.attn(x, attention_mask) + x)
        return self.norm2(self.ff["down"](F.gelu(self.ff["up"](x))) + x)


class Bert(nn.Module):
    def __init__(self, vocab_size, max_len, d_model, num_layers, num_heads, d_hidden, num_segments=2):
        super().__init__()
        self.max_len = max_len
        self.token_embedding = nn.Embedding(vocab_size, d_model, padding_idx=0)
        self.position_embedding = nn.Embedding(max_len, d_model)
        self.segment_embedding = nn.Embedding(num_segments, d_model)
        self.embedding_norm = nn.LayerNorm(d_model, eps=1e-12)
        self.register_buffer("position_ids", torch.arange(max_len).expand((1, -1)), persistent=False)
        self.layers = nn.ModuleList([BertLayer(d_model, num_heads, d_hidden) for _ in range(num_layers)])
        self.pooler = nn.Linear(d_model, d_model)
        self.mlm_transform = nn.Linear(d_model, d_model)
        self.mlm_norm = nn.LayerNorm(d_model, eps=1e-12)
        self.mlm_bias = nn.Parameter(torch.zeros(vocab_size))
        self.apply(self._init_weights)

    def _init_weights(self, module):
        if isinstance(module, (nn.Linear, nn.Embedding)):
            module.weight.data.normal_(mean=0.0, std=0.02)

    def forward(self, ids, segments=None, keep=None):
        L = ids.size(1)
        if L > self.max_len:
            raise ValueError(f"sequence of {L} tokens is longer than max_len = {self.max_len}")
        if segments is None:
            segments = torch.zeros(ids.shape, dtype=torch.long, device=ids.device)
        if keep is None:
            keep = torch.ones_like(ids, dtype=torch.bool)
        x = self.token_embedding(ids) + self.segment_embedding(segments) + self.position_embedding(self.position_ids[:, :L])
        x = self.embedding_norm(x)
        extended = (1.0 - keep[:, None, None, :].to(x.dtype)) * torch.finfo(x.dtype).min
        for layer in self.layers:
            x = layer(x, extended)
        return x, self.pooler(x[:, 0, :]).tanh()

    def mlm_logits(self, hidden):
        hidden = self.mlm_norm(F.gelu(self.mlm_transform(hidden)))
        return hidden @ self.token_embedding.weight.t() + self.mlm_bias
