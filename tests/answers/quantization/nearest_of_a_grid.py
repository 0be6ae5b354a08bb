"""Rounds by looking for the nearest level of a grid; an autograd Function for the layer; arithmetic on signed bytes."""

import torch
from torch import nn


def _nearest(y, top):
    """Integers next to y, halves to the even one."""
    below = torch.floor(y)
    rest = y - below
    odd = below.remainder(2) == 1
    up = (rest > 0.5) | ((rest == 0.5) & odd)
    return (below + up).clamp_(-top, top)


def quantize(x: torch.Tensor, bits: int = 8, axis: int | None = None):
    top = 2 ** (bits - 1) - 1
    x = x.detach().to(torch.promote_types(torch.float32, x.dtype))
    if axis is None:
        scale = torch.linalg.vector_norm(x, float("inf")) / top
    else:
        axes = tuple(i for i in range(x.dim()) if i not in (axis, axis + x.dim()))
        scale = (x.abs() if not axes else torch.amax(x.abs(), axes, keepdim=True)) / top
    scale = scale + (scale == 0).to(scale.dtype)
    return _nearest(x / scale, top).to(torch.int8), scale


def dequantize(q: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    return torch.mul(q.type(torch.float32), scale)


def quantize_groups(weight: torch.Tensor, bits: int, group: int):
    O, I = weight.shape
    n = I // group
    if n * group != I:
        raise ValueError(f"{I} != {n} * {group}")
    folded = weight.reshape(O, n, group)
    scales = folded.abs().amax(-1, keepdim=True) / (2 ** (bits - 1) - 1)
    scales[scales == 0] = 1
    q = _nearest(folded / scales, 2 ** (bits - 1) - 1)
    return q.reshape(O, I).to(torch.int8), scales[..., 0]


def pack_int4(q: torch.Tensor) -> torch.Tensor:
    if q.shape[-1] % 2 != 0:
        raise ValueError("pairs are needed")
    low, high = q.unflatten(-1, (-1, 2)).to(torch.int16).unbind(-1)
    return ((high * 16 + torch.where(low < 0, low + 16, low)) % 256).to(torch.uint8)


def unpack_int4(packed: torch.Tensor) -> torch.Tensor:
    wide = packed.to(torch.int16)
    low = (wide % 16 + 8) % 16 - 8
    high = (torch.div(wide, 16, rounding_mode="floor") + 8) % 16 - 8
    out = torch.empty(*packed.shape[:-1], 2 * packed.shape[-1], dtype=torch.int8)
    out[..., ::2], out[..., 1::2] = low, high
    return out


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, scale):
        ctx.save_for_backward(weight, scale)
        return (x.float() @ (weight * scale).mT).to(x.dtype)

    @staticmethod
    def backward(ctx, grad):
        weight, scale = ctx.saved_tensors
        return (grad.float() @ (weight * scale)).to(grad.dtype), None, None


class Int8Linear(nn.Module):
    def __init__(self, linear: nn.Linear):
        super().__init__()
        weight, scale = quantize(linear.weight, axis=-2)
        self.register_buffer("weight", weight)
        self.register_buffer("scale", scale)
        self.register_buffer("bias", linear.bias.clone().detach() if isinstance(linear.bias, torch.Tensor) else None)

    def forward(self, x):
        out = _Product.apply(x, self.weight, self.scale)
        return out if self.bias is None else (out + self.bias).to(x.dtype)
