"""Patches by einsum over six named axes, parameters in bare modules, everything else a formula; positions resized by two matrices."""

import math

import torch
from torch import nn


def patchify(images, patch):
    B, C, Y, X = images.shape
    if Y % patch != 0 or X % patch != 0:
        raise ValueError(f"{patch} does not divide {(Y, X)}")
    x = images.reshape(B, C, Y // patch, patch, X // patch, patch)
    return torch.einsum("bcyixj->byxcij", x).reshape(B, -1, C * patch**2)


def unpatchify(patches, patch, grid):
    B, N, W = patches.shape
    C = W // patch**2
    x = patches.reshape(B, *grid, C, patch, patch)
    return torch.einsum("byxcij->bcyixj", x).reshape(B, C, grid[0] * patch, grid[1] * patch)


class Weights(nn.Module):
    """Holds tensors, computes nothing."""

    def __init__(self, **tensors):
        super().__init__()
        for name, tensor in tensors.items():
            setattr(self, name, tensor if isinstance(tensor, nn.Module) else nn.Parameter(tensor))


def linear(outputs, inputs):
    return Weights(weight=torch.randn(outputs, inputs) / inputs**0.5, bias=torch.zeros(outputs))


def norm(size):
    return Weights(weight=torch.ones(size), bias=torch.zeros(size))


def affine(x, layer):
    return torch.einsum("...i,oi->...o", x, layer.weight) + layer.bias


def normalise(x, layer):
    centred = x - x.mean(-1, keepdim=True)
    return centred * torch.rsqrt(centred.square().mean(-1, keepdim=True) + 1e-6) * layer.weight + layer.bias


class PatchEmbedding(nn.Module):
    def __init__(self, patch_size, channels, d_model):
        super().__init__()
        scale = (channels * patch_size**2) ** -0.5
        self.proj = Weights(weight=scale * torch.randn(d_model, channels, patch_size, patch_size), bias=torch.zeros(d_model))

    def forward(self, images):
        M, _, p, _ = self.proj.weight.shape
        return patchify(images, p) @ self.proj.weight.reshape(M, -1).T + self.proj.bias


class ViT(nn.Module):
    def __init__(self, image_size, patch_size, channels, d_model, num_layers, num_heads, d_hidden, num_classes):
        super().__init__()
        size = [image_size] * 2 if not hasattr(image_size, "__len__") else list(image_size)
        if any(side % patch_size for side in size):
            raise ValueError(f"{patch_size} does not divide {size}")
        M, N = d_model, math.prod(side // patch_size for side in size)
        self.size, self.num_heads = size, num_heads
        self.head, self.final_norm = linear(num_classes, M), norm(M)
        self.position_embedding = nn.Parameter(torch.randn(1, N + 1, M) / 50)
        self.cls_token = nn.Parameter(torch.randn(1, 1, M) / 50)
        self.patch_embedding = PatchEmbedding(patch_size, channels, M)
        self.blocks = nn.Sequential()
        for _ in range(num_layers):
            attn = Weights(q_proj=linear(M, M), k_proj=linear(M, M), v_proj=linear(M, M), out_proj=linear(M, M))
            ff = Weights(up=linear(d_hidden, M), down=linear(M, d_hidden))
            self.blocks.append(Weights(attn=attn, ff=ff, norm1=norm(M), norm2=norm(M)))

    def forward(self, images):
        if list(images.shape[-2:]) != self.size:
            raise ValueError(f"{list(images.shape[-2:])} is not {self.size}")
        first = self.cls_token + self.position_embedding[:, :1]
        rest = self.patch_embedding(images) + self.position_embedding[:, 1:]
        x = torch.cat([first.repeat(images.shape[0], 1, 1), rest], dim=1)
        for block in self.blocks:
            x = x + self.attention(normalise(x, block.norm1), block.attn)
            up = affine(normalise(x, block.norm2), block.ff.up)
            x = x + affine(0.5 * up * torch.erfc(-up / 2**0.5), block.ff.down)
        return affine(normalise(x[:, 0], self.final_norm), self.head)

    def attention(self, x, a):
        q, k, v = (affine(x, p).unflatten(-1, (self.num_heads, -1)) for p in (a.q_proj, a.k_proj, a.v_proj))
        scores = torch.einsum("blhd,bshd->bhls", q, k) / q.shape[-1] ** 0.5
        e = (scores - scores.amax(-1, keepdim=True)).exp()
        return affine(torch.einsum("bhls,bshd->blhd", e / e.sum(-1, keepdim=True), v).flatten(2), a.out_proj)


def cubic(x):
    """Keys' kernel with a = -3/4."""
    x = x.abs()
    inner = 1.25 * x**3 - 2.25 * x**2 + 1
    outer = -0.75 * (x**3 - 5 * x**2 + 8 * x - 4)
    return torch.where(x <= 1, inner, torch.where(x < 2, outer, 0.0))


def resizing(old, new, like):
    """(new, old): each row the weights of the old places, with those beyond the border added to it."""
    centres = (torch.arange(new, dtype=like.dtype) + 0.5) * old / new - 0.5
    places = torch.arange(-3, old + 3)
    weights = cubic(centres[:, None] - places)
    return torch.zeros(new, old, dtype=like.dtype).index_add(1, places.clamp(0, old - 1), weights)


def interpolate_positions(table, grid):
    N = table.shape[1] - 1
    side = int(N**0.5 + 0.5)
    if side**2 != N:
        raise ValueError(f"{N} is no square")
    old = table[0, 1:].reshape(side, side, -1)
    new = torch.einsum("yr,xc,rcm->yxm", resizing(side, grid[0], table), resizing(side, grid[1], table), old)
    return torch.cat([table[0, :1], new.flatten(0, 1)])[None]
