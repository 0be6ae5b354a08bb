"""Both forms through F.scaled_dot_product_attention; absorbed, it is multi-query attention to the cache itself, keys and values in one."""

import torch
import torch.nn.functional as F
from torch import nn


def rotation(x, first):
    """x is (..., L, R): each pair of channels times a 2 x 2 matrix."""
    L, R = x.shape[-2:]
    angle = (torch.arange(first, first + L).double().unsqueeze(1) * torch.pow(10000.0, -torch.arange(0, R, 2).double() / R)).to(
        torch.float32
    )
    matrix = torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()], dim=-1).view(L, R // 2, 2, 2)
    wide = torch.promote_types(x.dtype, torch.float32)
    return (matrix.to(wide) @ x.to(wide).view(*x.shape[:-1], R // 2, 2, 1)).view(x.shape).to(x.dtype)


class LatentAttention(nn.Module):
    def __init__(self, d_model, num_heads, head_dim, kv_rank, rope_dim):
        if rope_dim & 1:
            raise ValueError(f"rope_dim {rope_dim} is odd")
        super().__init__()
        self.H, self.D, self.C, self.R = num_heads, head_dim, kv_rank, rope_dim
        shapes = {
            "q_proj": (d_model, num_heads * (head_dim + rope_dim)),
            "kv_down": (d_model, kv_rank),
            "k_rope": (d_model, rope_dim),
            "k_up": (kv_rank, num_heads * head_dim),
            "v_up": (kv_rank, num_heads * head_dim),
            "out_proj": (num_heads * head_dim, d_model),
        }
        for name, (fan_in, fan_out) in shapes.items():
            self.add_module(name, nn.Linear(fan_in, fan_out, bias=False))
        self.kv_norm = nn.RMSNorm([kv_rank], eps=1e-6)

    def _both(self, x, cache):
        B, L, _ = x.shape
        q = self.q_proj(x).view(B, L, self.H, self.D + self.R).transpose(1, 2)
        t = 0 if cache is None else cache.size(1)
        content, rotary = q[..., : self.D], rotation(q[..., self.D :].contiguous(), t)
        kept = torch.cat((self.kv_norm(self.kv_down(x)), rotation(self.k_rope(x), t)), -1)
        if cache is not None:
            kept = torch.cat((cache, kept), 1)
        return content, rotary, kept, torch.ones(L, t + L).tril(t).bool()

    def forward(self, x, cache=None):
        B, L, _ = x.shape
        content, rotary, kept, mask = self._both(x, cache)
        latent, key = kept[..., : self.C], kept[..., self.C :]
        k = self.k_up(latent).view(B, -1, self.H, self.D).transpose(1, 2)
        v = self.v_up(latent).view(B, -1, self.H, self.D).transpose(1, 2)
        k = torch.cat((k, key[:, None].repeat(1, self.H, 1, 1)), -1)
        out = F.scaled_dot_product_attention(torch.cat((content, rotary), -1), k, v, attn_mask=mask)
        return self.out_proj(out.transpose(1, 2).reshape(B, L, -1)), kept

    def absorbed(self, x, cache=None):
        B, L, _ = x.shape
        content, rotary, kept, mask = self._both(x, cache)
        q = torch.cat((content @ self.k_up.weight.view(self.H, self.D, self.C), rotary), -1)
        shared = kept[:, None].expand(-1, self.H, -1, -1)
        out = F.scaled_dot_product_attention(q, shared, shared, attn_mask=mask, scale=(self.D + self.R) ** -0.5)[..., : self.C]
        out = out @ self.v_up.weight.view(self.H, self.D, self.C).transpose(1, 2)
        return self.out_proj(out.transpose(1, 2).reshape(B, L, -1)), kept
