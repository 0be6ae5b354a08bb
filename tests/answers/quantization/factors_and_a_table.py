"""Factors in place of scales, as bitsandbytes has them; the layer is an nn.Linear that has lost its parameters; bytes through a table."""

import torch as th
from torch import nn

PAIRS = th.stack(th.meshgrid(th.arange(16), th.arange(16), indexing="ij"), -1).flip(-1).reshape(256, 2)
PAIRS = th.where(PAIRS < 8, PAIRS, PAIRS - 16).to(th.int8)


def absmax(v, axis):
    if axis is None:
        return v.abs().max()
    other = [i for i in range(v.ndim) if i != range(v.ndim)[axis]]
    out = v.abs()
    for i in other:
        out = out.max(i, keepdim=True)[0]
    return out


def quantize(x, bits=8, axis=None):
    top = (1 << bits - 1) - 1
    v = x.detach().float()
    m = absmax(v, axis)
    factor = th.where(m == 0, 1.0, top / m)
    q = (v * factor).round_().clamp_(-top, top)
    return q.char(), th.where(m == 0, 1.0, m / top)


def dequantize(q, scale):
    return th.mul(q, scale).float()


def quantize_groups(weight, bits, group):
    if weight.size(1) % group != 0:
        raise ValueError(f"{weight.size(1)} % {group}")
    q, s = quantize(weight.unflatten(1, (-1, group)).flatten(0, 1), bits, 0)
    return q.reshape_as(weight), s.reshape(len(weight), -1)


def pack_int4(q):
    if q.shape[-1] & 1:
        raise ValueError("odd")
    lo, hi = q.reshape(*q.shape[:-1], q.shape[-1] // 2, 2).unbind(-1)
    return ((lo & 15) | (hi << 4)).view(th.uint8)


def unpack_int4(packed):
    return PAIRS[packed.long()].flatten(-2)


class Int8Linear(nn.Linear):
    def __init__(self, linear):
        super().__init__(linear.in_features, linear.out_features, bias=False)
        del self.weight, self.bias
        w, s = quantize(linear.weight.detach(), axis=0)
        self.register_buffer("weight", w)
        self.register_buffer("scale", s)
        self.register_buffer("bias", linear.bias.detach().clone() if linear.bias is not None else None)

    def forward(self, x):
        wide = th.promote_types(x.dtype, th.float32)
        y = nn.functional.linear(x.to(wide), self.weight.to(wide)) * self.scale.squeeze(1).to(wide)
        return (y if self.bias is None else y + self.bias.to(wide)).to(x.dtype)
