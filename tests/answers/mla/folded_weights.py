"""Everything is folded as the paper says: k_up into q_proj, v_up into out_proj; forward is the absorbed form, too."""

import torch
from torch import nn
from torch.nn.functional import linear


class Plain(nn.Linear):
    def __init__(self, i, o):
        super().__init__(i, o, bias=False)


def cos_sin(places, r, like):
    angles = torch.einsum("l,p->lp", places.float(), 1 / 10000 ** (torch.arange(r // 2) * 2 / r)).repeat_interleave(2, -1)
    return angles.cos().to(like), angles.sin().to(like)


def quarter(x):
    """(a, b) becomes (-b, a)."""
    return torch.stack([-x[..., 1::2], x[..., ::2]], -1).reshape(x.shape)


class LatentAttention(nn.Module):
    def __init__(self, d_model: int, num_heads: int, head_dim: int, kv_rank: int, rope_dim: int) -> None:
        super().__init__()
        if rope_dim % 2:
            raise ValueError("odd")
        self.sizes = num_heads, head_dim, kv_rank, rope_dim
        self.q_proj = Plain(d_model, num_heads * (head_dim + rope_dim))
        self.kv_down, self.k_rope = Plain(d_model, kv_rank), Plain(d_model, rope_dim)
        self.kv_norm = nn.RMSNorm(kv_rank, 1e-6)
        self.k_up, self.v_up = Plain(kv_rank, num_heads * head_dim), Plain(kv_rank, num_heads * head_dim)
        self.out_proj = Plain(num_heads * head_dim, d_model)

    def absorbed(self, x, cache=None):
        h, d, c, r = self.sizes
        b, n, m = x.shape
        t = cache.shape[1] if cache is not None else 0
        cos, sin = cos_sin(torch.arange(t, t + n), r, x)
        key = self.k_rope(x)
        kept = torch.cat([self.kv_norm(self.kv_down(x)), key * cos + quarter(key) * sin], 2)
        kept = kept if cache is None else torch.cat([cache, kept], 1)
        content, rotary = self.q_proj.weight.view(h, d + r, m).split([d, r], 1)
        folded = torch.matmul(self.k_up.weight.view(h, d, c).transpose(1, 2), content)  # (h, c, m)
        q_c, q_r = (linear(x, w.reshape(-1, m)).view(b, n, h, -1) for w in (folded, rotary))
        q_r = q_r * cos[:, None] + quarter(q_r) * sin[:, None]
        q = torch.cat([q_c, q_r], -1).reshape(b, n * h, c + r)  # all heads are queries of one head
        scores = torch.bmm(q, kept.transpose(1, 2)).view(b, n, h, t + n) * (d + r) ** -0.5
        bias = torch.zeros(n, t + n, dtype=x.dtype).masked_fill(torch.arange(t + n) > torch.arange(t, t + n)[:, None], -torch.inf)
        weights = torch.exp(torch.log_softmax(scores + bias[:, None], -1))
        seen = torch.bmm(weights.view(b, n * h, t + n), kept[..., :c]).view(b, n, h * c)
        out = torch.einsum("mhd,hdc->mhc", self.out_proj.weight.view(m, h, d), self.v_up.weight.view(h, d, c))
        return linear(seen, out.reshape(m, h * c)), kept

    forward = absorbed
