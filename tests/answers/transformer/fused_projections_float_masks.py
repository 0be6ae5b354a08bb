"""Fused projections, additive float masks with padding of the target in them, positions added to queries' inputs by one shared table."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

BLOCKED = -1e30


def additive(allowed: Tensor) -> Tensor:
    return torch.zeros(allowed.shape).masked_fill(~allowed, BLOCKED)


class SelfAttention(nn.Module):
    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.in_proj = nn.Linear(width, 3 * width)
        self.out_proj = nn.Linear(width, width)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        B, L, M = x.shape
        q, k, v = self.in_proj(x).view(B, L, 3, self.heads, M // self.heads).permute(2, 0, 3, 1, 4).unbind(0)
        return self.out_proj(F.scaled_dot_product_attention(q, k, v, bias).transpose(1, 2).reshape(B, L, M))


class CrossAttention(nn.Module):
    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.q_proj = nn.Linear(width, width)
        self.kv_proj = nn.Linear(width, 2 * width)
        self.out_proj = nn.Linear(width, width)

    def forward(self, x: Tensor, memory: Tensor, bias: Tensor) -> Tensor:
        B, L, M = x.shape
        q = self.q_proj(x).view(B, L, self.heads, -1).transpose(1, 2)
        k, v = self.kv_proj(memory).view(B, memory.size(1), 2, self.heads, -1).permute(2, 0, 3, 1, 4)
        return self.out_proj(F.scaled_dot_product_attention(q, k, v, bias).transpose(1, 2).reshape(B, L, M))


class Layer(nn.Module):
    def __init__(self, width: int, heads: int, hidden: int, p: float, cross: bool):
        super().__init__()
        self.attn, self.norm = SelfAttention(width, heads), nn.LayerNorm(width)
        if cross:
            self.cross, self.cross_norm = CrossAttention(width, heads), nn.LayerNorm(width)
        self.fc1, self.fc2, self.fc_norm = nn.Linear(width, hidden), nn.Linear(hidden, width), nn.LayerNorm(width)
        self.p = p

    def drop(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.p, self.training)

    def forward(self, x: Tensor, bias: Tensor, memory: Tensor | None = None, memory_bias: Tensor | None = None) -> Tensor:
        x = x + self.drop(self.attn(self.norm(x), bias))
        if memory is not None:
            x = x + self.drop(self.cross(self.cross_norm(x), memory, memory_bias))
        return x + self.drop(self.fc2(self.drop(F.relu(self.fc1(self.fc_norm(x))))))


class Transformer(nn.Module):
    def __init__(self, src_vocab, tgt_vocab, d_model, num_heads, num_layers, d_hidden, dropout=0.0, max_len=256, pad_id=0):
        super().__init__()
        self.pad_id = pad_id
        self.embed = nn.ModuleDict({"src": nn.Embedding(src_vocab, d_model), "tgt": nn.Embedding(tgt_vocab, d_model)})
        self.position = nn.Embedding(max_len, d_model)
        self.enc_layers = nn.ModuleList(Layer(d_model, num_heads, d_hidden, dropout, False) for _ in range(num_layers))
        self.dec_layers = nn.ModuleList(Layer(d_model, num_heads, d_hidden, dropout, True) for _ in range(num_layers))
        self.enc_norm, self.dec_norm = nn.LayerNorm(d_model), nn.LayerNorm(d_model)
        self.generator = nn.Linear(d_model, tgt_vocab)
        self.dropout = dropout

    def _embed(self, side, ids):
        x = self.embed[side](ids) + self.position(torch.arange(ids.size(1)).expand_as(ids))
        return F.dropout(x, self.dropout, self.training)

    def _padding(self, ids):
        return additive((ids != self.pad_id)[:, None, None, :])

    def encode(self, src):
        x, bias = self._embed("src", src), self._padding(src)
        for layer in self.enc_layers:
            x = layer(x, bias)
        return self.enc_norm(x)

    def decode(self, tgt, memory, src):
        L = tgt.size(1)
        bias = torch.maximum(additive(torch.tril(torch.ones(L, L)).bool()) + self._padding(tgt), torch.tensor(BLOCKED))
        x = self._embed("tgt", tgt)
        for layer in self.dec_layers:
            x = layer(x, bias, memory, self._padding(src))
        return self.generator(self.dec_norm(x))

    def forward(self, src, tgt):
        return self.decode(tgt, self.encode(src), src)

    @torch.no_grad()
    def greedy_decode(self, src, bos_id, eos_id, max_new):
        memory = self.encode(src)
        ids = torch.full((src.size(0), 1), bos_id)
        for _ in range(max_new):
            _, best = self.decode(ids, memory, src)[:, -1].max(dim=-1)
            ids = torch.cat((ids, best[:, None]), 1)
        ids = ids[:, 1:]
        ends = (ids == eos_id).int()
        ids = torch.where(ends.cumsum(1) - ends > 0, self.pad_id, ids)
        lengths = torch.where(ends.any(1), ends.argmax(1) + 1, max_new)
        return ids[:, : int(lengths.max())]
