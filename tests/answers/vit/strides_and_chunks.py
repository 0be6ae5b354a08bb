"""Tensor.unfold cuts, chunk and cat put together; the convolution is a linear layer with the weight's view; attention by the fused operator; the blocks a method."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def patchify(images: Tensor, patch: int) -> Tensor:
    for side in images.shape[-2:]:
        if side % patch > 0:
            raise ValueError(f"{side} pixels cannot be cut every {patch}")
    windows = images.unfold(2, patch, patch).unfold(3, patch, patch)  # (B, C, rows, columns, p, p)
    return windows.movedim(1, 3).flatten(1, 2).flatten(2)


def unpatchify(patches: Tensor, patch: int, grid: tuple[int, int]) -> Tensor:
    squares = patches.unflatten(-1, (-1, patch, patch))
    rows = [torch.cat(row.unbind(1), dim=-1) for row in squares.split(grid[1], dim=1)]
    return torch.cat(rows, dim=-2)


class PatchEmbedding(nn.Module):
    def __init__(self, patch_size: int, channels: int, d_model: int):
        super().__init__()
        self.proj = nn.Conv2d(channels, d_model, patch_size, patch_size)

    def forward(self, images: Tensor) -> Tensor:
        p = self.proj.kernel_size[0]
        Y, X = images.shape[2:]
        if (Y % p, X % p) != (0, 0):
            raise ValueError(f"{Y} x {X} is not made of {p} x {p}")
        return torch.stack([y.flatten(1).T for y in self.proj(images)])


class ViT(nn.Module):
    def __init__(
        self, image_size, patch_size: int, channels: int, d_model: int, num_layers: int, num_heads: int, d_hidden: int, num_classes: int
    ):
        super().__init__()
        self.image_size = torch.Size([image_size, image_size] if isinstance(image_size, int) else image_size)
        if sum(side % patch_size for side in self.image_size):
            raise ValueError("patches do not fit")
        N = self.image_size.numel() // patch_size**2
        self.heads = num_heads
        self.patch_embedding = PatchEmbedding(patch_size, channels, d_model)
        self.register_parameter("cls_token", nn.Parameter(torch.empty(1, 1, d_model).normal_(std=0.02)))
        self.register_parameter("position_embedding", nn.Parameter(torch.empty(1, 1 + N, d_model).uniform_(-0.1, 0.1)))
        self.blocks = nn.ModuleList(
            nn.ModuleDict(
                {
                    "norm1": nn.LayerNorm(d_model, eps=1e-6),
                    "norm2": nn.LayerNorm(d_model, eps=1e-6),
                    "attn": nn.ModuleDict({f"{n}_proj": nn.Linear(d_model, d_model) for n in ("q", "k", "v", "out")}),
                    "ff": nn.ModuleDict({"up": nn.Linear(d_model, d_hidden), "down": nn.Linear(d_hidden, d_model)}),
                }
            )
            for _ in range(num_layers)
        )
        self.final_norm = nn.LayerNorm(d_model, eps=1e-6)
        self.head = nn.Linear(d_model, num_classes)

    def block(self, x: Tensor, parts: nn.ModuleDict) -> Tensor:
        read, attn = parts["norm1"](x), parts["attn"]
        q, k, v = (torch.stack(attn[f"{n}_proj"](read).chunk(self.heads, -1), 1) for n in "qkv")
        heads = F.scaled_dot_product_attention(q, k, v)
        x = x + attn["out_proj"](torch.cat(heads.unbind(1), -1))
        return x + parts["ff"]["down"](F.gelu(parts["ff"]["up"](parts["norm2"](x)), approximate="none"))

    def forward(self, images: Tensor) -> Tensor:
        if images.shape[2:] != self.image_size:
            raise ValueError(f"{tuple(images.shape)} where (..., {self.image_size}) is wanted")
        x = F.pad(self.patch_embedding(images), (0, 0, 1, 0))  # a row of zeros in front, for what comes now
        x = x + self.position_embedding
        x[:, 0] = x[:, 0] + self.cls_token[:, 0]
        for parts in self.blocks:
            x = self.block(x, parts)
        return self.head(self.final_norm(x.select(1, 0)))


def interpolate_positions(table: Tensor, grid: tuple[int, int]) -> Tensor:
    first, rest = table.split([1, table.shape[1] - 1], dim=1)
    sides = [s for s in range(1, rest.shape[1] + 1) if s * s == rest.shape[1]]
    if not sides:
        raise ValueError(f"{rest.shape[1]} patches make no square")
    image = rest.mT.unflatten(-1, (sides[0], sides[0]))
    return torch.cat((first, F.interpolate(image, grid, mode="bicubic").flatten(-2).mT), 1)
