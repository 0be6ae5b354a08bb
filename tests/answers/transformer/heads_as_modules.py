"""One module a head, positions turned into the queries and keys of both self-attentions (RoPE), a list of rows in greedy decoding."""

import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention


def turned(x, base=10000.0):
    """Rotary positions, the halves paired; an odd channel stays."""
    half = x.shape[-1] // 2
    if half == 0:
        return x
    angle = torch.arange(x.shape[-2])[:, None] * base ** (-torch.arange(half) / half)
    a, b, rest = x[..., :half], x[..., half : 2 * half], x[..., 2 * half :]
    return torch.cat([a * angle.cos() - b * angle.sin(), a * angle.sin() + b * angle.cos(), rest], -1)


class Head(nn.Module):
    def __init__(self, d_model, d_head, rotary):
        super().__init__()
        self.to_q, self.to_k, self.to_v = (nn.Linear(d_model, d_head, bias=False) for _ in range(3))
        self.rotary = turned if rotary else (lambda x: x)

    def forward(self, x, source, mask):
        return scaled_dot_product_attention(self.rotary(self.to_q(x)), self.rotary(self.to_k(source)), self.to_v(source), mask)


class MultiHead(nn.Module):
    def __init__(self, d_model, num_heads, rotary):
        super().__init__()
        self.heads = nn.ModuleList(Head(d_model, d_model // num_heads, rotary) for _ in range(num_heads))
        self.mix = nn.Linear(d_model, d_model, bias=False)

    def forward(self, x, source, mask):
        return self.mix(torch.cat([head(x, source, mask) for head in self.heads], dim=-1))


class Sub(nn.Module):
    """x + dropout(f(norm(x), ...))."""

    def __init__(self, d_model, f, dropout):
        super().__init__()
        self.norm, self.f, self.drop = nn.LayerNorm(d_model), f, nn.Dropout(dropout)

    def forward(self, x, *rest):
        y = self.norm(x)
        return x + self.drop(self.f(y, *(y if r is None else r for r in rest)))


class Transformer(nn.Module):
    def __init__(self, src_vocab, tgt_vocab, d_model, num_heads, num_layers, d_hidden, dropout=0.0, max_len=256, pad_id=0):
        super().__init__()
        self.pad_id = pad_id

        def attention(rotary):
            return Sub(d_model, MultiHead(d_model, num_heads, rotary), dropout)

        def mlp():
            return Sub(d_model, nn.Sequential(nn.Linear(d_model, d_hidden), nn.ReLU(), nn.Linear(d_hidden, d_model)), dropout)

        self.src_in, self.tgt_in = nn.Embedding(src_vocab, d_model), nn.Embedding(tgt_vocab, d_model)
        self.src_mark = nn.Parameter(torch.zeros(max_len, d_model))
        self.encoder = nn.ModuleList(nn.ModuleList([attention(True), mlp()]) for _ in range(num_layers))
        self.decoder = nn.ModuleList(nn.ModuleList([attention(True), attention(False), mlp()]) for _ in range(num_layers))
        self.last = nn.ModuleList([nn.LayerNorm(d_model), nn.LayerNorm(d_model)])
        self.out = nn.Linear(d_model, tgt_vocab)

    def encode(self, src):
        real = (src != self.pad_id)[:, None, :]
        x = self.src_in(src) + self.src_mark[: src.shape[1]]
        for attention, mlp in self.encoder:
            x = mlp(attention(x, None, real))
        return self.last[0](x)

    def decode(self, tgt, memory, src):
        real = (src != self.pad_id)[:, None, :]
        past = torch.ones(tgt.shape[1], tgt.shape[1]).tril() == 1
        x = self.tgt_in(tgt)
        for attention, cross, mlp in self.decoder:
            x = mlp(cross(attention(x, None, past), memory, real))
        return self.out(self.last[1](x))

    def forward(self, src, tgt):
        memory = self.encode(src)
        return self.decode(tgt, memory, src)

    @torch.no_grad()
    def greedy_decode(self, src, bos_id, eos_id, max_new):
        memory, rows = self.encode(src), [[bos_id] for _ in src]
        ended = set()
        while len(rows[0]) <= max_new and len(ended) < len(rows):
            best = self.decode(torch.tensor(rows), memory, src)[:, -1].topk(1).indices[:, 0].tolist()
            for i, row in enumerate(rows):
                row.append(self.pad_id if i in ended else best[i])
            ended |= {i for i, token in enumerate(best) if token == eos_id}
        return torch.tensor([row[1:] for row in rows])
