"""Weights cut into heads by einsum, an additive mask, the softmax in float32 as Llama's code has it, one flat block."""

import torch
from torch import Tensor, nn
from torch.nn import LayerNorm, Linear


def additive(mask: Tensor | None, like: Tensor) -> Tensor:
    """(B or 1, H or 1, L or 1, L): zero where allowed, the lowest number elsewhere."""
    if mask is None:
        return like.new_zeros(1, 1, 1, 1)
    if mask.ndim == 3:
        mask = mask.unsqueeze(-3)
    return torch.zeros(mask.shape, dtype=like.dtype).masked_fill_(mask.logical_not(), torch.finfo(torch.float32).min)


class EncoderBlock(nn.Module):
    def __init__(self, d_model: int, num_heads: int, d_hidden: int, dropout: float = 0.0, norm_first: bool = True) -> None:
        super().__init__()
        self.n = num_heads
        self.self_attn = nn.Module()
        for name in "q_proj k_proj v_proj out_proj".split():
            setattr(self.self_attn, name, Linear(d_model, d_model))
        self.norm1 = LayerNorm(d_model)
        self.norm2 = LayerNorm(d_model)
        self.ff = nn.Module()
        self.ff.up, self.ff.down = Linear(d_model, d_hidden), Linear(d_hidden, d_model)
        self.drop = nn.Dropout(dropout)
        self.norm_first = norm_first

    def _per_head(self, x: Tensor, linear: Linear) -> Tensor:
        weight = linear.weight.unflatten(0, (self.n, -1))
        return torch.einsum("blm,hdm->bhld", x, weight) + linear.bias.unflatten(0, (self.n, 1, -1))

    def _attention(self, x: Tensor, mask: Tensor | None) -> Tensor:
        q, k, v = (self._per_head(x, getattr(self.self_attn, f"{c}_proj")) for c in "qkv")
        scores = torch.einsum("bhld,bhsd->bhls", q, k) / q.size(-1) ** 0.5
        bias = additive(mask, x)
        # scores far below the lowest float32 do not occur; adding keeps blocked ones at the bottom
        p = torch.softmax((scores + bias).float(), dim=-1).type_as(x) * (bias == 0).any(-1, keepdim=True)
        heads = torch.einsum("bhls,bhsd->blhd", self.drop(p), v)
        return self.drop(self.self_attn.out_proj(heads.flatten(-2)))

    def _mlp(self, x: Tensor) -> Tensor:
        return self.drop(self.ff.down(self.drop(torch.maximum(self.ff.up(x), torch.zeros((), dtype=x.dtype)))))

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        before, after = (
            ((self.norm1, self.norm2), (nn.Identity(),) * 2) if self.norm_first else ((nn.Identity(),) * 2, (self.norm1, self.norm2))
        )
        x = after[0](x + self._attention(before[0](x), mask))
        x = after[1](x + self._mlp(before[1](x)))
        return x


class Encoder(nn.Module):
    def __init__(self, num_layers: int, d_model: int, num_heads: int, d_hidden: int, dropout: float = 0.0, norm_first: bool = True) -> None:
        super().__init__()
        self.layers = nn.ModuleList([])
        for _ in range(num_layers):
            self.layers += [EncoderBlock(d_model=d_model, num_heads=num_heads, d_hidden=d_hidden, dropout=dropout, norm_first=norm_first)]
        self.final = [self.add_module("norm", LayerNorm(d_model))] if norm_first else []

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        stream = x.clone()
        for block in self.layers:
            stream = block(stream, mask)
        return self.norm(stream) if self.final else stream
