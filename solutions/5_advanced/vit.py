"""The Vision Transformer.

A Transformer reads a sequence of vectors. An image is a grid of pixels, far too
many to attend to each other one by one. But cut it into squares, write each
square as a row of numbers, and it is a sequence: "an image is worth 16 x 16
words". What follows is BERT's recipe with the norms where GPT has them.

Write it: patches cut from images and put together again, their embedding, the
model from pixels to classes, and what makes a trained model read larger images
than it was trained on. `make train` then trains it on handwritten digits.

nn.Conv2d, nn.Linear, nn.LayerNorm, F.gelu, F.scaled_dot_product_attention and
F.interpolate are there to be used; PyTorch's ready-made folding of patches,
multi-head attention and Transformer are not.

B batch, C channels, Y and X rows and columns of an image, p side of a patch,
N = (Y / p)·(X / p) patches, M size of the model (d_model), H heads,
D = M / H head size, K classes.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def patchify(images: Tensor, patch: int) -> Tensor:
    """Cut images into square patches, each of them a row of numbers.

    Args:
        images: (B, C, Y, X).
        patch: p, the side of a patch.

    Returns:
        (B, N, C·p·p). Patches come as one reads, row by row from the top left.
        Within a patch, all of channel 0 comes first, row by row, then all of
        channel 1: the order in which the weight of a convolution, (M, C, p, p),
        holds its numbers, so that a product with weight.flatten(1).T is the
        convolution with stride p.

    Raises:
        ValueError: p does not divide Y, or does not divide X.

    Source: Dosovitskiy et al. 2021, "An Image is Worth 16x16 Words", section
    3.1.

    >>> patchify(torch.arange(8).view(1, 1, 2, 4), patch=2)
    tensor([[[0, 1, 4, 5],
             [2, 3, 6, 7]]])
    """
    rows, columns = _grid(images.shape[2:], patch)
    x = images.unflatten(3, (columns, patch)).unflatten(2, (rows, patch))  # (B, C, rows, p, columns, p)
    return x.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)


def unpatchify(patches: Tensor, patch: int, grid: tuple[int, int]) -> Tensor:
    """Put images together again: what undoes patchify.

    Args:
        patches: (B, N, C·p·p), as patchify gives them.
        patch: p.
        grid: (Y / p, X / p), how many patches stand below each other, and how
            many side by side. Their product is N.

    Returns:
        The images, (B, C, Y, X).

    Source: Dosovitskiy et al. 2021, section 3.1, read backwards.

    >>> images = torch.arange(24).view(1, 2, 2, 6)
    >>> torch.equal(unpatchify(patchify(images, 2), 2, grid=(1, 3)), images)
    True
    """
    x = patches.unflatten(2, (-1, patch, patch)).unflatten(1, grid)  # (B, rows, columns, C, p, p)
    return x.permute(0, 3, 1, 4, 2, 5).flatten(4).flatten(2, 3)


class PatchEmbedding(nn.Module):
    """A vector for each patch: one and the same linear map of all its numbers.

    Args:
        patch_size: p.
        channels: C.
        d_model: M.

    Attributes:
        proj: `weight` (M, C, p, p) and `bias` (M,), those of a convolution with
            kernel and stride p. There are no other parameters.

    Source: Dosovitskiy et al. 2021, section 3.1, equation 1.

    >>> PatchEmbedding(patch_size=2, channels=3, d_model=5)(torch.zeros(1, 3, 4, 6)).shape
    torch.Size([1, 6, 5])
    """

    def __init__(self, patch_size: int, channels: int, d_model: int):
        super().__init__()
        self.patch_size = patch_size
        self.proj = nn.Conv2d(channels, d_model, kernel_size=patch_size, stride=patch_size)

    def forward(self, images: Tensor) -> Tensor:
        """Embed the patches of images (B, C, Y, X).

        Returns:
            (B, N, M): what the convolution gives at each patch, in the order of
            patchify.

        Raises:
            ValueError: p does not divide Y, or does not divide X.
        """
        _grid(images.shape[2:], self.patch_size)  # a convolution would leave out what is too much
        return self.proj(images).flatten(2).transpose(1, 2)


class ViT(nn.Module):
    """A Transformer that says what is on an image.

    The vectors of the patches come from patch_embedding. In front of them is
    put cls_token, the same for every image; then position_embedding is added to
    all N + 1, row 0 to cls_token, row 1 to the first patch. num_layers blocks
    follow, each of them pre-norm:

        x = x + attention(norm1(x))
        x = x + feed-forward(norm2(x))

    then final_norm, and the head, which reads what has become of cls_token and
    nothing else.

    Attention goes both ways and is scaled by 1/√D. Head h takes the channels
    from h·D up to (h + 1)·D of q, k and v, and writes to the same channels of
    what goes into out_proj. The feed-forward network is down(gelu(up(x))), with
    GELU in its exact form, x·Φ(x). All norms are LayerNorms with eps 1e-6.
    There is no dropout here.

    Args:
        image_size: (Y, X), or one number where they are equal.
        patch_size: p.
        channels: C.
        d_model: M.
        num_layers: blocks, 0 or more.
        num_heads: H; divides d_model.
        d_hidden: channels within the feed-forward network.
        num_classes: K.

    Attributes:
        patch_embedding: a PatchEmbedding.
        cls_token: itself a parameter, (1, 1, M).
        position_embedding: itself a parameter, (1, N + 1, M).
        blocks: in order, each with
            norm1, norm2: `weight` (M,) and `bias` (M,);
            attn: q_proj, k_proj, v_proj, out_proj, linear layers from M to
                M channels, `weight` (M, M) and `bias` (M,);
            ff: up and down, linear layers, `weight` (d_hidden, M) and
                (M, d_hidden), with `bias`.
        final_norm: `weight` (M,) and `bias` (M,).
        head: `weight` (K, M) and `bias` (K,).

    There are no other parameters, under any name. How these begin is yours.

    Raises:
        ValueError: p does not divide Y, or does not divide X.

    Source: Dosovitskiy et al. 2021, section 3.1; eps as in the published code.

    >>> model = ViT(image_size=8, patch_size=2, channels=1, d_model=12, num_layers=2, num_heads=3, d_hidden=20, num_classes=10)
    >>> model(torch.zeros(5, 1, 8, 8)).shape, model.position_embedding.shape
    (torch.Size([5, 10]), torch.Size([1, 17, 12]))
    """

    def __init__(
        self,
        image_size: int | tuple[int, int],
        patch_size: int,
        channels: int,
        d_model: int,
        num_layers: int,
        num_heads: int,
        d_hidden: int,
        num_classes: int,
    ):
        super().__init__()
        self.image_size = (image_size, image_size) if isinstance(image_size, int) else tuple(image_size)
        rows, columns = _grid(self.image_size, patch_size)
        self.patch_embedding = PatchEmbedding(patch_size, channels, d_model)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, d_model))
        self.position_embedding = nn.Parameter(0.02 * torch.randn(1, rows * columns + 1, d_model))
        self.blocks = nn.ModuleList(_Block(d_model, num_heads, d_hidden) for _ in range(num_layers))
        self.final_norm = nn.LayerNorm(d_model, eps=1e-6)
        self.head = nn.Linear(d_model, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Classify images.

        Args:
            images: (B, C, Y, X), for any B.

        Returns:
            Logits, (B, K).

        Raises:
            ValueError: the images are not of the size image_size, though they
                may have as many patches.
        """
        if tuple(images.shape[2:]) != self.image_size:
            raise ValueError(f"images of {tuple(images.shape[2:])}, but there are positions for {self.image_size}")
        patches = self.patch_embedding(images)
        cls = self.cls_token.expand(len(images), -1, -1)
        x = torch.cat([cls, patches], dim=1) + self.position_embedding
        for block in self.blocks:
            x = block(x)
        return self.head(self.final_norm(x)[:, 0])


