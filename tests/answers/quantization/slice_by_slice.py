"""Python loops over slices, groups and nibbles."""

import torch
from torch import nn


def one_scale(x, bits):
    top = 2 ** (bits - 1) - 1
    largest = max(abs(float(number)) for number in x.flatten())
    scale = largest / top if largest else 1.0
    q = [min(top, max(-top, round(float(number) / scale))) for number in x.flatten()]
    return torch.tensor(q, dtype=torch.int8).reshape(x.shape), scale


def quantize(x, bits=8, axis=None):
    if axis is None:
        q, scale = one_scale(x, bits)
        return q, torch.tensor(scale)
    pairs = [one_scale(part, bits) for part in x.unbind(axis)]
    q = torch.stack([q for q, _ in pairs], dim=axis)
    shape = [1] * x.ndim
    shape[axis] = -1
    return q, torch.tensor([scale for _, scale in pairs]).reshape(shape)


def dequantize(q, scale):
    return q.to(torch.float32).mul(scale)


def quantize_groups(weight, bits, group):
    rows, scales = [], []
    if weight.shape[1] % group != 0:
        raise ValueError("the last group would be too short")
    for row in weight:
        pairs = [one_scale(part, bits) for part in row.split(group)]
        rows.append(torch.cat([q for q, _ in pairs]))
        scales.append(torch.tensor([scale for _, scale in pairs]))
    return torch.stack(rows), torch.stack(scales)


def pack_int4(q):
    flat = q.flatten().tolist()
    if q.shape[-1] % 2 == 1:
        raise ValueError("the last axis must be even")
    packed = [(high % 16) * 16 + low % 16 for low, high in zip(flat[::2], flat[1::2], strict=True)]
    return torch.tensor(packed, dtype=torch.uint8).reshape(*q.shape[:-1], -1)


def unpack_int4(packed):
    numbers = []
    for byte in packed.flatten().tolist():
        for nibble in (byte % 16, byte // 16):
            numbers.append(nibble - 16 if nibble >= 8 else nibble)
    return torch.tensor(numbers, dtype=torch.int8).reshape(*packed.shape[:-1], -1)


class Int8Linear(nn.Module):
    def __init__(self, linear):
        super().__init__()
        q, scale = quantize(linear.weight.data, 8, 0)
        self.register_buffer("weight", q)
        self.register_buffer("scale", scale)
        if linear.bias is not None:
            self.register_buffer("bias", linear.bias.data.clone())
        else:
            self.bias = None

    def forward(self, x):
        outputs = []
        for row, scale in zip(self.weight, self.scale, strict=True):
            outputs.append((x * (row * scale).to(x.dtype)).sum(-1))
        y = torch.stack(outputs, dim=-1)
        if self.bias is not None:
            y = y + self.bias.to(x.dtype)
        return y
