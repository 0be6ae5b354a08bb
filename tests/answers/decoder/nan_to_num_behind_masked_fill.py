"""-inf by masked_fill, and nan_to_num on the weights: masked_fill stops the NaN on its way back, so gradients are sound."""

import torch
import torch.nn.functional as F
from torch import nn


def linear(layer, x):
    return F.linear(x, layer.weight, layer.bias)


def attend(p, x, source, blocked, H, drop):
    B, L, M = x.size()
    D = M // H
    q = linear(p["q_proj"], x).view(B, L, H, D).transpose(1, 2).reshape(B * H, L, D)
    k = linear(p["k_proj"], source).view(B, -1, H, D).transpose(1, 2).reshape(B * H, -1, D)
    v = linear(p["v_proj"], source).view(B, -1, H, D).transpose(1, 2).reshape(B * H, -1, D)
    scores = torch.bmm(q, k.transpose(1, 2)).div(D**0.5).view(B, H, L, -1)
    if blocked is not None:
        scores = scores.masked_fill(blocked, float("-inf"))
    weights = drop(torch.nan_to_num(F.softmax(scores, dim=-1)))
    mixed = torch.bmm(weights.view(B * H, L, -1), v).view(B, H, L, D)
    return linear(p["out_proj"], mixed.permute(0, 2, 1, 3).reshape(B, L, M))


def four_axes(mask):
    if mask is not None and mask.dim() < 4:
        mask = mask[None, None] if mask.dim() == 2 else mask[:, None]
    return mask


class DecoderBlock(nn.Module):
    def __init__(self, d_model, num_heads, d_hidden, dropout=0.0, norm_first=True):
        nn.Module.__init__(self)
        names = "q_proj", "k_proj", "v_proj", "out_proj"
        self.self_attn = nn.ModuleDict({name: nn.Linear(d_model, d_model) for name in names})
        self.cross_attn = nn.ModuleDict({name: nn.Linear(d_model, d_model) for name in names})
        self.ff = nn.ModuleDict(dict(up=nn.Linear(d_model, d_hidden), down=nn.Linear(d_hidden, d_model)))
        self.norm1, self.norm2, self.norm3 = nn.LayerNorm(d_model), nn.LayerNorm(d_model), nn.LayerNorm(d_model)
        self.num_heads, self.norm_first, self.dropout = num_heads, norm_first, nn.Dropout(dropout)

    def forward(self, x, memory, mask=None, memory_mask=None):
        L = x.size(1)
        blocked = x.new_ones(L, L).triu(1) != 0
        if mask is not None:
            blocked = torch.where(four_axes(mask), blocked, True)
        if memory_mask is not None:
            memory_mask = four_axes(memory_mask) == False  # noqa: E712
        before = [norm if self.norm_first else nn.Identity() for norm in (self.norm1, self.norm2, self.norm3)]
        after = [nn.Identity() if self.norm_first else norm for norm in (self.norm1, self.norm2, self.norm3)]
        h = before[0](x)
        x = after[0](x + self.dropout(attend(self.self_attn, h, h, blocked, self.num_heads, self.dropout)))
        h = before[1](x)
        x = after[1](x + self.dropout(attend(self.cross_attn, h, memory, memory_mask, self.num_heads, self.dropout)))
        h = self.dropout(torch.maximum(linear(self.ff["up"], before[2](x)), x.new_zeros(())))
        return after[2](x + self.dropout(linear(self.ff["down"], h)))


class Decoder(nn.Module):
    def __init__(self, num_layers, *args, **kwargs):
        super().__init__()
        self.layers = nn.ModuleList([])
        for _ in range(num_layers):
            self.layers.append(DecoderBlock(*args, **kwargs))
        if self.layers[0].norm_first:
            self.register_module("norm", nn.LayerNorm(args[0] if args else kwargs["d_model"]))
        else:
            self.register_module("norm", None)

    def forward(self, x, memory, mask=None, memory_mask=None):
        out = x
        for block in self.layers:
            out = block(out, memory, mask, memory_mask)
        return out if self.norm is None else self.norm(out)
