"""Chunks of 32 side by side, padded: a product inside each, and prefix sums over the chunks, without a loop."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

WIDTH = 32


def chunked(x: Tensor) -> Tensor:
    rest = -x.shape[2] % WIDTH
    return F.pad(x, (0, 0, 0, rest)).unflatten(2, (-1, WIDTH))


def causal_sums(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    length = q.shape[2]
    q, k, v, ones = chunked(q), chunked(k), chunked(v), chunked(torch.ones_like(v[..., :1]))

    def of(values: Tensor) -> Tensor:
        states = k.transpose(-1, -2) @ values
        before = states.cumsum(2) - states
        mask = torch.ones(WIDTH, WIDTH, dtype=torch.bool).tril()
        inside = (q @ k.transpose(-1, -2)).masked_fill(~mask, 0) @ values
        return (inside + q @ before).flatten(2, 3)[:, :, :length]

    return of(v), of(ones)


def phi(x: Tensor) -> Tensor:
    return nn.ELU()(x) + 1


def linear_attention(q: Tensor, k: Tensor, v: Tensor, eps: float = 1e-6) -> Tensor:
    context = (phi(k)[..., None, :].mT * v[..., None, :]).sum(2)
    norm = (phi(q) * phi(k).sum(2, keepdim=True)).sum(-1) + eps
    return phi(q).matmul(context).div(norm[..., None])


def causal_linear_attention(q: Tensor, k: Tensor, v: Tensor, eps: float = 1e-6) -> Tensor:
    above, below = causal_sums(phi(q), phi(k), v)
    return above / (below + eps)


class LinearState:
    """Written through the parallel form: the past is one token more."""

    def __init__(self, batch, num_heads, dim, value_dim, dtype=torch.float32, eps=1e-6):
        self.past = [torch.zeros(batch, num_heads, dim, n, dtype=dtype) for n in (value_dim, 1)]
        self.eps = eps

    def step(self, q, k, v):
        wide = self.past[0].dtype
        query, key = phi(q.to(wide)), phi(k.to(wide))
        values = v.to(wide), torch.ones_like(v[..., :1], dtype=wide)
        self.past = [(s + key.unsqueeze(-1) @ x.unsqueeze(-2)).detach() for s, x in zip(self.past, values, strict=True)]
        above, below = ((query.unsqueeze(-2) @ s).squeeze(-2) for s in self.past)
        return (above / (below + self.eps)).to(v)


def orthogonal_features(dim: int, num_features: int, generator: torch.Generator) -> Tensor:
    blocks = math.ceil(num_features / dim)
    gaussian = torch.randn(blocks, dim, dim, generator=generator)
    norms = torch.randn(blocks, dim, dim, generator=generator).pow(2).sum(-1, keepdim=True).sqrt()
    q = torch.linalg.qr(gaussian)[0]
    norms = norms * (1 - 2 * torch.randint(0, 2, norms.shape, generator=generator))
    return (q.transpose(1, 2) * norms).reshape(-1, dim)[:num_features]


def performer_attention(q: Tensor, k: Tensor, v: Tensor, projection: Tensor, causal: bool = False) -> Tensor:
    scale = q.shape[-1] ** -0.25

    def log_features(x: Tensor) -> Tensor:
        x = x * scale
        return x @ projection.T - (x**2).sum(-1, keepdim=True) / 2 - math.log(len(projection)) / 2

    q, k = log_features(q), log_features(k)
    q = (q - q.logsumexp(-1, keepdim=True)).exp()
    k = (k - k.flatten(2).logsumexp(-1)[..., None, None]).exp()
    if causal:
        above, below = causal_sums(q, k, v)
        return above / below
    return (q @ (k.transpose(2, 3) @ v)) / (q @ k.sum(2)[..., None])
