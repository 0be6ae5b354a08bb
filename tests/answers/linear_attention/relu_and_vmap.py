"""phi by relu and exp; vmap over heads and batch; cumsum; Gram-Schmidt; online shifts for the causal Performer."""

import torch
from torch.func import vmap


def phi(x):
    return torch.relu(x) + torch.exp(-torch.relu(-x))


def one(q, k, v, eps):
    return (q @ (k.T @ v)) / (q @ k.sum(0).unsqueeze(1) + eps)


def one_causal(q, k, v, eps):
    kv = torch.cumsum(k[:, :, None] * v[:, None, :], 0)
    return torch.einsum("ld,lde->le", q, kv) / ((q * k.cumsum(0)).sum(1, keepdim=True) + eps)


def linear_attention(q, k, v, eps=1e-6):
    return vmap(vmap(lambda a, b, c: one(a, b, c, eps)))(phi(q), phi(k), v)


def causal_linear_attention(q, k, v, eps=1e-6):
    return vmap(vmap(lambda a, b, c: one_causal(a, b, c, eps)))(phi(q), phi(k), v)


class LinearState:
    __slots__ = ("eps", "memory")

    def __init__(self, batch, num_heads, dim, value_dim, dtype=torch.float32, eps=1e-6):
        self.memory = {
            "S": torch.zeros((batch, num_heads, dim, value_dim), dtype=dtype),
            "z": torch.zeros((batch, num_heads, dim), dtype=dtype),
        }
        self.eps = eps

    def step(self, q, k, v):
        S, z = self.memory["S"], self.memory["z"]
        t = S.dtype
        q_, k_, v_ = phi(q.to(t)), phi(k.detach().to(t)), v.detach().to(t)
        self.memory = {"S": S + torch.einsum("bhi,bhj->bhij", k_, v_), "z": z + k_}
        num = torch.einsum("bhi,bhij->bhj", q_, self.memory["S"])
        den = torch.einsum("bhi,bhi->bh", q_, self.memory["z"]) + self.eps
        return (num / den.unsqueeze(-1)).type(v.dtype)


def orthogonal_features(dim, num_features, generator):
    rows = []
    basis = []
    for _ in range(num_features):
        if len(basis) == dim:
            basis = []
        w = torch.randn(dim, generator=generator, dtype=torch.float64)
        norm = torch.randn(dim, generator=generator, dtype=torch.float64).norm()
        for _ in range(2):
            for b in basis:
                w = w - (w @ b) * b
        w = w / w.norm()
        basis.append(w)
        rows.append(w * norm)
    return torch.stack(rows).to(torch.float32)


def performer_attention(q, k, v, projection, causal=False):
    scale = q.shape[-1] ** 0.25
    a, b = ((x / scale) @ projection.T - ((x / scale) ** 2).sum(-1, keepdim=True) / 2 for x in (q, k))
    a = torch.exp(a - torch.max(a, dim=-1, keepdim=True).values.detach())
    b = torch.exp(b - b.flatten(-2).max(-1).values[..., None, None].detach())
    return vmap(vmap(lambda x, y, z: (one_causal if causal else one)(x, y, z, 0.0)))(a, b, v)
