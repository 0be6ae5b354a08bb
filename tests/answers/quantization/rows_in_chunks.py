"""Dequantizes a few rows at a time, with a table of all levels made at the start; infinity norms; own copies changed in place."""

import math

import torch
from torch import Tensor, nn


def _reduce(x: Tensor, keep: int) -> Tensor:
    perm = [keep] + [i for i in range(x.dim()) if i != keep]
    rows = x.permute(perm).contiguous().view(x.size(keep), -1)
    return rows.norm(p=math.inf, dim=1)


def quantize(x: Tensor, bits: int = 8, axis: int | None = None) -> tuple[Tensor, Tensor]:
    top = float(2 ** (bits - 1) - 1)
    x = x.detach().clone().to(dtype=torch.float)
    if axis is None:
        s = x.reshape(-1).norm(p=math.inf) / top
    else:
        axis = axis + x.dim() if axis < 0 else axis
        s = _reduce(x, axis) / top
        for i in range(x.dim()):
            if i < axis:
                s = s.unsqueeze(0)
            elif i > axis:
                s = s.unsqueeze(-1)
    s = torch.where(s.eq(0), torch.ones_like(s), s)
    x.div_(s).round_()
    return x.type(torch.int8), s


def dequantize(q: Tensor, scale: Tensor) -> Tensor:
    out = torch.empty(q.shape, dtype=torch.float32)
    out.copy_(q)
    return out.mul_(scale)


def quantize_groups(weight: Tensor, bits: int, group: int) -> tuple[Tensor, Tensor]:
    O, I = weight.shape
    if I % group:
        raise ValueError("group")
    q = torch.zeros(O, I, dtype=torch.int8)
    scales = torch.zeros(O, I // group)
    for o in range(O):
        for g in range(I // group):
            cols = slice(g * group, g * group + group)
            q[o, cols], scales[o, g] = quantize(weight[o, cols], bits)
    return q, scales


def pack_int4(q: Tensor) -> Tensor:
    n = q.size(-1)
    if n != n // 2 * 2:
        raise ValueError
    even, odd = q.index_select(-1, torch.arange(0, n, 2)), q.index_select(-1, torch.arange(1, n, 2))
    return torch.add(even.remainder(16).to(torch.uint8), odd.remainder(16).to(torch.uint8), alpha=16)


def unpack_int4(packed: Tensor) -> Tensor:
    high = packed.view(torch.int8) >> 4
    low = (packed << 4).view(torch.int8) >> 4
    return torch.stack([low, high], dim=-1).view(*packed.shape[:-1], -1)


class Int8Linear(nn.Module):
    CHUNK = 2

    def __init__(self, linear: nn.Linear):
        super().__init__()
        self.out_features, self.in_features = linear.weight.shape
        self.codes = torch.arange(-128, 128).float()
        w, s = quantize(linear.weight.data, 8, 0)
        self.register_buffer("weight", w)
        self.register_buffer("scale", s)
        self.register_buffer("bias", None)
        if linear.bias is not None:
            self.bias = linear.bias.data.clone()

    def forward(self, x: Tensor) -> Tensor:
        pieces = []
        for w, s in zip(self.weight.split(self.CHUNK), self.scale.split(self.CHUNK), strict=True):
            piece = self.codes[w.long() + 128] * s
            pieces.append(x @ piece.to(x).mT)
        y = torch.cat(pieces, -1)
        return y if self.bias is None else y + self.bias.to(y)
