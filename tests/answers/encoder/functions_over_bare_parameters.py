"""Modules only hold parameters; one fused product makes q, k and v; everything is done by functions."""

import torch
import torch.nn.functional as F
from torch import nn


class Affine(nn.Module):
    def __init__(self, n_in, n_out):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(n_out, n_in))
        self.bias = nn.Parameter(torch.zeros(n_out))
        nn.init.xavier_uniform_(self.weight)


class Scale(nn.Module):
    def __init__(self, n):
        super().__init__()
        self.register_parameter("weight", nn.Parameter(torch.ones(n)))
        self.register_parameter("bias", nn.Parameter(torch.zeros(n)))


def attend(p, x, heads, mask, drop):
    B, L, M = x.shape
    projections = [p["q_proj"], p["k_proj"], p["v_proj"]]
    fused = F.linear(x, torch.cat([a.weight for a in projections]), torch.cat([a.bias for a in projections]))
    q, k, v = fused.view(B, L, 3, heads, M // heads).permute(2, 0, 3, 1, 4)
    if mask is not None:
        mask = mask.view(mask.size(0), 1, *mask.shape[1:]) if mask.dim() == 3 else mask
    y = F.scaled_dot_product_attention(q, k, v, mask, drop)
    return F.linear(y.permute(0, 2, 1, 3).reshape(B, L, M), p["out_proj"].weight, p["out_proj"].bias)


def normed(p, x):
    return F.layer_norm(x, (x.size(-1),), p.weight, p.bias)


def think(p, x, drop):
    hidden = torch.clamp_min(F.linear(x, p["up"].weight, p["up"].bias), 0)
    return F.linear(F.dropout(hidden, drop), p["down"].weight, p["down"].bias)


class EncoderBlock(nn.Module):
    def __init__(self, d_model, num_heads, d_hidden, dropout=0.0, norm_first=True):
        super().__init__()
        self.heads, self.p, self.pre = num_heads, dropout, norm_first
        self.self_attn = nn.ModuleDict({f"{name}_proj": Affine(d_model, d_model) for name in ("q", "k", "v", "out")})
        self.ff = nn.ModuleDict({"up": Affine(d_model, d_hidden), "down": Affine(d_hidden, d_model)})
        self.norm1, self.norm2 = Scale(d_model), Scale(d_model)

    def forward(self, x, mask=None):
        drop = self.p if self.training else 0.0
        if self.pre:
            middle = x + F.dropout(attend(self.self_attn, normed(self.norm1, x), self.heads, mask, drop), drop)
            return middle + F.dropout(think(self.ff, normed(self.norm2, middle), drop), drop)
        middle = normed(self.norm1, F.dropout(attend(self.self_attn, x, self.heads, mask, drop), drop) + x)
        return normed(self.norm2, F.dropout(think(self.ff, middle, drop), drop) + middle)


class Encoder(nn.Module):
    def __init__(self, num_layers, *args, **kwargs):
        super().__init__()
        self.layers = nn.ModuleList()
        while len(self.layers) < num_layers:
            self.layers.append(EncoderBlock(*args, **kwargs))
        if self.layers[0].pre:
            self.norm = Scale(args[0] if args else kwargs["d_model"])

    def forward(self, x, mask=None):
        for i in range(len(self.layers)):
            x = self.layers[i](x, mask=mask)
        return normed(self.norm, x) if hasattr(self, "norm") else x
