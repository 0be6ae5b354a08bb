"""The recurrent form is the only one: the causal forms walk through the tokens; Gram-Schmidt for the features."""

import torch
from torch import Tensor
from torch.nn import functional as F


def walk(q: Tensor, k: Tensor, v: Tensor, eps: float) -> Tensor:
    numerator = torch.zeros_like(k[:, :, 0, :, None] * v[:, :, 0, None, :])
    denominator = torch.zeros_like(k[:, :, 0])
    out = []
    for query, key, value in zip(q.unbind(2), k.unbind(2), v.unbind(2), strict=True):
        numerator = numerator + key[..., None] * value[..., None, :]
        denominator = denominator + key
        out.append((query[..., None] * numerator).sum(-2) / ((query * denominator).sum(-1, keepdim=True) + eps))
    return torch.stack(out, 2)


def linear_attention(q: Tensor, k: Tensor, v: Tensor, eps: float = 1e-6) -> Tensor:
    q, k = F.elu(q) + 1.0, F.elu(k) + 1.0
    memory = k.transpose(2, 3) @ v
    total = k.sum(2, keepdim=True).transpose(2, 3)
    return (q @ memory) / (q @ total + eps)


def causal_linear_attention(q: Tensor, k: Tensor, v: Tensor, eps: float = 1e-6) -> Tensor:
    return walk(F.elu(q) + 1.0, F.elu(k) + 1.0, v, eps)


class LinearState:
    def __init__(self, batch, num_heads, dim, value_dim, dtype=torch.float32, eps=1e-6):
        self.memory = torch.zeros((batch, num_heads, dim, value_dim), dtype=dtype)
        self.total = torch.zeros((batch, num_heads, dim), dtype=dtype)
        self.dtype, self.eps = dtype, eps

    def step(self, q, k, v):
        query, key, value = F.elu(q.to(self.dtype)) + 1, F.elu(k.to(self.dtype)) + 1, v.to(self.dtype)
        memory, total = self.memory + key[..., None] * value[..., None, :], self.total + key
        self.memory, self.total = memory.detach(), total.detach()
        out = (query[..., None, :] @ memory)[..., 0, :] / ((query * total).sum(-1, keepdim=True) + self.eps)
        return out.to(v.dtype)


def orthogonal_features(dim, num_features, generator):
    done: list[Tensor] = []
    for _ in range(num_features):
        start = len(done) // dim * dim
        w = torch.randn(dim, generator=generator, dtype=torch.float64)
        length = w.norm()
        w = torch.randn(dim, generator=generator, dtype=torch.float64)
        for _again in range(2):
            for other in done[start:]:
                w = w - (w @ other) / (other @ other) * other
        done.append(w / w.norm() * length)
    return torch.stack(done).float()


def performer_attention(q, k, v, projection, causal=False):
    d = q.size(-1)

    def exponents(x):
        x = x / d ** (1 / 4)
        return torch.matmul(x, projection.t()) - x.pow(2).sum(-1, keepdim=True).div(2)

    q, k = exponents(q), exponents(k)
    q = torch.softmax(q, dim=-1)  # its own sum is one more factor that cancels
    k = torch.softmax(k.flatten(2), dim=-1).view_as(k)  # and this one is the same for all keys
    if causal:
        return walk(q, k, v, 0.0)
    return (q @ (k.transpose(2, 3) @ v)) / (q @ k.sum(2).unsqueeze(-1))
