"""Forward and backward as kernels are written: an autograd.Function, saved statistics, torch.compile, F.dropout."""

import torch
import torch.nn as nn
import torch.nn.functional as F


def statistics(x, eps):
    wide = x if x.dtype == torch.float64 else x.float()
    centred = wide - wide.mean(dim=-1, keepdim=True)
    return centred, torch.rsqrt(centred.pow(2).mean(dim=-1, keepdim=True) + eps)


def layer_norm_backward(grad_out, x, weight, eps=1e-5):
    centred, rstd = statistics(x, eps)
    n = centred * rstd
    g = grad_out.to(n.dtype)
    leading = list(range(x.dim() - 1))
    wg = g * weight
    dx = rstd * (wg - wg.mean(-1, keepdim=True) - n * (wg * n).mean(-1, keepdim=True))
    dweight, dbias = g * n, g
    if leading:
        dweight, dbias = dweight.sum(dim=leading), dbias.sum(dim=leading)
    return dx.to(x.dtype), dweight.to(weight.dtype), dbias.to(weight.dtype)


class Normalise(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, bias, eps):
        ctx.save_for_backward(x, weight)
        ctx.eps = eps
        centred, rstd = statistics(x, eps)
        return torch.addcmul(bias, centred * rstd, weight).to(x.dtype)

    @staticmethod
    def backward(ctx, grad_out):
        x, weight = ctx.saved_tensors
        return (*layer_norm_backward(grad_out, x, weight, ctx.eps), None)


def layer_norm(x, weight, bias, eps=1e-5):
    wide = torch.promote_types(x.dtype, torch.float32)
    return Normalise.apply(x, weight.to(wide), bias.to(wide), eps)


@torch.compile
def rms_norm(x, weight, eps=1e-6):
    wide = x if x.dtype == torch.float64 else x.float()
    normed = (wide * torch.rsqrt(torch.mean(wide * wide, -1, keepdim=True) + eps)).to(x.dtype)
    return (weight * normed).to(x.dtype)  # cast first, as Llama does


class RMSNorm(nn.Module):
    def __init__(self, d_model: int, eps: float = 1e-6):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(d_model))
        self.eps = eps

    def forward(self, x):
        return rms_norm(x, self.weight, self.eps)


class LayerNorm(RMSNorm):
    def __init__(self, d_model: int, eps: float = 1e-5):
        super().__init__(d_model, eps)
        self.bias = nn.Parameter(torch.zeros(d_model))

    def forward(self, x):
        return layer_norm(x, self.weight, self.bias, self.eps)


class Residual(nn.Module):
    def __init__(self, sublayer, d_model, norm_first=True, dropout=0.0):
        super().__init__()
        self.sublayer = sublayer
        self.norm = LayerNorm(d_model)
        self.dropout = dropout
        self.forward = self.pre_norm if norm_first else self.post_norm

    def pre_norm(self, x):
        return F.dropout(self.sublayer(self.norm(x)), self.dropout, self.training) + x

    def post_norm(self, x):
        return self.norm(F.dropout(self.sublayer(x), self.dropout, self.training) + x)
