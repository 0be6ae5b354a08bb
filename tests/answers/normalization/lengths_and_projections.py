"""The spread as the length of a vector, the backward pass as two projections, einsum; in place on tensors of its own."""

import torch
import torch.linalg
from torch import nn


def length_and_direction(v, eps):
    """v over the root of its mean square plus eps, and that root."""
    size = v.shape[-1]
    length = torch.linalg.vector_norm(v, dim=-1, keepdim=True) / size**0.5
    root = torch.hypot(length, torch.tensor(eps, dtype=v.dtype).sqrt())
    return v / root, root


def computed_in(x):
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def centre(x):
    ones = torch.full((x.shape[-1],), 1 / x.shape[-1], dtype=x.dtype)
    shift = x[..., :1].detach()
    near = x - shift
    return near - torch.einsum("...m,m->...", near, ones).unsqueeze(-1)


def layer_norm(x, weight, bias, eps=1e-5):
    normed, _ = length_and_direction(centre(x.to(computed_in(x))), eps)
    out = torch.einsum("...m,m->...m", normed, weight.to(normed.dtype))
    out += bias
    return out.to(dtype=x.dtype)


def rms_norm(x, weight, eps=1e-6):
    normed, _ = length_and_direction(x.to(computed_in(x)), eps)
    return torch.mul(normed, weight).to(dtype=x.dtype)


def layer_norm_backward(grad_out, x, weight, eps=1e-5):
    normed, root = length_and_direction(centre(x.to(computed_in(x))), eps)
    g = grad_out.to(computed_in(x))
    reach = g * weight
    reach = reach - normed * torch.einsum("...m,...m->...", reach, normed).unsqueeze(-1) / x.shape[-1]
    dx = centre(reach).div_(root)
    dweight = torch.einsum("...m,...m->m", g, normed)
    dbias = torch.einsum("...m->m", g)
    return dx.to(dtype=x.dtype), dweight.to(dtype=weight.dtype), dbias.to(dtype=weight.dtype)


class Norm(nn.Module):
    def __init__(self, size, eps, shifted):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        if shifted:
            self.bias = nn.Parameter(torch.zeros(size))
        self.eps = eps

    def forward(self, x):
        bias = getattr(self, "bias", None)
        return rms_norm(x, self.weight, self.eps) if bias is None else layer_norm(x, self.weight, bias, self.eps)


def LayerNorm(d_model, eps=1e-5):
    return Norm(d_model, eps, shifted=True)


class RMSNorm(Norm):
    def __init__(self, d_model, eps=1e-6):
        super().__init__(d_model, eps, shifted=False)


class Residual(nn.Module):
    def __init__(self, sublayer, d_model, norm_first=True, dropout=0.0):
        super().__init__()
        self.norm = LayerNorm(d_model)
        self.sublayer = sublayer
        self.drop = nn.Dropout(dropout)
        self.order = ["norm", "sublayer", "drop"] if norm_first else ["sublayer", "drop"]

    def forward(self, x):
        out = x
        for name in self.order:
            out = self.get_submodule(name)(out)
        out = out + x
        return out if "norm" in self.order else self.norm(out)
