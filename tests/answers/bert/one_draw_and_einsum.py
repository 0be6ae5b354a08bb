"""One random number decides the fate of a token; parameters in bare modules, everything else einsum and formulas; padding left out as zeros."""

import torch
from torch import nn


def mask_tokens(ids, mask_id, vocab_size, special_ids, rate=0.15, generator=None):
    fate = torch.rand(*ids.shape, dtype=torch.float64, generator=generator)
    words = (torch.rand(*ids.shape, dtype=torch.float64, generator=generator) * vocab_size).floor().long()
    for special in set(special_ids):
        fate = torch.where(ids == special, 2.0, fate)
    labels = torch.where(fate < rate, ids, -100)
    inputs = torch.where(fate < 0.8 * rate, mask_id, torch.where(fate < 0.9 * rate, words, ids))
    return inputs, labels


class Weights(nn.Module):
    """Holds tensors, computes nothing."""

    def __init__(self, **tensors):
        super().__init__()
        for name, tensor in tensors.items():
            setattr(self, name, tensor if isinstance(tensor, nn.Module) else nn.Parameter(tensor))


def linear(outputs, inputs):
    return Weights(weight=torch.randn(outputs, inputs) / inputs**0.5, bias=torch.zeros(outputs))


def norm(size):
    return Weights(weight=torch.ones(size), bias=torch.zeros(size))


def affine(x, layer):
    return torch.einsum("...i,oi->...o", x, layer.weight) + layer.bias


def normalise(x, layer):
    centred = x - x.mean(-1, keepdim=True)
    return centred * torch.rsqrt(centred.square().mean(-1, keepdim=True) + 1e-12) * layer.weight + layer.bias


def gelu(x):
    return 0.5 * x * torch.erfc(-x / 2**0.5)


class Bert(nn.Module):
    def __init__(self, vocab_size, max_len, d_model, num_layers, num_heads, d_hidden, num_segments=2):
        super().__init__()
        M = d_model
        self.num_heads = num_heads
        self.mlm_bias = nn.Parameter(torch.zeros(vocab_size))
        self.token_embedding = Weights(weight=torch.randn(vocab_size, M))
        self.position_embedding = Weights(weight=torch.randn(max_len, M))
        self.segment_embedding = Weights(weight=torch.randn(num_segments, M))
        self.embedding_norm, self.mlm_norm = norm(M), norm(M)
        self.pooler, self.mlm_transform = linear(M, M), linear(M, M)
        self.layers = nn.Sequential()
        for _ in range(num_layers):
            attn = Weights(q_proj=linear(M, M), k_proj=linear(M, M), v_proj=linear(M, M), out_proj=linear(M, M))
            ff = Weights(up=linear(d_hidden, M), down=linear(M, d_hidden))
            self.layers.append(Weights(attn=attn, ff=ff, norm1=norm(M), norm2=norm(M)))

    def forward(self, ids, segments=None, keep=None):
        L = ids.shape[1]
        if L > len(self.position_embedding.weight):
            raise ValueError("too long")
        x = self.token_embedding.weight[ids] + self.position_embedding.weight[:L]
        x = x + self.segment_embedding.weight[0 if segments is None else segments]
        x = normalise(x, self.embedding_norm)
        keep = torch.ones_like(ids, dtype=torch.bool) if keep is None else keep
        for layer in self.layers:
            x = normalise(x + self.attention(x, keep, layer.attn), layer.norm1)
            x = normalise(x + affine(gelu(affine(x, layer.ff.up)), layer.ff.down), layer.norm2)
        x = x * keep[..., None]
        return x, affine(x[:, 0], self.pooler).tanh()

    def attention(self, x, keep, a):
        q, k, v = (affine(x, p).unflatten(-1, (self.num_heads, -1)) for p in (a.q_proj, a.k_proj, a.v_proj))
        scores = torch.einsum("blhd,bshd->bhls", q, k) / q.shape[-1] ** 0.5
        e = torch.where(keep[:, None, None], (scores - scores.amax(-1, keepdim=True)).exp(), 0.0)
        out = torch.einsum("bhls,bshd->blhd", e / e.sum(-1, keepdim=True), v)
        return affine(out.flatten(2), a.out_proj)

    def mlm_logits(self, hidden):
        x = normalise(gelu(affine(hidden, self.mlm_transform)), self.mlm_norm)
        return torch.einsum("...m,vm->...v", x, self.token_embedding.weight) + self.mlm_bias
