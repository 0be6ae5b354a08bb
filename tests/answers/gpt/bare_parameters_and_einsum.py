"""Parameters in bare modules, everything else einsum and formulas; softmax and statistics in float32; the head made first."""

import torch
from torch import nn


class Weights(nn.Module):
    """Holds tensors, computes nothing."""

    def __init__(self, **tensors):
        super().__init__()
        for name, tensor in tensors.items():
            setattr(self, name, tensor if isinstance(tensor, nn.Module | nn.Parameter) else nn.Parameter(tensor))


def affine(x, layer):
    return torch.einsum("...i,oi->...o", x, layer.weight) + layer.bias


def normalise(x, norm):
    wide = x if x.dtype == torch.float64 else x.float()
    centred = wide - wide.mean(-1, keepdim=True)
    return (centred / (centred.pow(2).mean(-1, keepdim=True) + 1e-5).sqrt()).to(x.dtype) * norm.weight + norm.bias


def gelu(x):
    return 0.5 * x * (1 + torch.tanh((2 / torch.pi) ** 0.5 * (x + 0.044715 * x**3)))


def linear(outputs, inputs, std):
    return Weights(weight=torch.empty(outputs, inputs).normal_(0, std), bias=torch.zeros(outputs))


def norm(width):
    return Weights(weight=torch.ones(width), bias=torch.zeros(width))


class GPT(nn.Module):
    def __init__(self, vocab_size, max_len, d_model, num_layers, num_heads, dropout=0.0):
        super().__init__()
        small = 0.02 * (2 * num_layers) ** -0.5
        table = nn.Parameter(0.02 * torch.randn(vocab_size, d_model))
        self.heads, self.p = num_heads, dropout
        self.lm_head = Weights(weight=table)
        self.final_norm = norm(d_model)
        self.blocks = nn.ModuleList()
        for _ in range(num_layers):
            attn = {f"{name}_proj": linear(d_model, d_model, small if name == "out" else 0.02) for name in ("out", "v", "k", "q")}
            ff = {"up": linear(4 * d_model, d_model, 0.02), "down": linear(d_model, 4 * d_model, small)}
            self.blocks.append(Weights(ff=Weights(**ff), norm2=norm(d_model), attn=Weights(**attn), norm1=norm(d_model)))
        self.position_embedding = Weights(weight=0.02 * torch.randn(max_len, d_model))
        self.token_embedding = Weights(weight=table)

    def drop(self, x):
        if not self.training or self.p == 0:
            return x
        return x * (torch.rand_like(x) >= self.p) / (1 - self.p)

    def attend(self, x, attn):
        q, k, v = (
            affine(x, part).reshape(*x.shape[:2], self.heads, x.shape[2] // self.heads) for part in (attn.q_proj, attn.k_proj, attn.v_proj)
        )
        scores = torch.einsum("blhd,bshd->bhls", q, k) / q.shape[-1] ** 0.5
        place = torch.arange(x.shape[1])
        scores = torch.where(place[:, None] >= place, scores, torch.finfo(scores.dtype).min)
        weights = torch.softmax(scores.float(), dim=-1).to(x.dtype)
        return affine(torch.einsum("bhls,bshd->blhd", weights, v).reshape(x.shape), attn.out_proj)

    def stream(self, ids):
        length, longest = ids.shape[-1], self.position_embedding.weight.shape[0]
        if not length <= longest:
            raise ValueError(f"L = {length} > max_len = {longest}")
        x = self.drop(self.token_embedding.weight[ids] + self.position_embedding.weight[:length])
        for block in self.blocks:
            x = x + self.drop(self.attend(normalise(x, block.norm1), block.attn))
            x = x + self.drop(affine(gelu(affine(normalise(x, block.norm2), block.ff.up)), block.ff.down))
        return normalise(x, self.final_norm)

    def forward(self, ids, targets=None):
        logits = torch.einsum("blm,vm->blv", self.stream(ids), self.lm_head.weight)
        if targets is None:
            return logits
        counts = targets != -100
        right = logits.gather(-1, targets.masked_fill(~counts, 0).unsqueeze(-1)).squeeze(-1)
        return logits, ((logits.logsumexp(-1) - right) * counts).sum() / counts.sum()


def num_parameters(model):
    return int(sum(torch.tensor(p.shape).prod() if p.ndim else 1 for p in dict.fromkeys(model.parameters())))


def generate(model, ids, max_new):
    """Only the last position is multiplied by the head."""
    training = model.training
    with torch.inference_mode():
        model.train(False)
        row = ids.clone()
        while row.shape[1] < ids.shape[1] + max_new:
            last = model.stream(row[:, -len(model.position_embedding.weight) :])[:, -1]
            row = torch.cat([row, (last @ model.lm_head.weight.T).max(-1, keepdim=True).indices], 1)
        model.train(training)
    return row
