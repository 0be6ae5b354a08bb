"""Oracles of vit: what proves the reference right, independently of it."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from rooms import solution
from transformers import ViTConfig, ViTForImageClassification

vit = solution("vit")

SIZE, PATCH, C, M, N, H, HIDDEN, K = 12, 4, 3, 12, 3, 4, 20, 7
NAMES = {  # ours, and theirs
    "cls_token": "vit.embeddings.cls_token",
    "position_embedding": "vit.embeddings.position_embeddings",
    "patch_embedding.proj": "vit.embeddings.patch_embeddings.projection",
    "final_norm": "vit.layernorm",
    "head": "classifier",
}
IN_LAYERS = {
    "attn.out_proj": "attention.o_proj",
    "attn": "attention",
    "norm1": "layernorm_before",
    "norm2": "layernorm_after",
    "ff.up": "mlp.fc1",
    "ff.down": "mlp.fc2",
}


def normal(seed: int, *shape: int):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


sides = st.integers(1, 4)
ROUNDING = {"rtol": 3e-6, "atol": 3e-6}  # theirs takes the softmax in float32


@settings(deadline=None, max_examples=30)
@given(B=sides, channels=sides, rows=sides, columns=sides, patch=sides)
def test_patches_are_those_of_unfold_and_fold(B: int, channels: int, rows: int, columns: int, patch: int) -> None:
    images = normal(0, B, channels, rows * patch, columns * patch)
    patches = vit.patchify(images, patch)
    assert torch.equal(patches, F.unfold(images, patch, stride=patch).transpose(1, 2))
    assert torch.equal(vit.unpatchify(patches, patch, (rows, columns)), images)
    assert torch.equal(F.fold(patches.transpose(1, 2), images.shape[2:], patch, stride=patch), images)


@settings(deadline=None, max_examples=20)
@given(channels=sides, rows=sides, columns=sides, patch=sides)
def test_embedding_is_a_product_with_the_patches(channels: int, rows: int, columns: int, patch: int) -> None:
    """The convolution, once as PyTorch's and once as a matrix product."""
    images = normal(1, 2, channels, rows * patch, columns * patch)
    embedding = vit.PatchEmbedding(patch, channels, 5).double()
    weight, bias = embedding.proj.weight, embedding.proj.bias
    torch.testing.assert_close(embedding(images), vit.patchify(images, patch) @ weight.flatten(1).T + bias)
    torch.testing.assert_close(embedding(images), F.conv2d(images, weight, bias, stride=patch).flatten(2).mT)


def test_images_of_no_whole_patches_are_refused() -> None:
    for size in ((4, 5), (5, 4), (2, 8)):  # of the last, 4 x 4 numbers could be made
        with pytest.raises(ValueError, match=f"{size[0]} x {size[1]}"):
            vit.patchify(torch.zeros(1, 1, *size), 4)
        with pytest.raises(ValueError, match=f"{size[0]} x {size[1]}"):
            vit.PatchEmbedding(4, 1, 2)(torch.zeros(1, 1, *size))
        with pytest.raises(ValueError, match=f"{size[0]} x {size[1]}"):
            vit.ViT(size, 4, 1, 2, 1, 1, 2, 2)


def pair_of(image_size):
    """Our model and Hugging Face's with the same random weights; and theirs for each of our names."""
    torch.manual_seed(0)
    config = ViTConfig(
        image_size=image_size,
        patch_size=PATCH,
        num_channels=C,
        hidden_size=M,
        num_hidden_layers=N,
        num_attention_heads=H,
        intermediate_size=HIDDEN,
        num_labels=K,
        layer_norm_eps=1e-6,
        attn_implementation="eager",
    )
    theirs = ViTForImageClassification(config).double().eval()
    ours = vit.ViT(image_size, PATCH, C, M, N, H, HIDDEN, K).double()
    with torch.no_grad():
        for parameter in ours.parameters():
            parameter.normal_(std=0.7)
    named = dict(theirs.named_parameters())
    names = {name: theirs_of(name) for name, _ in ours.named_parameters()}
    assert set(names.values()) == set(named)  # all of theirs, and no other
    with torch.no_grad():
        for name, parameter in ours.named_parameters():
            named[names[name]].copy_(parameter)
    return ours, theirs, names


@pytest.fixture(scope="module", params=[SIZE, (8, 20)], ids=["square", "wide"])
def pair(request):
    return pair_of(request.param)


def theirs_of(name: str) -> str:
    for ours, theirs in NAMES.items():
        if name.startswith(ours):
            return name.replace(ours, theirs)
    _, number, rest = name.split(".", 2)
    ours = next(ours for ours in IN_LAYERS if rest.startswith(ours))
    return f"vit.layers.{number}.{rest.replace(ours, IN_LAYERS[ours])}"


