"""All in float64, cast back at the end; var_mean; sums over named axes; dropout by hand."""

import torch
from torch import nn


def layer_norm(x, weight, bias, eps=1e-5):
    wide = x.double()
    var, mean = torch.var_mean(wide, dim=-1, correction=0, keepdim=True)
    return ((wide - mean) / (var + eps) ** 0.5 * weight.double() + bias.double()).type_as(x)


def rms_norm(x, weight, eps=1e-6):
    wide = x.double()
    return (wide / (wide.pow(2).sum(-1, keepdim=True) / x.size(-1) + eps).sqrt() * weight.double()).type_as(x)


def layer_norm_backward(grad_out, x, weight, eps=1e-5):
    M = x.shape[-1]
    g, wide, w = (t.double().reshape(-1, M) for t in (grad_out, x, weight))
    var, mean = torch.var_mean(wide, dim=1, correction=0, keepdim=True)
    std = torch.sqrt(var + eps)
    n = (wide - mean) / std
    gn = g * w
    gvar = (gn * (wide - mean)).sum(1, keepdim=True) * -0.5 / std**3
    gmean = -gn.sum(1, keepdim=True) / std + gvar * (-2 * (wide - mean)).mean(1, keepdim=True)
    dx = gn / std + gvar * 2 * (wide - mean) / M + gmean / M
    return [dx.reshape(x.shape).type_as(x), (g * n).sum(0).type_as(weight), g.sum(0).type_as(weight)]


class LayerNorm(nn.Module):
    def __init__(self, d_model, eps=1e-5):
        super().__init__()
        self.register_parameter("weight", nn.Parameter(torch.full((d_model,), 1.0)))
        self.register_parameter("bias", nn.Parameter(torch.full((d_model,), 0.0)))
        self.eps = eps

    def forward(self, x):
        return layer_norm(x, self.weight, self.bias, eps=self.eps)


class RMSNorm(nn.Module):
    def __init__(self, d_model, eps=1e-6):
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(d_model))

    def forward(self, x):
        return rms_norm(x, self.weight, self.eps)


class Residual(nn.Module):
    def __init__(self, sublayer, d_model, norm_first=True, dropout=0.0):
        super().__init__()
        self.norm, self.sublayer, self.norm_first, self.p = LayerNorm(d_model), sublayer, norm_first, dropout

    def drop(self, x):
        if not self.training or self.p == 0:
            return x
        if self.p == 1:
            return torch.zeros_like(x)
        kept = torch.bernoulli(torch.full_like(x, 1 - self.p))
        return x * kept / (1 - self.p)

    def forward(self, x):
        inner = self.norm(x) if self.norm_first else x
        outer = x + self.drop(self.sublayer(inner))
        return outer if self.norm_first else self.norm(outer)
