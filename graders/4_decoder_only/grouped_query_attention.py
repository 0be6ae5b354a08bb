"""What right grouped-query attention does."""

import torch

from kata.grading import (
    at_most,
    beside,
    booleans,
    check,
    choice,
    close,
    cost,
    failure,
    gradients,
    inputs_after,
    normal,
    parameters,
    seed,
    size,
    with_weights,
)

# G key-value heads, N query heads for each of them, so G*N heads and G*N*D channels.
FEW = {"B": (2,), "G": (2,), "N": (1, 3), "D": (2,), "L": (3,)}  # where axes are not the subject
GROUPED = {"B": (2,), "G": (3,), "N": (2, 3), "D": (2,), "L": (3,)}


def attention(impl, x, G, N, seed, **options):
    """A layer for x with weights that the seed gives."""
    return with_weights(impl.GroupedQueryAttention(x.shape[-1], G * N, G, **options), seed, dtype=x.dtype)


# Sharing a head.


@check(points=1, x=normal("B G S D"), n=size("N"))
def neighbours_share_a_head(impl, x, n):
    """repeat_kv repeats each key-value head n times in a row: heads 0 to n - 1 are head 0, the next n are head 1."""
    return {"float64": impl.repeat_kv(x, n), "float32": impl.repeat_kv(x.float(), n)}


@check(points=1, after=neighbours_share_a_head, sizes={"B": (2,), "S": (3,)}, x=normal("B G S D"), n=size("N"), seed=seed())
def gradients_of_copies_are_summed(impl, x, n, seed):
    """What reaches the n copies of a head flows back to it, summed; x itself is left as it is."""
    return {"gradient": gradients(impl.repeat_kv, x, n, seed=seed)["inputs"][0], "x afterwards": inputs_after(impl.repeat_kv, x, n)[0]}


# The layer.


@check(points=1, sizes={"G": (2, 1), "N": (3, 2), "D": (2, 3)}, G=size("G"), N=size("N"), D=size("D"))
def parameters_have_their_shapes(impl, G, N, D):
    """q_proj and out_proj are M x M, k_proj and v_proj G·D x M; there are biases only if asked for, and nothing else."""
    made = {"default": impl.GroupedQueryAttention(G * N * D, G * N, G), "bias=True": impl.GroupedQueryAttention(G * N * D, G * N, G, True)}
    return {how: parameters(layer) for how, layer in made.items()}


@check(points=1, after=parameters_have_their_shapes, heads=choice((6, 4), (2, 4), (4, 3)), draws=3)
def indivisible_heads_are_refused(impl, heads):
    """The constructor raises ValueError if H is not divisible by G, also if G is larger than H."""
    return failure(impl.GroupedQueryAttention, 24, *heads)[0]


def heads_that_hear(layer, x, num_heads, num_kv_heads):
    """Which query heads get something if only one key-value head has values, for each of these."""
    heard, D = [], x.shape[-1] // num_heads
    with torch.no_grad():
        layer.out_proj.weight.copy_(torch.eye(x.shape[-1]))
        values = layer.v_proj.weight.clone()
        for g in range(num_kv_heads):
            layer.v_proj.weight.zero_()
            layer.v_proj.weight[g * D : (g + 1) * D] = values[g * D : (g + 1) * D]
            heard.append([h for h, out in enumerate(layer(x).split(D, dim=-1)) if bool((out.abs() > 1e-9).any())])
    return heard


@check(
    points=1,
    after=parameters_have_their_shapes,
    sizes=GROUPED,
    x=normal("B L G*N*D"),
    G=size("G"),
    N=size("N"),
    seed=seed(),
)
def each_kv_head_serves_its_neighbours(impl, x, G, N, seed):
    """If only key-value head g had values, only the query heads from g·H/G up to (g + 1)·H/G would give anything."""
    heard = beside(impl, heads_that_hear)(attention(impl, x, G, N, seed), x, G * N, G)
    return {f"heads that read key-value head {g}": ", ".join(map(str, heads)) for g, heads in enumerate(heard)}


@check(
    points=1,
    after=parameters_have_their_shapes,
    sizes=FEW | {"L": (2, 5)},
    x=normal("B L G*N*D"),
    other=normal("B L G*N*D"),
    G=size("G"),
    N=size("N"),
    seed=seed(),
)
def future_is_not_seen(impl, x, other, G, N, seed):
    """Without a mask no output changes when later tokens do, large as they may be."""
    layer, t = attention(impl, x, G, N, seed), (x.shape[1] + 1) // 2
    changed = torch.cat([x[:, :t], other[:, t:]], dim=1)
    return {
        f"change of the first {t} outputs": layer(changed)[:, :t] - layer(x)[:, :t],
        f"change of the first {t} outputs, all 1000 times as large": layer(1000 * changed)[:, :t] - layer(1000 * x)[:, :t],
    }


@check(points=2, after=parameters_have_their_shapes, x=normal("B L G*N*D"), G=size("G"), N=size("N"), seed=seed())
def layer_is_causal_grouped_attention(impl, x, G, N, seed):
    """Without a mask the layer is causal attention: softmax of q·k / √D over earlier keys, heads side by side, out_proj applied.

    So it is where x is large.
    """
    layer = attention(impl, x, G, N, seed)
    return {"output": layer(x), "x 1000 times as large": f"{layer(1000 * x).isfinite().sum()} finite numbers"}