def test_logits_loss_and_gradients_are_those_of_hugging_face(pair) -> None:
    ours, theirs, names = pair
    images, labels = normal(2, 5, C, *ours.image_size), torch.tensor([0, 3, 6, 3, 1])
    logits, wanted = ours(images), theirs(images, labels=labels)
    torch.testing.assert_close(logits, wanted.logits, **ROUNDING)
    F.cross_entropy(logits, labels).backward()
    wanted.loss.backward()
    named = dict(theirs.named_parameters())
    for name, parameter in ours.named_parameters():
        torch.testing.assert_close(parameter.grad, named[names[name]].grad, msg=name, **ROUNDING)


def test_images_of_another_size_are_refused_as_by_hugging_face(pair) -> None:
    ours, theirs, _ = pair
    Y, X = ours.image_size
    for size in ((Y, X + PATCH), (Y + PATCH, X), (Y // 2, 2 * X), (X + 4, Y - 4)):
        for model in (ours, theirs):
            with pytest.raises(ValueError):
                model(torch.zeros(1, C, *size, dtype=torch.float64))


@pytest.mark.parametrize("size", [(20, 16), (8, 24), (12, 12), (4, 8), (36, 12)])
def test_a_model_with_interpolated_positions_is_that_of_hugging_face(size) -> None:
    """The weights of a square model in one for images of another size; theirs interpolates as it runs."""
    square, theirs, _ = pair_of(SIZE)
    state = square.state_dict()
    state["position_embedding"] = vit.interpolate_positions(state["position_embedding"], (size[0] // PATCH, size[1] // PATCH))
    ours = vit.ViT(size, PATCH, C, M, N, H, HIDDEN, K).double()
    ours.load_state_dict(state)
    images = normal(3, 2, C, *size)
    torch.testing.assert_close(ours(images), theirs(images, interpolate_pos_encoding=True).logits, **ROUNDING)


def bicubic(old: int, new: int):
    """Weights of Keys' kernel with a = -0.75, borders repeated, as a matrix (new, old)."""

    def kernel(distance: float) -> float:
        t, a = abs(distance), -0.75
        near, far = (a + 2) * t**3 - (a + 3) * t**2 + 1, a * (t**3 - 5 * t**2 + 8 * t - 4)
        return near if t <= 1 else far if t < 2 else 0.0

    matrix = torch.zeros(new, old, dtype=torch.float64)
    for i in range(new):
        centre = (i + 0.5) * old / new - 0.5
        for j in range(math.floor(centre) - 1, math.floor(centre) + 3):
            matrix[i, min(max(j, 0), old - 1)] += kernel(centre - j)
    return matrix


@settings(deadline=None, max_examples=20)
@given(side=sides, rows=st.integers(1, 7), columns=st.integers(1, 7))
def test_interpolation_is_a_product_of_two_matrices(side: int, rows: int, columns: int) -> None:
    table = normal(4, 1, side * side + 1, 3)
    grid = table[0, 1:].unflatten(0, (side, side))
    wanted = torch.einsum("ri,cj,ijm->rcm", bicubic(side, rows), bicubic(side, columns), grid).flatten(0, 1)
    found = vit.interpolate_positions(table, (rows, columns))
    torch.testing.assert_close(found[0, 1:], wanted)
    assert torch.equal(found[:, 0], table[:, 0])


def test_a_table_that_is_no_square_is_refused() -> None:
    for rows in (3, 9, 13):
        with pytest.raises(ValueError, match=str(rows - 1)):
            vit.interpolate_positions(torch.zeros(1, rows, 2), (2, 2))


def test_shuffled_patches_with_their_positions_are_the_same_image(pair) -> None:
    """Attention knows nothing of order but what positions say; without them it would see the same in any order."""
    ours, _, _ = pair
    images = normal(5, 2, C, *ours.image_size)
    grid = [side // PATCH for side in ours.image_size]
    order = torch.randperm(math.prod(grid), generator=torch.Generator().manual_seed(0))
    shuffled = vit.unpatchify(vit.patchify(images, PATCH)[:, order], PATCH, tuple(grid))
    before, table = ours(images), ours.position_embedding.detach().clone()
    assert not torch.allclose(ours(shuffled), before)
    with torch.no_grad():
        ours.position_embedding[:, 1:] = table[:, 1:][:, order]
    try:
        torch.testing.assert_close(ours(shuffled), before)
    finally:
        with torch.no_grad():
            ours.position_embedding.copy_(table)


def test_vit_base_has_as_many_parameters_as_published() -> None:
    with torch.device("meta"):
        model = vit.ViT(224, 16, 3, 768, 12, 12, 3072, 1000)
    assert sum(p.numel() for p in model.parameters()) == 86_567_656  # "86M"
    assert model.position_embedding.shape == (1, 197, 768)
