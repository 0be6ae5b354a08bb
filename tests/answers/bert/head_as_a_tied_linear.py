"""The head is a linear layer whose weight is the embedding's, as published code ties it."""

from dataclasses import dataclass
from typing import Optional

import torch
import torch.nn.functional as F
from torch import Tensor, nn

IGNORE = -100
EPS = 1e-12


def mask_tokens(ids, mask_id, vocab_size, special_ids, rate=0.15, generator=None):
    import random

    rng = random.Random(int(torch.randint(2**60, (1,), generator=generator)))
    inputs, labels = ids.clone(), torch.full_like(ids, IGNORE)
    flat_in, flat_lab = inputs.view(-1), labels.view(-1)
    for n, t in enumerate(ids.reshape(-1).tolist()):
        if t not in special_ids and rng.random() < rate:
            flat_lab[n] = t
            flat_in[n] = rng.choices([mask_id, rng.randrange(vocab_size), t], weights=[8, 1, 1])[0]
    return inputs, labels


@dataclass
class Config:
    vocab_size: int
    max_len: int
    d_model: int
    num_layers: int
    num_heads: int
    d_hidden: int
    num_segments: int = 2

    def __post_init__(self):
        if self.d_model % self.num_heads:
            raise ValueError("d_model must be a multiple of num_heads")


class SelfAttention(nn.Module):
    def __init__(self, c: Config):
        super().__init__()
        self.heads, self.scale = c.num_heads, (c.d_model // c.num_heads) ** -0.5
        for n in ("q_proj", "k_proj", "v_proj", "out_proj"):
            self.add_module(n, nn.Linear(c.d_model, c.d_model))

    def forward(self, x: Tensor, bias: Optional[Tensor]) -> Tensor:
        split = lambda t: t.unflatten(-1, (self.heads, -1)).transpose(-2, -3)
        q, k, v = split(self.q_proj(x)), split(self.k_proj(x)), split(self.v_proj(x))
        scores = torch.matmul(q, k.mT) * self.scale
        if bias is not None:
            scores = scores + bias
        return self.out_proj((scores.softmax(-1) @ v).transpose(1, 2).flatten(-2))


class MLP(nn.Sequential):
    def __init__(self, c):
        super().__init__()
        self.add_module("up", nn.Linear(c.d_model, c.d_hidden))
        self.add_module("act", nn.GELU())
        self.add_module("down", nn.Linear(c.d_hidden, c.d_model))


class Block(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.attn, self.ff = SelfAttention(c), MLP(c)
        self.norm1, self.norm2 = nn.LayerNorm(c.d_model, EPS), nn.LayerNorm(c.d_model, EPS)

    def forward(self, x, bias=None):
        x = self.norm1(x + self.attn(x, bias))
        return self.norm2(x + self.ff(x))


class Bert(nn.Module):
    def __init__(self, vocab_size, max_len, d_model, num_layers, num_heads, d_hidden, num_segments=2):
        super().__init__()
        c = self.config = Config(vocab_size, max_len, d_model, num_layers, num_heads, d_hidden, num_segments)
        self.token_embedding = nn.Embedding(c.vocab_size, c.d_model)
        self.position_embedding = nn.Embedding(c.max_len, c.d_model)
        self.segment_embedding = nn.Embedding(c.num_segments, c.d_model)
        self.embedding_norm = nn.LayerNorm(c.d_model, EPS)
        self.layers = nn.ModuleList(Block(c) for _ in range(c.num_layers))
        self.pooler = nn.Linear(c.d_model, c.d_model)
        self.mlm_transform = nn.Linear(c.d_model, c.d_model)
        self.mlm_norm = nn.LayerNorm(c.d_model, EPS)
        self.mlm_bias = nn.Parameter(torch.zeros(c.vocab_size))
        self.register_buffer("position_ids", torch.arange(c.max_len)[None], persistent=True)
        self.decoder = nn.Linear(c.d_model, c.vocab_size, bias=False)  # tied
        self.apply(self._init)
        self.decoder.weight = self.token_embedding.weight

    @staticmethod
    def _init(m):
        if isinstance(m, (nn.Linear, nn.Embedding)):
            nn.init.normal_(m.weight, std=0.02)
        if isinstance(m, nn.Linear) and m.bias is not None:
            nn.init.zeros_(m.bias)

    def forward(self, ids, segments=None, keep=None):
        length = ids.size(1)
        if length > self.config.max_len:
            raise ValueError(f"sequence of {length} exceeds max_len={self.config.max_len}")
        pos = self.position_ids[:, :length]
        x = self.token_embedding(ids) + self.position_embedding(pos)
        x = x + (self.segment_embedding.weight[0] if segments is None else self.segment_embedding(segments))
        x = self.embedding_norm(x)
        bias = None
        if keep is not None:
            bias = torch.zeros(keep.shape, dtype=x.dtype, device=x.device)
            bias = bias.masked_fill(~keep, torch.finfo(x.dtype).min)[:, None, None]
        for layer in self.layers:
            x = layer(x, bias)
        return x, self.pooler(x.select(1, 0)).tanh()

    def mlm_logits(self, hidden):
        return self.decoder(self.mlm_norm(F.gelu(self.mlm_transform(hidden)))) + self.mlm_bias