def interpolate_positions(table: Tensor, grid: tuple[int, int]) -> Tensor:
    """The position embedding of a trained model, stretched to another grid of patches.

    Args:
        table: (1, N + 1, M), float32 or float64: a row for cls_token, then one
            for each patch of a square grid, √N by √N, in the order of patchify.
            Left as it is.
        grid: (rows, columns), how many patches the larger, or smaller, images
            have below each other and side by side. They need not be equal.

    Returns:
        (1, rows·columns + 1, M). The first row is that of the table. The others
        are the table's grid, each channel an image of its own, resized by
        bicubic interpolation as F.interpolate does it to this size, with
        align_corners=False and without antialiasing.

    Raises:
        ValueError: N is not the square of an integer.

    Source: Dosovitskiy et al. 2021, section 3.2.

    >>> interpolate_positions(torch.zeros(1, 17, 12), grid=(4, 6)).shape
    torch.Size([1, 25, 12])
    """
    cls, patches = table[:, :1], table[:, 1:]
    side = math.isqrt(patches.shape[1])
    if side * side != patches.shape[1]:
        raise ValueError(f"{patches.shape[1]} positions of patches are no square grid")
    square = patches.transpose(1, 2).unflatten(2, (side, side))  # (1, M, rows, columns)
    resized = F.interpolate(square, size=grid, mode="bicubic", align_corners=False)
    return torch.cat([cls, resized.flatten(2).transpose(1, 2)], dim=1)


def _grid(size: tuple[int, ...], patch: int) -> tuple[int, int]:
    """How many patches stand below each other, and how many side by side."""
    Y, X = size
    if Y % patch or X % patch:
        raise ValueError(f"images of {Y} x {X} cannot be cut into patches of {patch} x {patch}")
    return Y // patch, X // patch


class _Block(nn.Module):
    """Pre-norm: attention and feed-forward."""

    def __init__(self, d_model: int, num_heads: int, d_hidden: int):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(d_model, eps=1e-6), nn.LayerNorm(d_model, eps=1e-6)
        self.attn, self.ff = _SelfAttention(d_model, num_heads), _FeedForward(d_model, d_hidden)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.ff(self.norm2(x))


class _SelfAttention(nn.Module):
    def __init__(self, d_model: int, num_heads: int):
        super().__init__()
        self.num_heads = num_heads
        self.q_proj, self.k_proj = nn.Linear(d_model, d_model), nn.Linear(d_model, d_model)
        self.v_proj, self.out_proj = nn.Linear(d_model, d_model), nn.Linear(d_model, d_model)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (p(x).unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for p in (self.q_proj, self.k_proj, self.v_proj))
        out = F.scaled_dot_product_attention(q, k, v)  # (B, H, L, D)
        return self.out_proj(out.transpose(1, 2).flatten(2))


class _FeedForward(nn.Module):
    def __init__(self, d_model: int, d_hidden: int):
        super().__init__()
        self.up, self.down = nn.Linear(d_model, d_hidden), nn.Linear(d_hidden, d_model)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(F.gelu(self.up(x)))
