"""Blocks and last norm stand in a Sequential as well, so their parameters have two names each."""

import torch
import torch.nn.functional as F
from torch import nn


def patchify(images, patch):
    B, C, Y, X = images.shape
    if Y % patch or X % patch:
        raise ValueError(f"{patch} does not divide {Y} x {X}")
    x = images.reshape(B, C, Y // patch, patch, X // patch, patch)
    return x.permute(0, 2, 4, 1, 3, 5).reshape(B, (Y // patch) * (X // patch), C * patch * patch)


def unpatchify(patches, patch, grid):
    B, N, D = patches.shape
    rows, cols = grid
    C = D // patch**2
    x = patches.reshape(B, rows, cols, C, patch, patch)
    return x.permute(0, 3, 1, 4, 2, 5).reshape(B, C, rows * patch, cols * patch)


class PatchEmbedding(nn.Module):
    def __init__(self, patch_size, channels, d_model):
        super().__init__()
        self.patch_size = patch_size
        self.proj = nn.Conv2d(channels, d_model, kernel_size=patch_size, stride=patch_size)

    def forward(self, images):
        if images.shape[-2] % self.patch_size or images.shape[-1] % self.patch_size:
            raise ValueError("the patch size must divide both sides")
        return self.proj(images).flatten(2).transpose(1, 2)


class Attention(nn.Module):
    def __init__(self, d_model, num_heads):
        super().__init__()
        self.num_heads = num_heads
        self.q_proj = nn.Linear(d_model, d_model)
        self.k_proj = nn.Linear(d_model, d_model)
        self.v_proj = nn.Linear(d_model, d_model)
        self.out_proj = nn.Linear(d_model, d_model)

    def forward(self, x):
        B, L, M = x.shape
        shape = (B, L, self.num_heads, M // self.num_heads)
        q, k, v = (p(x).view(shape).transpose(1, 2) for p in (self.q_proj, self.k_proj, self.v_proj))
        return self.out_proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(B, L, M))


class FeedForward(nn.Module):
    def __init__(self, d_model, d_hidden):
        super().__init__()
        self.up = nn.Linear(d_model, d_hidden)
        self.down = nn.Linear(d_hidden, d_model)

    def forward(self, x):
        return self.down(F.gelu(self.up(x)))


class Block(nn.Module):
    def __init__(self, d_model, num_heads, d_hidden):
        super().__init__()
        self.norm1 = nn.LayerNorm(d_model, eps=1e-6)
        self.attn = Attention(d_model, num_heads)
        self.norm2 = nn.LayerNorm(d_model, eps=1e-6)
        self.ff = FeedForward(d_model, d_hidden)

    def forward(self, x):
        x = x + self.attn(self.norm1(x))
        return x + self.ff(self.norm2(x))


class ViT(nn.Module):
    def __init__(self, image_size, patch_size, channels, d_model, num_layers, num_heads, d_hidden, num_classes):
        super().__init__()
        if isinstance(image_size, int):
            image_size = (image_size, image_size)
        self.image_size = tuple(image_size)
        Y, X = self.image_size
        if Y % patch_size or X % patch_size:
            raise ValueError("patch_size must divide image_size")
        N = (Y // patch_size) * (X // patch_size)
        self.patch_embedding = PatchEmbedding(patch_size, channels, d_model)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, d_model))
        self.position_embedding = nn.Parameter(torch.randn(1, N + 1, d_model) * 0.02)
        self.blocks = nn.ModuleList([Block(d_model, num_heads, d_hidden) for _ in range(num_layers)])
        self.final_norm = nn.LayerNorm(d_model, eps=1e-6)
        self.head = nn.Linear(d_model, num_classes)
        self.register_buffer("grid", torch.tensor([Y // patch_size, X // patch_size]))
        self.encoder = nn.Sequential(*self.blocks, self.final_norm)

    def forward(self, images):
        if tuple(images.shape[-2:]) != self.image_size:
            raise ValueError(f"expected {self.image_size}, got {tuple(images.shape[-2:])}")
        x = self.patch_embedding(images)
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], dim=1) + self.position_embedding
        return self.head(self.encoder(x)[:, 0])


def interpolate_positions(table, grid):
    N = table.shape[1] - 1
    side = round(N**0.5)
    if side * side != N:
        raise ValueError(f"{N} is not a square")
    cls, rest = table[:, :1], table[:, 1:]
    rest = rest.reshape(1, side, side, -1).permute(0, 3, 1, 2)
    rest = F.interpolate(rest, size=grid, mode="bicubic", align_corners=False)
    return torch.cat([cls, rest.flatten(2).transpose(1, 2)], dim=1)
