"""One head and one query at a time; the loss row by row; generates from kept keys and values while the window does not move."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Attn(nn.Module):
    def __init__(self, m: int, h: int):
        super().__init__()
        self.h, self.d = h, m // h
        self.q_proj, self.k_proj, self.v_proj, self.out_proj = (nn.Linear(m, m) for _ in range(4))

    def forward(self, x: Tensor, past: list | None = None) -> Tensor:
        q, k, v = self.q_proj(x), self.k_proj(x), self.v_proj(x)
        if past is not None:
            if past:
                k, v = torch.cat([past[0], k], 1), torch.cat([past[1], v], 1)
            past[:] = [k, v]
        before = k.shape[1] - q.shape[1]
        rows = []
        for t in range(q.shape[1]):
            seen = before + t + 1
            heads = []
            for i in range(self.h):
                part = slice(i * self.d, (i + 1) * self.d)
                score = (k[:, :seen, part] * q[:, t : t + 1, part]).sum(-1) / math.sqrt(self.d)
                weight = torch.exp(score - score.amax(-1, keepdim=True))
                heads.append(((weight / weight.sum(-1, keepdim=True)).unsqueeze(-1) * v[:, :seen, part]).sum(1))
            rows.append(torch.cat(heads, -1))
        return self.out_proj(torch.stack(rows, 1))


class FF(nn.Module):
    def __init__(self, m: int):
        super().__init__()
        self.up, self.down = nn.Linear(m, 4 * m), nn.Linear(4 * m, m)

    def forward(self, x: Tensor) -> Tensor:
        u = self.up(x)
        return self.down(u * torch.sigmoid(2 * math.sqrt(2 / math.pi) * (u + 0.044715 * u.pow(3))))  # tanh(z) = 2σ(2z) - 1


class GPT(nn.Module):
    def __init__(self, vocab_size: int, max_len: int, d_model: int, num_layers: int, num_heads: int, dropout: float = 0.0):
        super().__init__()
        self.token_embedding, self.position_embedding = nn.Embedding(vocab_size, d_model), nn.Embedding(max_len, d_model)
        self.blocks = nn.ModuleList()
        for _ in range(num_layers):
            block = nn.Module()
            block.norm1, block.norm2 = nn.LayerNorm(d_model), nn.LayerNorm(d_model)
            block.attn, block.ff, block.drop = Attn(d_model, num_heads), FF(d_model), nn.Dropout(dropout)
            self.blocks.append(block)
        self.final_norm, self.drop = nn.LayerNorm(d_model), nn.Dropout(dropout)
        self.lm_head = nn.Linear(d_model, vocab_size, bias=False)
        self.lm_head.weight = self.token_embedding.weight
        with torch.no_grad():
            for name, p in self.named_parameters():
                if "norm" in name:
                    continue
                p.copy_(torch.randn(p.shape) * 0.02 if p.dim() > 1 else torch.zeros(p.shape))
                if "out_proj.weight" in name or "ff.down.weight" in name:
                    p /= math.sqrt(2 * num_layers)

    @property
    def max_len(self) -> int:
        return len(self.position_embedding.weight)

    def forward(self, ids: Tensor, targets: Tensor | None = None, past: list[list] | None = None):
        start = past[0][0].shape[1] if past and past[0] else 0
        if start + ids.shape[1] > self.max_len:
            raise ValueError(f"{start + ids.shape[1]} tokens do not fit into {self.max_len}")
        places = torch.arange(start, start + ids.shape[1]).expand(ids.shape)
        x = self.drop(self.token_embedding(ids) + self.position_embedding(places))
        for i, block in enumerate(self.blocks):
            x = x + block.drop(block.attn(block.norm1(x), None if past is None else past[i]))
            x = x + block.drop(block.ff(block.norm2(x)))
        logits = self.lm_head(self.final_norm(x))
        if targets is None:
            return logits
        total, count = logits.new_zeros(()), 0
        for row, wanted in zip(F.log_softmax(logits, -1), targets.tolist(), strict=True):
            for line, target in zip(row, wanted, strict=True):
                if target != -100:
                    total, count = total - line[target], count + 1
        return logits, total / count


def num_parameters(model: nn.Module) -> int:
    unique = {id(p): p for p in model.parameters()}.values()
    return sum(math.prod(p.shape) for p in unique)


def generate(model: GPT, ids: Tensor, max_new: int) -> Tensor:
    if max_new == 0:
        return ids
    was = model.training
    model.eval()
    with torch.no_grad():
        past: list[list] = [[] for _ in model.blocks]
        feed = ids[:, -model.max_len :]
        for _ in range(max_new):
            new = model(feed, past=past)[:, -1].argmax(-1, keepdim=True)
            ids = torch.hstack([ids, new])
            feed = new
            if past[0][0].shape[1] == model.max_len:  # the window moves, and all positions with it
                past, feed = [[] for _ in model.blocks], ids[:, -model.max_len :]
    if was:
        model.train()
    return ids
