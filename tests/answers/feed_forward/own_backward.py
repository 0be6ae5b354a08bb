"""autograd.Functions with derivatives by hand, in float32 or wider, as kernels are written; an activation module inside."""

import math

import torch
from torch import nn


def widened(x):
    return x if x.dtype == torch.float64 else x.float()


class Gelu(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, approximate):
        ctx.save_for_backward(x)
        ctx.approximate = approximate
        z = widened(x)
        if approximate == "none":
            out = z * torch.special.ndtr(z)
        else:
            out = z * 0.5 * (1 + (math.sqrt(2 / math.pi) * (z + 0.044715 * z.pow(3))).tanh())
        return out.to(x.dtype)

    @staticmethod
    def backward(ctx, upstream):
        (x,) = ctx.saved_tensors
        z = widened(x)
        if ctx.approximate == "none":
            slope = torch.special.ndtr(z) + z * torch.exp(-0.5 * z * z) / math.sqrt(2 * math.pi)
        else:
            c = math.sqrt(2 / math.pi)
            t = (c * (z + 0.044715 * z**3)).tanh()
            slope = 0.5 * (1 + t) + 0.5 * z * (1 - t * t) * c * (1 + 3 * 0.044715 * z * z)
        return (upstream * slope).to(x.dtype), None


class Silu(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        s = torch.sigmoid(widened(x))
        ctx.save_for_backward(x, s)
        return (widened(x) * s).to(x.dtype)

    @staticmethod
    def backward(ctx, upstream):
        x, s = ctx.saved_tensors
        return (upstream * (s * (1 + widened(x) * (1 - s)))).to(x.dtype)


def gelu(x, approximate="none"):
    if approximate != "none" and approximate != "tanh":
        raise ValueError("approximate is 'none' or 'tanh'")
    return Gelu.apply(x, approximate)


silu = Silu.apply


class GELU(nn.Module):
    def forward(self, x):
        return gelu(x)


class FeedForward(nn.Module):
    def __init__(self, d_model, d_hidden, dropout=0.0, activation="relu"):
        super().__init__()
        self.up, self.down = nn.Linear(d_model, d_hidden), nn.Linear(d_hidden, d_model)
        if activation == "relu":
            act = nn.ReLU(inplace=True)
        elif activation == "gelu":
            act = GELU()
        else:
            raise ValueError(f"no activation {activation}")
        self.middle = nn.Sequential(act, nn.Dropout(dropout, inplace=activation == "relu"))

    @torch.compile
    def forward(self, x):
        return self.down(self.middle(self.up(x)))


class SwiGLU(nn.Module):
    def __init__(self, d_model, d_hidden):
        super().__init__()
        for name, shape in {"gate": (d_model, d_hidden), "up": (d_model, d_hidden), "down": (d_hidden, d_model)}.items():
            self.add_module(name, nn.Linear(*shape, bias=False))

    @torch.compile
    def forward(self, x):
        return self.down(silu(self.gate(x)).mul(self.up(x)))


def swiglu_hidden(d_model, multiple_of=256):
    return math.ceil(8 * d_model / 3 / multiple_of) * multiple_of
