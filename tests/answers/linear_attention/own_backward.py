"""Causal sums with a backward pass of their own, as in the paper's kernel; features from a singular value decomposition."""

import torch


class CausalProduct(torch.autograd.Function):
    @staticmethod
    def forward(ctx, q, k, v):
        ctx.save_for_backward(q, k, v)
        state = (k.unsqueeze(-1) * v.unsqueeze(-2)).cumsum(2)
        return (q.unsqueeze(-2) @ state).squeeze(-2)

    @staticmethod
    def backward(ctx, grad):
        q, k, v = ctx.saved_tensors
        state = (k.unsqueeze(-1) * v.unsqueeze(-2)).cumsum(2)
        ahead = (q.unsqueeze(-1) * grad.unsqueeze(-2)).flip(2).cumsum(2).flip(2)
        dq = (state @ grad.unsqueeze(-1)).squeeze(-1)
        dk = (ahead @ v.unsqueeze(-1)).squeeze(-1)
        dv = (k.unsqueeze(-2) @ ahead).squeeze(-2)
        return dq, dk, dv


def feature(x):
    return torch.where(x > 0, x, torch.zeros_like(x)) + torch.exp(x.clamp(max=0))


def linear_attention(q, k, v, eps=1e-6):
    q, k = feature(q), feature(k)
    weighted = torch.matmul(q, torch.matmul(k.transpose(-1, -2), v))
    return weighted / (torch.matmul(q, k.sum(-2).unsqueeze(-1)) + eps)


def causal_linear_attention(q, k, v, eps=1e-6):
    q, k = feature(q), feature(k)
    return CausalProduct.apply(q, k, v) / ((q * k.cumsum(2)).sum(-1, keepdim=True) + eps)


class LinearState(torch.nn.Module):
    def __init__(self, batch, num_heads, dim, value_dim, dtype=torch.float32, eps=1e-6):
        super().__init__()
        self.register_buffer("s", torch.zeros(batch * num_heads, dim, value_dim, dtype=dtype))
        self.register_buffer("z", torch.zeros(batch * num_heads, dim, 1, dtype=dtype))
        self.eps = eps

    def step(self, q, k, v):
        with torch.no_grad():
            a, b = feature(q.to(self.s.dtype)).flatten(0, 1), feature(k.to(self.s.dtype)).flatten(0, 1)
            self.s.baddbmm_(b.unsqueeze(2), v.to(self.s.dtype).flatten(0, 1).unsqueeze(1))
            self.z.add_(b.unsqueeze(2))
            out = torch.bmm(a.unsqueeze(1), self.s) / (torch.bmm(a.unsqueeze(1), self.z) + self.eps)
            return out.reshape(v.shape).type_as(v)


def orthogonal_features(dim, num_features, generator):
    pieces = []
    for start in range(0, num_features, dim):
        u, _, vh = torch.linalg.svd(torch.randn(dim, dim, generator=generator))
        rows = min(dim, num_features - start)
        norms = torch.randn(rows, dim, generator=generator).norm(dim=1)
        pieces.append(torch.diag(norms) @ (u @ vh)[:rows])
    return torch.cat(pieces)


def performer_attention(q, k, v, projection, causal=False):
    root = q.shape[-1] ** 0.25
    a = (q / root) @ projection.T
    a = torch.exp(a - a.max(dim=-1, keepdim=True).values)  # the query's norm cancels
    b = (k / root) @ projection.T - (k / root).norm(dim=-1, keepdim=True) ** 2 / 2
    b = torch.exp(b - b.flatten(2).max(dim=-1).values[..., None, None])
    if causal:
        return CausalProduct.apply(a, b, v) / (a * b.cumsum(2)).sum(-1, keepdim=True)
    return a @ (b.mT @ v) / (a @ b.sum(2, keepdim=True).mT)