@check(
    points=1,
    after=parameters_have_their_shapes,
    sizes={"B": (2,), "D": (1, 3), "L": (4,)},
    x=normal("B L 4*D"),
    seed=seed(),
)
def extremes_are_multi_head_and_multi_query(impl, x, seed):
    """With as many key-value heads as query heads the layer is multi-head attention, with a single one multi-query attention."""
    return {f"4 heads, {G} with keys and values": attention(impl, x, G, 4 // G, seed)(x) for G in (4, 1)}


@check(
    points=1,
    after=layer_is_causal_grouped_attention,
    sizes=FEW,
    x=normal("B L G*N*D"),
    G=size("G"),
    N=size("N"),
    seed=seed(),
)
def biases_are_used(impl, x, G, N, seed):
    """With bias=True all four projections add theirs."""
    return attention(impl, x, G, N, seed, bias=True)(x)


@check(
    points=1,
    after=layer_is_causal_grouped_attention,
    sizes={"B": (2, 4), "G": (1, 2), "N": (1, 2), "D": (2,), "L": (2, 4)},
    x=normal("B L G*N*D"),
    mask=booleans("L L", some=True),
    G=size("G"),
    N=size("N"),
    seed=seed(),
)
def mask_stands_in_for_the_causal_one(impl, x, mask, G, N, seed):
    """A mask says, where True, which keys a query may attend to, those after it too: it is not joined with the causal one."""
    return attention(impl, x, G, N, seed)(x, mask)


@check(
    points=1,
    after=mask_stands_in_for_the_causal_one,
    sizes=GROUPED | {"B": (2, 6)},
    x=normal("B L G*N*D"),
    keys=booleans("B 1 1 L", some=True),
    own=booleans("B 1 L L", some=True),
    heads=booleans("1 G*N L L", some=True),
    all_axes=booleans("B G*N L L", some=True),
    G=size("G"),
    N=size("N"),
    seed=seed(),
)
def mask_broadcasts(impl, x, keys, own, heads, all_axes, G, N, seed):
    """The mask broadcasts to (B, H, L, L): it may be per key, per sequence, per query head, or all of these."""
    layer = attention(impl, x, G, N, seed)
    masks = {"(B, 1, 1, L)": keys, "(B, 1, L, L)": own, "(1, H, L, L)": heads, "(B, H, L, L)": all_axes}
    return {f"mask {shape}": layer(x, mask=mask) for shape, mask in masks.items()}


@check(
    points=1,
    after=layer_is_causal_grouped_attention,
    sizes=FEW,
    x=normal("B L G*N*D"),
    mask=booleans("B 1 L L", some=True),
    G=size("G"),
    N=size("N"),
    seed=seed(),
)
def gradients_are_right(impl, x, mask, G, N, seed):
    """Gradients flow to x and to all four projections, masked or not."""
    layer = attention(impl, x, G, N, seed)
    return {"causal": gradients(layer, x, seed=seed), "masked": gradients(layer, x, mask, seed=seed)}


@check(
    points=1,
    after=mask_stands_in_for_the_causal_one,
    compare=close(rtol=5e-2, atol=5e-2),
    sizes=FEW,
    x=normal("B L G*N*D"),
    mask=booleans("B 1 L L", some=True),
    G=size("G"),
    N=size("N"),
    dtype=choice(torch.float16, torch.bfloat16),
    seed=seed(),
)
def half_precision_works(impl, x, mask, G, N, dtype, seed):
    """With parameters and x in half precision the layer works, and gives the dtype of x."""
    layer = attention(impl, x.to(dtype), G, N, seed)
    return {"causal": layer(x.to(dtype)), "masked": layer(x.to(dtype), mask)}


@check(
    points=1,
    after=mask_stands_in_for_the_causal_one,
    sizes=FEW,
    x=normal("B L G*N*D"),
    mask=booleans("B 1 L L", some=True),
    G=size("G"),
    N=size("N"),
    seed=seed(),
)
def inputs_are_left_alone(impl, x, mask, G, N, seed):
    """x and mask are the same after the call as before it, and a second call gives the same."""
    layer = attention(impl, x, G, N, seed)
    after = inputs_after(layer, x, mask)
    return {"x": after[0], "mask": after[1], "first call": layer(x, mask), "second call": layer(x, mask), "without mask": layer(x)}


@check(
    points=1,
    after=layer_is_causal_grouped_attention,
    compare=at_most(1.1),
    sizes={"G": (1, 4)},
    G=size("G"),
)
def keys_and_values_cost_their_share(impl, G):
    """Keys and values are projected for G heads, not for H: the layer needs no more floating-point operations than that takes."""
    x = torch.ones(2, 6, 32, dtype=torch.float64)
    return {"flops": cost(attention(impl, x, G, 8 // G, seed=0), x)["flops"]}


# From a checkpoint with as many key-value heads as query heads.


@check(points=1, weight=normal("G*D M"), G=size("G"), N=size("N"))
def pooling_undoes_repeating(impl, weight, G, N):
    """If the heads of a group are all alike, mean_pool_kv gives back the one that they are copies of."""
    copies = weight.unflatten(0, (G, -1)).repeat_interleave(N, dim=0).flatten(0, 1)
    return impl.mean_pool_kv(copies, G * N, G)


@check(points=1, weight=normal("G*N*D M"), G=size("G"), N=size("N"))
def heads_of_a_group_are_averaged(impl, weight, G, N):
    """mean_pool_kv makes key-value head g the mean of the heads from g·H/G up to (g + 1)·H/G, row by row, in the weight's dtype."""
    return {
        "pooled": impl.mean_pool_kv(weight, G * N, G),
        "pooled, float32": impl.mean_pool_kv(weight.float(), G * N, G),
        "weight afterwards": inputs_after(impl.mean_pool_kv, weight, G * N, G)[0],
    }
