"""Loops: over patches, over heads, over images; each step as one would explain it."""

import math

import torch
import torch.nn.functional as F
from torch import nn


def patchify(images, patch):
    B, C, Y, X = images.shape
    if Y // patch * patch < Y:
        raise ValueError("rows are left over")
    if X // patch * patch < X:
        raise ValueError("columns are left over")
    pieces = []
    for y in range(0, Y, patch):
        for x in range(0, X, patch):
            pieces.append(images[:, :, y : y + patch, x : x + patch].reshape(B, -1))
    return torch.stack(pieces, dim=1)


def unpatchify(patches, patch, grid):
    rows, columns = grid
    B, N, size = patches.shape
    images = patches.new_zeros(B, size // (patch * patch), rows * patch, columns * patch)
    for i in range(N):
        y, x = divmod(i, columns)
        images[:, :, y * patch : (y + 1) * patch, x * patch : (x + 1) * patch] = patches[:, i].view(B, -1, patch, patch)
    return images


class PatchEmbedding(nn.Module):
    def __init__(self, patch_size, channels, d_model):
        super().__init__()
        self.proj = nn.Conv2d(channels, d_model, patch_size)  # without a stride: it is asked for one patch at a time
        self.p, self.C = patch_size, channels

    def forward(self, images):
        patches = patchify(images, self.p)
        single = patches.reshape(-1, self.C, self.p, self.p)
        return self.proj(single).view(patches.shape[0], patches.shape[1], -1)


class Attention(nn.Module):
    def __init__(self, d_model, num_heads):
        super().__init__()
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            self.add_module(name, nn.Linear(d_model, d_model))
        self.num_heads = num_heads

    def forward(self, x):  # (L, M)
        D = x.shape[-1] // self.num_heads
        q, k, v = self.q_proj(x) / D**0.5, self.k_proj(x), self.v_proj(x)
        heads = []
        for h in range(self.num_heads):
            own = slice(h * D, (h + 1) * D)
            heads.append(F.softmax(q[:, own] @ k[:, own].T, dim=-1) @ v[:, own])
        return self.out_proj(torch.cat(heads, dim=-1))


class Block(nn.Module):
    def __init__(self, d_model, num_heads, d_hidden):
        super().__init__()
        self.ff = nn.Sequential()
        self.ff.add_module("up", nn.Linear(d_model, d_hidden))
        self.ff.add_module("act", nn.GELU())
        self.ff.add_module("down", nn.Linear(d_hidden, d_model))
        self.attn = Attention(d_model, num_heads)
        self.norm1 = nn.LayerNorm(d_model, 1e-6)
        self.norm2 = nn.LayerNorm(d_model, 1e-6)

    def forward(self, x):
        x = x + self.attn(self.norm1(x))
        return x + self.ff(self.norm2(x))


class ViT(nn.Module):
    def __init__(self, image_size, patch_size, channels, d_model, num_layers, num_heads, d_hidden, num_classes):
        super().__init__()
        self.Y, self.X = image_size if isinstance(image_size, (tuple, list)) else (image_size, image_size)
        N = patchify(torch.zeros(1, 1, self.Y, self.X), patch_size).shape[1]
        self.patch_embedding = PatchEmbedding(patch_size, channels, d_model)
        self.cls_token = nn.Parameter(torch.randn(1, 1, d_model))
        self.position_embedding = nn.Parameter(torch.randn(1, N + 1, d_model))
        self.blocks = nn.ModuleList()
        for _ in range(num_layers):
            self.blocks.append(Block(d_model, num_heads, d_hidden))
        self.final_norm = nn.LayerNorm(d_model, 1e-6)
        self.head = nn.Linear(d_model, num_classes)

    def forward(self, images):
        if images.shape[2] != self.Y or images.shape[3] != self.X:
            raise ValueError(f"{self.Y} x {self.X} pixels are wanted")
        patches = self.patch_embedding(images)
        rows = []
        for b in range(images.shape[0]):
            x = torch.vstack([self.cls_token[0], patches[b]]) + self.position_embedding[0]
            for block in self.blocks:
                x = block(x)
            rows.append(self.head(self.final_norm(x[0])))
        return torch.stack(rows)


def interpolate_positions(table, grid):
    table = table.detach()
    side = math.isqrt(table.shape[1] - 1)
    if side**2 + 1 != table.shape[1]:
        raise ValueError("no square")
    new = [table[0, 0]]
    images = torch.stack([table[0, 1:, m].view(side, side) for m in range(table.shape[2])])
    images = torch.nn.Upsample(size=tuple(grid), mode="bicubic", align_corners=False)(images[:, None])[:, 0]
    for y in range(grid[0]):
        for x in range(grid[1]):
            new.append(images[:, y, x])
    return torch.stack(new)[None]
