"""A running softmax, one new token after the other: a form that needs no mask, and a list that holds what both forms share."""

import torch
from torch import nn


class LatentAttention(nn.Module):
    def __init__(self, d_model, num_heads, head_dim, kv_rank, rope_dim):
        super().__init__()
        if rope_dim // 2 * 2 < rope_dim:
            raise ValueError("rope_dim")
        lin = lambda i, o: nn.Linear(i, o, bias=False)  # noqa: E731
        self.q_proj, self.out_proj = lin(d_model, num_heads * (head_dim + rope_dim)), lin(num_heads * head_dim, d_model)
        self.kv_down, self.k_rope = lin(d_model, kv_rank), lin(d_model, rope_dim)
        self.k_up, self.v_up = lin(kv_rank, num_heads * head_dim), lin(kv_rank, num_heads * head_dim)
        self.kv_norm = nn.RMSNorm(kv_rank, eps=1e-6)
        self.heads, self.rank = num_heads, kv_rank
        self.speeds = 10000.0 ** (
            -torch.arange(0, rope_dim, 2, dtype=torch.float64) / rope_dim
        )  # no buffer: layer.half() is not to round it
        self.scale = float(head_dim + rope_dim) ** -0.5

    def turn(self, x, place):
        """x is (..., R), all at one place."""
        angle = (place * self.speeds).repeat_interleave(2)
        half = torch.stack([-x[..., 1::2], x[..., ::2]], dim=-1).flatten(-2)
        return (x * angle.cos() + half * angle.sin()).to(x.dtype)

    def steps(self, x, cache, attend):
        B, L, _ = x.shape
        rows, out = ([] if cache is None else list(cache.unbind(1))), []
        for token in x.unbind(1):
            place = len(rows)
            rows.append(torch.cat([self.kv_norm(self.kv_down(token)), self.turn(self.k_rope(token), place)], dim=-1))
            q = self.q_proj(token).unflatten(-1, (self.heads, -1))
            D = self.k_up.out_features // self.heads
            out.append(attend(q[..., :D], self.turn(q[..., D:], place), torch.stack(rows, dim=1), D))
        return self.out_proj(torch.stack(out, dim=1)), torch.stack(rows, dim=1)

    def forward(self, x, cache=None):
        def attend(q, q_rope, kept, D):
            k, v = (up(kept[..., : self.rank]).unflatten(-1, (self.heads, D)) for up in (self.k_up, self.v_up))
            scores = (k * q[:, None]).sum(-1) + (kept[:, :, None, self.rank :] * q_rope[:, None]).sum(-1)  # (B, t, H)
            return ((scores * self.scale).softmax(1)[..., None] * v).sum(1).flatten(1)

        return self.steps(x, cache, attend)

    def absorbed(self, x, cache=None):
        def attend(q, q_rope, kept, D):
            U, W = (up.weight.unflatten(0, (self.heads, D)) for up in (self.k_up, self.v_up))
            asked = torch.cat([torch.einsum("bhd,hdc->bhc", q, U), q_rope], dim=-1)
            weights = (torch.einsum("bhc,btc->bht", asked, kept) * self.scale).softmax(-1)
            seen = torch.einsum("bht,btc->bhc", weights, kept[..., : self.rank])
            return torch.einsum("bhc,hdc->bhd", seen, W).flatten(1)

        return self.steps(x, cache, attend)
