"""Functional: closures and torch.vmap, scales in float64, all bits on an axis of their own, a product for each row."""

from functools import partial

import torch
from torch import nn, vmap


def levels(bits):
    return 2 ** (bits - 1) - 1


def scale_of(top):
    def f(v):
        m = v.abs().amax()
        return torch.where(m > 0, m / top, torch.ones_like(m))

    return f


def quantize(x: torch.Tensor, bits: int = 8, axis: int | None = None):
    f = scale_of(levels(bits))
    v = x.detach().to(torch.float64)
    if axis is None:
        s = f(v)
    else:
        s = vmap(f, in_dims=axis)(v)
        s = s.reshape([-1 if i == axis % x.ndim else 1 for i in range(x.ndim)])
    s32 = s.to(torch.float32)
    return (v / s).round().to(torch.int8), s32


def dequantize(q, scale):
    return torch.einsum("...,...->...", q.float(), scale.expand(q.shape))


def quantize_groups(weight, bits, group):
    if weight.shape[1] % group:
        raise ValueError(f"no multiple of {group}")
    blocks = weight.view(weight.shape[0], -1, group)
    q, s = zip(*(quantize(b, bits, 0) for b in blocks.unbind(1)), strict=True)
    return torch.cat(q, 1), torch.cat(s, 1)


def pack_int4(q):
    if q.shape[-1] % 2:
        raise ValueError("cannot be paired")
    bits = (q.unsqueeze(-1) >> torch.arange(4, dtype=torch.int8)) & 1
    bits = bits.reshape(*q.shape[:-1], -1, 8)
    return (bits.int() << torch.arange(8)).sum(-1).to(torch.uint8)


def unpack_int4(packed):
    bits = (packed.int().unsqueeze(-1) >> torch.arange(8)) & 1
    four = bits.reshape(*packed.shape[:-1], packed.shape[-1] * 2, 4)
    return (four * torch.tensor([1, 2, 4, -8])).sum(-1).to(torch.int8)


class Int8Linear(nn.Module):
    def __init__(self, linear):
        super().__init__()
        q, s = quantize(linear.weight, axis=0)
        for name, value in dict(weight=q, scale=s, bias=linear.bias if linear.bias is None else linear.bias.data.clone()).items():
            self.register_buffer(name, value)

    def __call__(self, x):
        dot = partial(torch.matmul, x)
        out = torch.stack([dot((w.float() * s).to(x.dtype)) for w, s in zip(self.weight, self.scale, strict=True)], -1)
        return out if self.bias is None else out.add_(self.bias)
