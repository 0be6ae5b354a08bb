"""What a right scaled dot-product attention does."""

import torch

from kata.grading import booleans, check, choice, close, gradients, index, inputs_after, normal, seed

NARROW = choice(torch.float16, torch.bfloat16, torch.float32)


@check(points=1, x=normal("B L S"), dim=choice(-1, 0, 1, -2), draws=2)
def softmax_sums_to_one_along_dim(impl, x, dim):
    """softmax(x, dim) is exp(x) over its sum along dim, for any axis."""
    return impl.softmax(x, dim=dim)


@check(
    points=1,
    after=softmax_sums_to_one_along_dim,
    compare=close(rtol=4e-3, atol=4e-3),  # what float32 leaves of x - logsumexp(x)
    x=normal("L S"),
    scale=choice(1.0, 300.0, 1e4),
    shift=choice(1e4, -1e4),
    draws=3,
)
def softmax_is_stable(impl, x, scale, shift):
    """softmax is finite and right for inputs around 1e4 and -1e4, in float32 too, each slice by itself."""
    large = x * scale + shift
    large[0] -= 2e4
    return impl.softmax(large, -1), impl.softmax(large.float(), -1)


@check(points=1, after=softmax_sums_to_one_along_dim, x=normal("B L S"), blocked=booleans("B L S", share=0.6))
def softmax_of_nothing_is_zero(impl, x, blocked):
    """A slice that is -inf throughout gives zeros, not NaN; beside it, -inf gets no weight."""
    x = x.masked_fill(blocked, -torch.inf)
    x[0, 0] = -torch.inf
    return impl.softmax(x, -1)


@check(points=1, after=softmax_sums_to_one_along_dim, x=normal("B L"), dtype=choice(torch.float32, torch.float16, torch.bfloat16), draws=3)
def softmax_keeps_the_dtype(impl, x, dtype):
    """softmax gives back the dtype that it was given."""
    return impl.softmax(x.to(dtype), 1)


@check(points=2, q=normal("B H L D"), k=normal("B H S D"))
def weights_are_softmax_of_scaled_scores(impl, q, k):
    """attention_weights is the softmax over the keys of q·k / √D."""
    return impl.attention_weights(q, k)


@check(points=1, after=weights_are_softmax_of_scaled_scores, q=normal("B H L D"), k=normal("B H S D"), mask=booleans("L S", some=True))
def mask_allows_where_true(impl, q, k, mask):
    """A query gives weight only to keys whose mask is True, and its weights still sum to one."""
    return impl.attention_weights(q, k, mask)


@check(
    points=1,
    after=mask_allows_where_true,
    q=normal("B H L D"),
    k=normal("B H S D"),
    own=booleans("B 1 L S", some=True),
    keys=booleans("B 1 1 S", some=True),
    heads=booleans("H L S", some=True),
)
def mask_broadcasts(impl, q, k, own, keys, heads):
    """The mask may be of any shape that broadcasts to the weights: per batch, per head, per key, (S,) alone."""
    return [impl.attention_weights(q, k, mask=mask) for mask in (own, keys, heads, keys[0, 0, 0])]


@check(points=1, after=mask_allows_where_true, q=normal("B L D"), k=normal("B S D"), mask=booleans("B L S"), row=index("L"))
def row_without_keys_is_zero(impl, q, k, mask, row):
    """A query that may attend to no key has zero weights, not NaN and not the mean; a mask (B, L, 1) allows all keys or none."""
    mask[:, row] = False
    return impl.attention_weights(q, k, mask), impl.attention_weights(q, k, mask[..., :1])


@check(
    points=1,
    after=mask_allows_where_true,
    q=normal("B L D"),
    k=normal("B S D"),
    mask=booleans("B L S", some=True),
    low=choice(-1e5, -1e6),
)
def mask_holds_for_low_scores(impl, q, k, mask, low):
    """A blocked key gets no weight, and takes none from others, even when all allowed scores are far below zero or below its own."""
    q[..., 0], k[..., 0] = abs(low) ** 0.5, -(abs(low) ** 0.5)
    high = k.clone()
    high[:, 0, 0] *= -1
    return impl.attention_weights(q, k, mask), impl.attention_weights(q, high, mask)


