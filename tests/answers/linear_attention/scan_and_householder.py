"""Hillis-Steele scan over outer products; Householder reflections for the features; feature-wise maxima folded into the queries."""

import math
from dataclasses import dataclass, field

import torch as th
import torch.nn.functional as F


def phi(x):
    return th.where(x > 0, x + 1, x.clamp(max=0).exp())


def _attend(q, k, v, eps):
    s = th.einsum("bhsd,bhse->bhde", k, v)
    n = k.sum(2)
    return th.einsum("bhld,bhde->bhle", q, s) / (th.einsum("bhld,bhd->bhl", q, n).unsqueeze(-1) + eps)


def _scan(x):
    step = 1
    while step < x.shape[2]:
        x = x + F.pad(x, (0, 0) * (x.dim() - 3) + (step, 0))[:, :, : x.shape[2]]
        step *= 2
    return x


def _causal(q, k, v, eps):
    s = _scan(k[..., :, None] * v[..., None, :])
    n = _scan(k)
    return (q[..., None, :] @ s)[..., 0, :] / ((q * n).sum(-1, True) + eps)


def linear_attention(q, k, v, eps=1e-6):
    return _attend(phi(q), phi(k), v, eps)


def causal_linear_attention(q, k, v, eps=1e-6):
    return _causal(phi(q), phi(k), v, eps)


@dataclass
class LinearState:
    batch: int
    num_heads: int
    dim: int
    value_dim: int
    dtype: th.dtype = th.float32
    eps: float = 1e-6
    S: th.Tensor = field(init=False)
    z: th.Tensor = field(init=False)

    def __post_init__(self):
        self.S = th.zeros(self.batch, self.num_heads, self.dim, self.value_dim, dtype=self.dtype)
        self.z = th.zeros(self.batch, self.num_heads, self.dim, dtype=self.dtype)

    @th.no_grad()
    def step(self, q, k, v):
        fq, fk, w = phi(q.to(self.dtype)), phi(k.to(self.dtype)), v.to(self.dtype)
        self.S += fk[..., None] * w[..., None, :]
        self.z += fk
        return (th.einsum("bhd,bhde->bhe", fq, self.S) / ((fq * self.z).sum(-1, keepdim=True) + self.eps)).to(v.dtype)


def orthogonal_features(dim, num_features, generator):
    rows = []
    while len(rows) < num_features:
        Q = th.eye(dim, dtype=th.float64)
        # Haar by Householder (Stewart 1980)
        for n in range(2, dim + 1):
            x = th.randn(n, generator=generator, dtype=th.float64)
            s = 1.0 if x[0] >= 0 else -1.0
            x[0] += s * x.norm()
            H = -s * (th.eye(n, dtype=th.float64) - 2 * th.outer(x, x) / (x @ x))
            Q[dim - n :, :] = H @ Q[dim - n :, :]
        sgn = th.randint(2, (dim,), generator=generator).double() * 2 - 1
        Q = Q * sgn
        rows += list(Q)
    Q = th.stack(rows[:num_features])
    chi = th.randn(num_features, dim, generator=generator, dtype=th.float64).square().sum(1).sqrt()
    return (Q * chi[:, None]).float()


def performer_attention(q, k, v, projection, causal=False):
    D, R = q.shape[-1], projection.shape[0]

    def expo(x):
        x = x * D**-0.25
        return th.einsum("bhld,rd->bhlr", x, projection) - (x * x).sum(-1, True) * 0.5 - 0.5 * math.log(R)

    a, b = expo(q), expo(k)
    top = b.amax(2, keepdim=True)
    b = (b - top).exp()
    a = a + top
    a = (a - a.amax(-1, keepdim=True)).exp()
    return (_causal if causal else _attend)(a, b, v, 0.0)
