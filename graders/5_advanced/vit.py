"""What a right Vision Transformer does."""

import torch

from kata.grading import beside, check, distinct, failure, inputs_after, normal, parameters, seed, size, with_weights

# Patches.


@check(points=1, sizes={"B": (1, 2), "rows": (2, 3), "columns": (3, 2)}, centres=normal("B 1 rows columns"))
def patches_come_row_by_row(impl, centres):
    """Patches stand in the order in which one reads: those of the top row from left to right, then those of the next."""
    images = centres.repeat_interleave(3, dim=2).repeat_interleave(3, dim=3)  # one number throughout each patch
    return impl.patchify(images, 3)[..., 0]


@check(points=1, sizes={"C": (1, 2, 3), "p": (2, 3)}, image=normal("1 C p p"), patch=size("p"))
def a_patch_is_read_channel_by_channel(impl, image, patch):
    """Within a patch all of channel 0 comes first, row by row, then all of channel 1: here the image is a single patch."""
    return impl.patchify(image, patch)


@check(
    points=1,
    after=(patches_come_row_by_row, a_patch_is_read_channel_by_channel),
    sizes={"p": (2, 3, 1)},
    images=normal("B C rows*p columns*p"),
    patch=size("p"),
)
def patchify_cuts_images(impl, images, patch):
    """patchify gives (B, N, C·p·p), for any number of images, channels, rows and columns, p = 1 too; the images stay as they are."""
    given = inputs_after(impl.patchify, images, patch)[0]
    return {"patches": impl.patchify(images, patch), "images afterwards": "unchanged" if torch.equal(given, images) else "changed"}


@check(
    points=1,
    sizes={"p": (2, 3, 1)},
    patches=normal("B rows*columns C*p*p"),
    patch=size("p"),
    rows=size("rows"),
    columns=size("columns"),
)
def unpatchify_puts_them_together(impl, patches, patch, rows, columns):
    """unpatchify gives the images from which patchify would cut these patches, for any grid."""
    return impl.unpatchify(patches, patch, (rows, columns))


@check(points=2, sizes={"p": (2, 3, 1)}, images=normal("B C rows*p columns*p"), patch=size("p"), M=size("M"), seed=seed())
def embedding_is_the_strided_convolution(impl, images, patch, M, seed):
    """PatchEmbedding gives what the convolution with weight proj.weight and stride p gives at each patch, as (B, N, M)."""
    return with_weights(impl.PatchEmbedding(patch, images.shape[1], M), seed)(images)


# The model.


@check(points=1, sizes={"N": (2,)}, N=size("N"))
def parameters_have_their_names_and_shapes(impl, N):
    """The parameters are those that the docstring lists, by name and shape, and no others; none has the size of a batch."""
    return {
        "image_size 6": parameters(impl.ViT(6, 2, 3, 8, N, 2, 5, 7)),
        "image_size (4, 10), no block": parameters(impl.ViT((4, 10), 2, 3, 8, 0, 2, 5, 7)),
    }


