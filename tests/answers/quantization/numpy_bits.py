"""NumPy for the integers: views of bytes, packbits and rint."""

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F


def quantize(x, bits=8, axis=None):
    numbers = x.detach().to(torch.float32).numpy()
    top = np.float32(2 ** (bits - 1) - 1)
    axes = None
    if axis is not None:
        axes = list(range(numbers.ndim))
        axes.pop(axis)
        axes = tuple(axes)
    magnitude = np.max(np.abs(numbers), axis=axes, keepdims=axis is not None)
    scale = np.where(magnitude == 0, np.float32(1), magnitude / top).astype(np.float32)
    q = np.rint(numbers / scale).astype(np.int8)
    return torch.from_numpy(q), torch.as_tensor(scale)


def dequantize(q, scale):
    return torch.from_numpy(q.numpy().astype(np.float32) * scale.numpy())


def quantize_groups(weight, bits, group):
    rows, columns = weight.shape
    number, rest = divmod(columns, group)
    if rest:
        raise ValueError("indivisible")
    q = torch.empty(rows, columns, dtype=torch.int8)
    scales = torch.empty(rows, number)
    for g in range(number):
        part = slice(g * group, (g + 1) * group)
        q[:, part], scale = quantize(weight[:, part], bits, axis=0)
        scales[:, g] = scale.squeeze(1)
    return q, scales


def pack_int4(q):
    if q.size(-1) & 1:
        raise ValueError("an odd number of int4")
    byte = np.ascontiguousarray(q.numpy()).view(np.uint8)
    return torch.from_numpy((byte[..., ::2] & 0x0F) + (byte[..., 1::2] << 4))


def unpack_int4(packed):
    signed = packed.view(torch.int8).numpy()
    out = np.empty((*signed.shape, 2), dtype=np.int8)
    out[..., 0] = np.left_shift(signed, 4) >> 4
    out[..., 1] = signed >> 4
    return torch.from_numpy(out.reshape(*signed.shape[:-1], -1))


class Int8Linear(nn.Module):
    weight: torch.Tensor
    scale: torch.Tensor

    def __init__(self, linear):
        super().__init__()
        quantized = dict(zip(("weight", "scale"), quantize(linear.weight, axis=0), strict=True))
        quantized["bias"] = None if linear.bias is None else torch.from_numpy(linear.bias.detach().numpy().copy())
        for name, tensor in quantized.items():
            self.register_buffer(name, tensor)

    def forward(self, x):
        weight = self.weight.to(x.dtype) * self.scale.to(x.dtype)
        y = F.linear(x, weight)
        return y if self.bias is None else y + self.bias.to(x.dtype)
