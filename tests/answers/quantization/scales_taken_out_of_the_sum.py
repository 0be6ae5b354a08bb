"""movedim and flatten for the maxima; the product is done with the integers, and each output is scaled afterwards."""

import torch


def _levels(bits):
    return (1 << (bits - 1)) - 1


def quantize(x, bits=8, axis=None):
    x = x.to(torch.float32)
    if axis is None:
        low, high = torch.aminmax(x)
        largest = torch.maximum(-low, high)
    else:
        first = x.movedim(axis, 0)
        largest = first.reshape(first.size(0), -1).abs().max(dim=1).values
        shape = [1 for _ in x.shape]
        shape[axis] = x.size(axis)
        largest = largest.view(shape)
    scale = largest.div(_levels(bits)).masked_fill(largest == 0, 1)
    return x.div(scale).round().clamp(-_levels(bits), _levels(bits)).char(), scale


def dequantize(q, scale):
    return (q * scale.float()).float()


def quantize_groups(weight, bits, group):
    rows, columns = weight.shape
    if columns / group != columns // group:
        raise ValueError(f"{columns} is no multiple of {group}")
    blocks = weight.unfold(1, group, group)  # (O, I / group, group)
    q, scales = quantize(blocks.flatten(0, 1), bits, axis=-2)
    return q.reshape(rows, columns), scales.reshape(rows, -1)


def pack_int4(q):
    *lead, n = q.shape
    if n % 2:
        raise ValueError(n)
    pairs = q.int().remainder(16).view(*lead, n // 2, 2)
    return (pairs * torch.tensor([1, 16])).sum(-1).to(torch.uint8)


def unpack_int4(packed):
    table = torch.tensor([*range(8), *range(-8, 0)], dtype=torch.int8)
    byte = packed.long()
    both = torch.stack((table[byte & 15], table[byte >> 4]), dim=-1)
    return both.reshape(*packed.shape[:-1], 2 * packed.shape[-1])


class Int8Linear(torch.nn.Module):
    def __init__(self, linear):
        super().__init__()
        with torch.no_grad():
            weight, scale = quantize(linear.weight, axis=0)
            bias = linear.bias
            self.register_buffer("weight", weight)
            self.register_buffer("scale", scale)
            self.register_buffer("bias", bias if bias is None else torch.empty_like(bias).copy_(bias))

    def forward(self, x):
        out = torch.einsum("...i,oi->...o", x.float(), self.weight.float()) * self.scale.T[0]
        if self.bias is not None:
            out += self.bias
        return out.type_as(x)