def scaled(model, scales):
    """The model with some of its parameters multiplied."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            for part, scale in scales.items():
                if part in name:
                    parameter.mul_(scale)
    return model


NOTHING = {"out_proj": 0.0, "ff.down": 0.0}
TINY = {"cls_token": 1e-3, "position_embedding": 1e-3}


def built(impl, seed, image_size=(4, 6), channels=2, M=6, N=1, H=2, hidden=5, K=4, scales=(), **options):
    model = with_weights(impl.ViT(image_size, 2, channels, M, N, H, hidden, K), seed, **options)
    return beside(impl, scaled)(model, dict(scales)) if scales else model


@check(points=2, after=parameters_have_their_names_and_shapes, sizes={"B": (2,)}, images=normal("B 2 4 6"), seed=seed())
def head_reads_cls_at_the_first_position(impl, images, seed):
    """Where blocks add nothing, logits are head(final_norm(cls_token + row 0 of position_embedding)), whatever is on the image."""
    return {
        "with two blocks that add nothing": built(impl, seed, N=2, constant=NOTHING)(images),
        "where the sum is tiny, so that an eps is seen": built(impl, seed, scales=TINY, N=0)(images),
    }


@check(
    points=2,
    after=(head_reads_cls_at_the_first_position, embedding_is_the_strided_convolution),
    sizes={"H": (1, 3)},
    images=normal("2 2 4 6"),
    H=size("H"),
    seed=seed(),
)
def patches_get_the_positions_after_the_first(impl, images, H, seed):
    """Where only attention adds something, it reads cls_token and the patches, all with their positions, after norm1, with H heads.

    Scores may be large.
    """
    sharp = built(impl, seed, scales={"q_proj": 64.0, "k_proj": 64.0}, constant={"ff.down": 0.0})
    tiny = built(impl, seed, scales=TINY | {"patch_embedding": 1e-3}, constant={"ff.down": 0.0})
    return {
        "logits": built(impl, seed, M=4 * H, H=H, constant={"ff.down": 0.0})(images),
        "logits, where scores are large": sharp(images),
        "logits, where x is tiny, so that an eps is seen": tiny(images),
    }


@check(points=1, after=head_reads_cls_at_the_first_position, images=normal("1 2 4 6"), seed=seed())
def feed_forward_is_right_alone(impl, images, seed):
    """Where only the feed-forward network adds something, it is down(gelu(up(norm2(x)))), with the exact GELU."""
    return {
        "as it is": built(impl, seed, constant={"out_proj": 0.0})(images),
        "where x is tiny, so that an eps is seen": built(impl, seed, scales=TINY, constant={"out_proj": 0.0})(images),
    }


@check(
    points=2,
    after=(patches_get_the_positions_after_the_first, feed_forward_is_right_alone),
    sizes={"B": (1, 3), "C": (1, 3), "H": (1, 3), "D": (4, 2), "N": (1, 3), "K": (1, 5)},
    images=normal("B C 6 4"),
    H=size("H"),
    D=size("D"),
    N=size("N"),
    K=size("K"),
    seed=seed(),
)
def logits_are_those_of_the_vision_transformer(impl, images, H, D, N, K, seed):
    """With the same weights the logits are those of the Vision Transformer, for any number of blocks, heads, channels and classes."""
    return built(impl, seed, (6, 4), images.shape[1], H * D, N, H, K=K)(images)


@check(points=1, after=parameters_have_their_names_and_shapes, sizes={"B": (3,)}, images=normal("B 2 4 4"), seed=seed())
def each_image_is_read_alone(impl, images, seed):
    """One model takes any number of images, and what stands beside an image does not change its logits; image_size may be one number."""
    model = built(impl, seed, 4)
    return {"all": model(images), "one by one": torch.cat([model(image[None]) for image in images])}


def gradients_of(model, images):
    model(images).square().sum().backward()
    return {name: torch.zeros_like(p) if p.grad is None else p.grad for name, p in model.named_parameters()}


@check(points=1, after=logits_are_those_of_the_vision_transformer, sizes={"B": (3,)}, images=normal("B 2 4 6"), seed=seed())
def all_weights_get_their_gradients(impl, images, seed):
    """All parameters get their gradients, cls_token and position_embedding from every image of the batch."""
    return beside(impl, gradients_of)(built(impl, seed), images)


@check(points=1, sizes={"p": (2, 3)}, patch=size("p"))
def what_does_not_fit_is_refused(impl, patch):
    """ValueError where p does not divide rows or columns: from patchify, PatchEmbedding and ViT; and for images not of image_size."""
    embedding, model = impl.PatchEmbedding(patch, 1, 4), impl.ViT((2 * patch, patch), patch, 1, 4, 1, 2, 4, 3)
    fitting = torch.zeros(1, 1, 2 * patch, patch)
    seen = {"shapes where all fits": [list(embedding(fitting).shape), list(model(fitting).shape)]}
    for shape in ((2 * patch, 2 * patch + 1), (2 * patch - 1, 2 * patch)):
        images = torch.zeros(1, 1, *shape)
        seen[f"patchify of {shape}, patches of {patch}"] = failure(impl.patchify, images, patch)[0]
        seen[f"PatchEmbedding of {shape}, patches of {patch}"] = failure(impl.PatchEmbedding(patch, 1, 4), images)[0]
        seen[f"the same after images that fit, {shape}"] = failure(embedding, images)[0]
        seen[f"a ViT for {shape}, patches of {patch}"] = failure(impl.ViT, shape, patch, 1, 4, 1, 2, 4, 3)[0]
    for shape in ((patch, 2 * patch), (3 * patch, patch), (patch, patch), (2 * patch, 2 * patch)):
        seen[f"a ViT for {(2 * patch, patch)}, images of {shape}"] = failure(model, torch.zeros(1, 1, *shape))[0]
    return seen


# Positions for other grids.


@check(points=1, sizes={"M": (2, 3)}, table=normal("1 10 M"))
def cls_keeps_its_position(impl, table):
    """Row 0, which belongs to cls_token, stays what it is, and for the grid that the table has, all do; the table is left alone."""
    given, resized = inputs_after(impl.interpolate_positions, table, (5, 4))[0], impl.interpolate_positions(table, (5, 4))
    return {
        "rows for a grid of 5 x 4": resized.shape[1],
        "row 0 for a grid of 5 x 4": resized[:, 0],
        "all for a grid of 3 x 3": impl.interpolate_positions(table, (3, 3)),
        "table afterwards": "unchanged" if torch.equal(given, table) else "changed",
    }


def changes(values):
    """In words, along which axes a grid of numbers changes."""
    ways = {"from row to row": 0, "from column to column": 1}
    return " and ".join(way for way, axis in ways.items() if bool((values.diff(dim=axis).abs() > 1e-6).any())) or "nowhere"


@check(points=1, after=cls_keeps_its_position, sizes={"side": (2, 3), "rows": (2, 3)}, ramp=distinct("side"), rows=size("rows"))
def rows_stay_rows(impl, ramp, rows):
    """Where a channel of the table changes from row to row only, so does that of the result; it comes row by row, as patches do."""
    side, columns = len(ramp), 2 * rows
    table = torch.stack([ramp.repeat_interleave(side), ramp.repeat(side)], -1)
    table = torch.cat([torch.zeros(1, 2, dtype=table.dtype), table])[None]
    resized = impl.interpolate_positions(table, (rows, columns))
    down, across = resized[0, 1:].reshape(rows, columns, 2).unbind(-1)
    return {
        "shape": list(resized.shape),
        "a channel that changes from row to row": changes(down),
        "a channel that changes from column to column": changes(across),
    }


@check(
    points=2,
    after=cls_keeps_its_position,
    sizes={"side": (2, 4, 3), "rows": (3, 5, 2), "columns": (4, 2, 7), "M": (1, 3)},
    patches=normal("1 side*side M"),
    rows=size("rows"),
    columns=size("columns"),
)
def positions_are_resized_bicubically(impl, patches, rows, columns):
    """Positions of patches are resized as F.interpolate does it: bicubic, to this size, align_corners=False, no antialiasing."""
    table, N = torch.cat([patches[:, :1], patches], 1), patches.shape[1]
    return {
        f"a grid of {rows} x {columns}": impl.interpolate_positions(table, (rows, columns)),
        "a grid of another form with as many patches": impl.interpolate_positions(table, (1, N)),
    }


@check(points=1, after=cls_keeps_its_position, sizes={"N": (5, 8)}, N=size("N"))
def a_table_that_is_no_square_is_refused(impl, N):
    """ValueError where the table, its first row apart, is no square grid; a table for one patch is one."""
    return {
        f"1 + {N} rows": failure(impl.interpolate_positions, torch.zeros(1, 1 + N, 2), (3, 3))[0],
        "1 + 1 rows": impl.interpolate_positions(torch.ones(1, 2, 2), (2, 3)),
    }
