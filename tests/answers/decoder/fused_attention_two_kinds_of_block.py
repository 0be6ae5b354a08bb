"""PyTorch's fused attention, is_causal when no mask comes; pre-norm and post-norm are functions; in-place sums on tensors of its own."""

import torch
import torch.nn.functional as F
from torch import nn


class Projections(nn.Module):
    """q, k, v and out in one; what is attended to is the caller's business."""

    def __init__(self, d_model):
        super().__init__()
        self.q_proj = nn.Linear(d_model, d_model)
        self.k_proj = nn.Linear(d_model, d_model)
        self.v_proj = nn.Linear(d_model, d_model)
        self.out_proj = nn.Linear(d_model, d_model)


class FF(nn.Sequential):
    def __init__(self, d_model, d_hidden, dropout):
        super().__init__()
        self.add_module("up", nn.Linear(d_model, d_hidden))
        self.add_module("act", nn.ReLU(inplace=True))
        self.add_module("drop", nn.Dropout(dropout))
        self.add_module("down", nn.Linear(d_hidden, d_model))


class DecoderBlock(nn.Module):
    def __init__(self, d_model, num_heads, d_hidden, dropout=0.0, norm_first=True):
        super().__init__()
        self.heads, self.p = num_heads, dropout
        self.self_attn = Projections(d_model)
        self.cross_attn = Projections(d_model)
        self.ff = FF(d_model, d_hidden, dropout)
        self.norm1 = nn.LayerNorm(d_model)
        self.norm2 = nn.LayerNorm(d_model)
        self.norm3 = nn.LayerNorm(d_model)
        self.wrap = self.pre if norm_first else self.post

    def drop(self, x):
        return F.dropout(x, self.p, self.training)

    def pre(self, x, norm, sub_layer, *args):
        out = self.drop(sub_layer(norm(x), *args))
        out += x
        return out

    def post(self, x, norm, sub_layer, *args):
        return norm(self.drop(sub_layer(x, *args)) + x)

    def attend(self, x, projections, source, mask, causal):
        source = x if source is None else source
        B, L, M = x.shape
        q = projections.q_proj(x).view(B, L, self.heads, -1).permute(0, 2, 1, 3)
        k = projections.k_proj(source).view(B, source.shape[1], self.heads, -1).permute(0, 2, 1, 3)
        v = projections.v_proj(source).view(B, source.shape[1], self.heads, -1).permute(0, 2, 1, 3)
        if mask is not None and mask.dim() == 3:
            mask = mask.unsqueeze(1).expand(B, self.heads, L, source.shape[1])
        if mask is not None and causal:
            mask = torch.logical_and(mask, torch.ones(L, L).tril().bool())
        p = self.p if self.training else 0.0
        out = F.scaled_dot_product_attention(q, k, v, mask, p, is_causal=causal and mask is None)
        return projections.out_proj(out.permute(0, 2, 1, 3).reshape(B, L, M))

    def forward(self, x, memory, mask=None, memory_mask=None):
        x = self.wrap(x, self.norm1, self.attend, self.self_attn, None, mask, True)
        x = self.wrap(x, self.norm2, self.attend, self.cross_attn, memory, memory_mask, False)
        return self.wrap(x, self.norm3, self.ff)


class Decoder(nn.Module):
    def __init__(self, num_layers, d_model, num_heads, d_hidden, dropout=0.0, norm_first=True):
        super().__init__()
        self.layers = nn.ModuleList(DecoderBlock(d_model, num_heads, d_hidden, dropout, norm_first) for _ in range(num_layers))
        self.norm = nn.LayerNorm(d_model) if norm_first else lambda x: x

    def forward(self, x, memory, mask=None, memory_mask=None):
        for layer in self.layers:
            x = layer(x, memory, mask, memory_mask)
        return self.norm(x)
