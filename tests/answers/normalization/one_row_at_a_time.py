"""Python loops over rows; dot products; the Jacobian of a row as a matrix; results collected in lists."""

import math

import torch
from torch import nn


def row_statistics(row, eps):
    size = row.numel()
    mean = torch.dot(row, torch.ones_like(row)) / size
    away = row - mean
    return away, torch.sqrt(torch.dot(away, away) / size + eps)


def rows_of(x):
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    return [row.to(dtype) for row in x.contiguous().view(-1, x.shape[-1])]


def layer_norm(x, weight, bias, eps=1e-5):
    out = []
    for row in rows_of(x):
        away, std = row_statistics(row, eps)
        out.append(away / std * weight + bias)
    return torch.stack(out).view(x.shape).to(x.dtype)


def rms_norm(x, weight, eps=1e-6):
    out = [row / torch.sqrt(torch.dot(row, row) / len(row) + eps) * weight for row in rows_of(x)]
    return torch.stack(out).view(x.shape).to(x.dtype)


def layer_norm_backward(grad_out, x, weight, eps=1e-5):
    size = x.shape[-1]
    dx, dweight, dbias = [], 0.0, 0.0
    for g, row in zip(rows_of(grad_out), rows_of(x)):
        away, std = row_statistics(row, eps)
        n = away / std
        jacobian = (torch.eye(size, dtype=row.dtype) - 1 / size - torch.outer(n, n) / size) / std
        dx.append(jacobian @ (g * weight).to(row.dtype))
        dweight = dweight + g * n
        dbias = dbias + g
    return torch.stack(dx).view(x.shape).to(x.dtype), dweight.to(weight.dtype), dbias.to(weight.dtype)


class LayerNorm(nn.Module):
    def __init__(self, d_model, eps=1e-5):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(d_model))
        self.bias = nn.Parameter(torch.zeros(d_model))
        self.eps = eps

    def forward(self, x):
        return layer_norm(x, self.weight, self.bias, self.eps)


class RMSNorm(nn.Module):
    def __init__(self, d_model, eps=1e-6):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(d_model))
        self.eps = eps

    def forward(self, x):
        return rms_norm(x, self.weight, self.eps)


class Residual(nn.Module):
    def __init__(self, sublayer, d_model, norm_first=True, dropout=0.0):
        super().__init__()
        self.add_module("norm", LayerNorm(d_model))
        self.add_module("sublayer", sublayer)
        self.norm_first = norm_first
        self.dropout = dropout

    def forward(self, x):
        branch = self.sublayer(self.norm(x) if self.norm_first else x)
        if self.training and self.dropout > 0:
            keep = torch.rand(branch.shape) >= self.dropout
            scale = 1 / (1 - self.dropout) if self.dropout < 1 else 0.0
            branch = torch.where(keep, branch * scale, torch.zeros(()).to(branch.dtype))
        total = torch.add(x, branch)
        return total if self.norm_first else self.norm(total)
