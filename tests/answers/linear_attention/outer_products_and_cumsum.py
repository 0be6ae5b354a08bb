"""Prefix sums of outer products, written with einsum; a Cholesky factor for the features."""

import torch


def phi(x):
    return torch.nn.functional.elu(x).add(1)


def linear_attention(q, k, v, eps=1e-6):
    q, k = phi(q), phi(k)
    kv = torch.einsum("bhsd,bhse->bhde", k, v)
    z = 1 / (torch.einsum("bhld,bhd->bhl", q, k.sum(dim=2)) + eps)
    return torch.einsum("bhld,bhde,bhl->bhle", q, kv, z)


def prefix(q, k, v, eps):
    kv = torch.einsum("bhsd,bhse->bhsde", k, v).cumsum(2)
    z = torch.einsum("bhld,bhld->bhl", q, k.cumsum(2)) + eps
    return torch.einsum("bhld,bhlde->bhle", q, kv) / z[..., None]


def causal_linear_attention(q, k, v, eps=1e-6):
    return prefix(phi(q), phi(k), v, eps)


class LinearState:
    def __init__(self, batch, num_heads, dim, value_dim, dtype=torch.float32, eps=1e-6):
        self.kv = torch.zeros(batch, num_heads, dim, value_dim, dtype=dtype)
        self.z = torch.zeros(batch, num_heads, dim, dtype=dtype)
        self.eps = eps

    @torch.no_grad()
    def step(self, q, k, v):
        dtype = v.dtype
        q, k, v = phi(q.to(self.z.dtype)), phi(k.to(self.z.dtype)), v.to(self.z.dtype)
        self.kv += torch.einsum("bhd,bhe->bhde", k, v)
        self.z += k
        out = torch.einsum("bhd,bhde->bhe", q, self.kv) / (torch.einsum("bhd,bhd->bh", q, self.z) + self.eps)[..., None]
        return out.to(dtype)


def orthogonal_features(dim, num_features, generator):
    rows = []
    while len(rows) < num_features:
        block = torch.randn(dim, dim, generator=generator).double()
        lower = torch.linalg.cholesky(block @ block.T)
        rows.extend(torch.linalg.solve_triangular(lower, block, upper=False).float())  # Gram-Schmidt in one step
    lengths = torch.randn(num_features, dim, generator=generator).square().sum(1).sqrt()
    return torch.stack(rows[:num_features]) * lengths[:, None]


def performer_attention(q, k, v, projection, causal=False):
    m, d = projection.shape
    q, k = q * d**-0.25, k * d**-0.25
    q = torch.einsum("bhld,md->bhlm", q, projection) - 0.5 * (q * q).sum(-1, keepdim=True)
    k = torch.einsum("bhsd,md->bhsm", k, projection) - 0.5 * (k * k).sum(-1, keepdim=True)
    q = torch.exp(q - q.detach().amax(dim=-1, keepdim=True)) / m**0.5
    k = torch.exp(k - k.detach().amax(dim=(-2, -1), keepdim=True)) / m**0.5
    if causal:
        return prefix(q, k, v, 0.0)
    kv = torch.einsum("bhsm,bhse->bhme", k, v)
    return torch.einsum("bhlm,bhme->bhle", q, kv) / torch.einsum("bhlm,bhm->bhl", q, k.sum(2))[..., None]
