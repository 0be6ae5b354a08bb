"""torch.vmap over heads and batch, complex exponentials for the rotations, a dataclass that refuses odd sizes."""

from dataclasses import dataclass
from functools import partial

import torch as th
from torch import nn, vmap


@dataclass(frozen=True)
class Dims:
    h: int
    d: int
    c: int
    r: int

    def __post_init__(self):
        if self.r % 2:
            raise ValueError("r must be even")


def phases(start, n, r):
    w = th.exp(-th.arange(0, r, 2, dtype=th.float64) / r * th.log(th.tensor(10000.0, dtype=th.float64)))
    return th.outer(th.arange(start, start + n, dtype=th.float64), w)


def spin(x, ang):
    z = th.complex(x[..., ::2].double(), x[..., 1::2].double()) * th.exp(1j * ang)
    return th.view_as_real(z).flatten(-2).to(x.dtype)


def head_plain(qc, qr, U, W, lat, kr, hide, scale):
    s = (th.cat([qc, qr], -1) @ th.cat([lat @ U.T, kr], -1).T).mul(scale).where(~hide, -float("inf"))
    return s.softmax(-1) @ (lat @ W.T)


def head_absorbed(qc, qr, U, W, lat, kr, hide, scale):
    s = ((qc @ U) @ lat.T + qr @ kr.T).mul(scale).where(~hide, -float("inf"))
    return (s.softmax(-1) @ lat) @ W.T


class LatentAttention(nn.Module):
    def __init__(self, d_model, num_heads, head_dim, kv_rank, rope_dim):
        super().__init__()
        self.s = s = Dims(num_heads, head_dim, kv_rank, rope_dim)
        for name, (i, o) in dict(
            q_proj=(d_model, s.h * (s.d + s.r)),
            kv_down=(d_model, s.c),
            k_rope=(d_model, s.r),
            k_up=(s.c, s.h * s.d),
            v_up=(s.c, s.h * s.d),
            out_proj=(s.h * s.d, d_model),
        ).items():
            setattr(self, name, nn.Linear(in_features=i, out_features=o, bias=False))
        self.kv_norm = nn.RMSNorm((kv_rank,), eps=1e-6)

    def _go(self, core, x, cache):
        s, (B, L, _) = self.s, x.shape
        t = 0 if cache is None else cache.size(1)
        ang = phases(t, L, s.r)
        lat, kr = self.kv_norm(self.kv_down(x)), spin(self.k_rope(x), ang)
        fresh = th.cat((lat, kr), -1)
        full = fresh if cache is None else th.cat((cache, fresh), 1)
        q = self.q_proj(x).view(B, L, s.h, s.d + s.r)
        qc, qr = q[..., : s.d], spin(q[..., s.d :].transpose(1, 2), ang).transpose(1, 2)
        hide = th.arange(t + L) > (t + th.arange(L))[:, None]
        U, W = (w.weight.view(s.h, s.d, s.c) for w in (self.k_up, self.v_up))
        core = partial(core, hide=hide, scale=(s.d + s.r) ** -0.5)
        over_heads = vmap(core, in_dims=(1, 1, 0, 0, None, None), out_dims=1)
        over_batch = vmap(over_heads, in_dims=(0, 0, None, None, 0, 0))
        y = over_batch(qc, qr, U, W, full[..., : s.c], full[..., s.c :])
        return self.out_proj(y.reshape(B, L, -1)), full

    def forward(self, x, cache=None):
        return self._go(head_plain, x, cache)

    def absorbed(self, x, cache=None):
        return self._go(head_absorbed, x, cache)
