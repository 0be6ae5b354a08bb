"""As one finds it in the large libraries: configuration kept, a convolution, q, k and v in one product, weights drawn with a small deviation."""

from collections.abc import Iterable

import torch
import torch.nn as nn
import torch.nn.functional as F


def to_2tuple(x):
    return tuple(x) if isinstance(x, Iterable) else (x, x)


def patchify(imgs, p):
    h, w = imgs.shape[2] / p, imgs.shape[3] / p
    if h != int(h) or w != int(w):
        raise ValueError("image and patch sizes do not match")
    h, w = int(h), int(w)
    x = imgs.reshape(shape=(imgs.shape[0], imgs.shape[1], h, p, w, p))
    x = torch.einsum("nchpwq->nhwcpq", x)
    return x.reshape(shape=(imgs.shape[0], h * w, p**2 * imgs.shape[1]))


def unpatchify(x, p, grid):
    h, w = grid
    assert h * w == x.shape[1]
    x = x.reshape(shape=(x.shape[0], h, w, -1, p, p))
    x = torch.einsum("nhwcpq->nchpwq", x)
    return x.reshape(shape=(x.shape[0], x.shape[1], h * p, w * p))


class PatchEmbedding(nn.Module):
    def __init__(self, patch_size, channels, d_model):
        super().__init__()
        self.patch_size = to_2tuple(patch_size)
        self.proj = nn.Conv2d(channels, d_model, kernel_size=self.patch_size, stride=self.patch_size)
        self.norm = nn.Identity()

    def forward(self, x):
        B, C, H, W = x.shape
        if H % self.patch_size[0] != 0:
            raise ValueError(f"Input height ({H}) should be divisible by patch size ({self.patch_size[0]}).")
        if W % self.patch_size[1] != 0:
            raise ValueError(f"Input width ({W}) should be divisible by patch size ({self.patch_size[1]}).")
        x = self.proj(x)
        x = x.flatten(2).transpose(1, 2)  # NCHW -> NLC
        return self.norm(x)


class Attention(nn.Module):
    def __init__(self, dim, num_heads):
        super().__init__()
        self.num_heads, self.scale = num_heads, (dim // num_heads) ** -0.5
        self.q_proj = nn.Linear(dim, dim)
        self.k_proj = nn.Linear(dim, dim)
        self.v_proj = nn.Linear(dim, dim)
        self.out_proj = nn.Linear(dim, dim)
        self.attn_drop = nn.Dropout(0.0)

    def forward(self, x):
        B, N, C = x.shape
        weight = torch.cat([self.q_proj.weight, self.k_proj.weight, self.v_proj.weight])
        bias = torch.cat([self.q_proj.bias, self.k_proj.bias, self.v_proj.bias])
        qkv = F.linear(x, weight, bias).reshape(B, N, 3, self.num_heads, C // self.num_heads).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind(0)
        attn = (q * self.scale) @ k.transpose(-2, -1)
        attn = self.attn_drop(attn.softmax(dim=-1))
        return self.out_proj((attn @ v).transpose(1, 2).reshape(B, N, C))


class Mlp(nn.Module):
    def __init__(self, in_features, hidden_features):
        super().__init__()
        self.up = nn.Linear(in_features, hidden_features)
        self.act = nn.GELU()
        self.down = nn.Linear(hidden_features, in_features)

    def forward(self, x):
        return self.down(self.act(self.up(x)))


class Block(nn.Module):
    def __init__(self, dim, num_heads, hidden):
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attn = Attention(dim, num_heads)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.ff = Mlp(dim, hidden)

    def forward(self, x):
        x = x + self.attn(self.norm1(x))
        x = x + self.ff(self.norm2(x))
        return x


class ViT(nn.Module):
    def __init__(self, image_size, patch_size, channels, d_model, num_layers, num_heads, d_hidden, num_classes):
        super().__init__()
        self.img_size = to_2tuple(image_size)
        for side in self.img_size:
            if side % patch_size:
                raise ValueError("Image dimensions must be divisible by the patch size.")
        self.grid_size = tuple(s // patch_size for s in self.img_size)
        self.patch_embedding = PatchEmbedding(patch_size, channels, d_model)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, d_model))
        self.position_embedding = nn.Parameter(torch.zeros(1, self.grid_size[0] * self.grid_size[1] + 1, d_model))
        self.blocks = nn.Sequential(*[Block(d_model, num_heads, d_hidden) for _ in range(num_layers)])
        self.final_norm = nn.LayerNorm(d_model, eps=1e-6)
        self.head = nn.Linear(d_model, num_classes)
        nn.init.trunc_normal_(self.position_embedding, std=0.02)
        nn.init.normal_(self.cls_token, std=1e-6)
        self.apply(self._init_weights)

    def _init_weights(self, m):
        if isinstance(m, nn.Linear):
            nn.init.trunc_normal_(m.weight, std=0.02)
            nn.init.zeros_(m.bias)

    def forward_features(self, x):
        if (x.shape[2], x.shape[3]) != self.img_size:
            raise ValueError(f"Input image size {x.shape[2:]} doesn't match model {self.img_size}.")
        x = self.patch_embedding(x)
        x = torch.cat((self.cls_token.expand(x.shape[0], -1, -1), x), dim=1)
        return self.final_norm(self.blocks(x + self.position_embedding))

    def forward(self, x):
        return self.head(self.forward_features(x)[:, 0])


def interpolate_positions(posemb, grid):
    posemb_tok, posemb_grid = posemb[:, :1], posemb[0, 1:]
    gs_old = int(len(posemb_grid) ** 0.5)
    if gs_old * gs_old != len(posemb_grid):
        raise ValueError(f"cannot resize {posemb.shape}")
    posemb_grid = posemb_grid.reshape(1, gs_old, gs_old, -1).permute(0, 3, 1, 2)
    posemb_grid = F.interpolate(posemb_grid, size=list(grid), mode="bicubic", align_corners=False)
    posemb_grid = posemb_grid.permute(0, 2, 3, 1).reshape(1, grid[0] * grid[1], -1)
    return torch.cat([posemb_tok, posemb_grid], dim=1)