@check(points=2, q=normal("B H L D"), k=normal("B H S D"), v=normal("B H S Dv"), mask=booleans("B 1 L S", some=True))
def output_is_the_weighted_mean(impl, q, k, v, mask):
    """scaled_dot_product_attention averages the values with the attention weights, masked or not, however many keys there are."""
    long = [q[:1, :1], *(x[:1, :1].repeat(1, 1, 600 // x.shape[2], 1).cumsum(2) / 100 for x in (k, v))]
    seen = impl.scaled_dot_product_attention(q, k, v), impl.scaled_dot_product_attention(q, k, v, mask=mask)
    return *seen, impl.scaled_dot_product_attention(*long)


@check(points=1, after=output_is_the_weighted_mean, q=normal("L D"), k=normal("A B S D"), v=normal("B S Dv"))
def leading_axes_broadcast(impl, q, k, v):
    """There may be any number of leading axes, none included, and they broadcast as in matmul."""
    return (
        impl.scaled_dot_product_attention(q, k, v),
        impl.scaled_dot_product_attention(q, k[0, 0], v[0]),
        impl.scaled_dot_product_attention(q, k[0, 0], v),
    )


@check(
    points=1,
    after=row_without_keys_is_zero,
    q=normal("B L D"),
    k=normal("B S D"),
    v=normal("B S Dv"),
    mask=booleans("B L S"),
    row=index("L"),
    seed=seed(),
)
def gradients_are_right(impl, q, k, v, mask, row, seed):
    """Gradients with respect to q, k and v are right, masked or not, and finite where a query has no key."""
    mask[:, row] = False
    return [gradients(impl.scaled_dot_product_attention, q, k, v, *masked, seed=seed)["inputs"] for masked in ((mask,), ())]


@check(
    points=1,
    after=output_is_the_weighted_mean,
    compare=close(atol=2e-2, rtol=2e-2),
    q=normal("B L D"),
    k=normal("B S D"),
    v=normal("B S Dv"),
    mask=booleans("L S"),
    dtype=NARROW,
    draws=2,
)
def half_precision_stays_half(impl, q, k, v, mask, dtype):
    """float16, bfloat16 and float32 in give the same dtype out, of the weights too, and masks work there."""
    q, k, v = q.to(dtype), k.to(dtype), v.to(dtype)
    return impl.scaled_dot_product_attention(q, k, v, mask), impl.attention_weights(q, k, mask)


@check(
    points=1,
    after=half_precision_stays_half,
    compare=close(atol=2e-2, rtol=2e-2),
    v=normal("B S Dv"),
    sign=booleans("B L S"),
    D=choice(16, 64),
)
def half_precision_does_not_overflow(impl, v, sign, D):
    """In float16 q·k may exceed 65504 as long as q·k / √D does not: weights and output are finite and right."""
    B, L, S = sign.shape
    q = torch.where(sign[:, :, :1], 100.0, -100.0).expand(B, L, D)
    k = torch.where(sign[:, 0, :, None], 90000.0 / D / 100, 120000.0 / D / 100).expand(B, S, D)
    q, k, v = q.half(), k.half(), v.half()
    return impl.scaled_dot_product_attention(q, k, v), impl.attention_weights(q, k)


@check(points=1, after=output_is_the_weighted_mean, q=normal("B L D"), k=normal("B S D"), v=normal("B S Dv"), mask=booleans("L S"))
def inputs_are_left_alone(impl, q, k, v, mask):
    """The inputs are the same after the call as before it, and a second call gives the same."""
    after = inputs_after(impl.scaled_dot_product_attention, q, k, v, mask)
    after += inputs_after(impl.attention_weights, q, k, mask) + inputs_after(impl.softmax, q, -1)
    return after, impl.scaled_dot_product_attention(q, k, v, mask), impl.scaled_dot_product_attention(q, k, v, mask)
