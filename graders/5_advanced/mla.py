"""What right multi-head latent attention does."""

import torch
from torch import nn

from kata.grading import (
    at_most,
    beside,
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

# B sequences of L tokens, M channels; H heads of D, latents of C, P pairs of rotary channels.
DIMS = {"H": size("H"), "D": size("D"), "C": size("C"), "R": size("2*P"), "seed": seed()}
FEW = {"B": (2,), "M": (3,), "H": (2, 3), "D": (3, 1), "C": (4, 5), "P": (1, 2)}  # where axes are not all of the subject,
ONE = {"B": (2,), "M": (5,), "H": (3,), "D": (4,), "C": (6,), "P": (1,)}  # and where they are not the subject
NEAR = close(rtol=1e-4, atol=1e-4)  # for angles in float32, whatever order they are computed in
FORMS = ("forward", "absorbed")
HALF = {"float16": (torch.float16, 8195), "bfloat16": (torch.bfloat16, 1027)}  # and where a token stands far from the first


def attention(impl, x, H, D, C, R, seed, **constant):
    """A layer for x with weights that the seed gives, but for those whose names hold one of the `constant`."""
    return with_weights(impl.LatentAttention(x.shape[-1], H, D, C, R), seed, x.dtype, constant)


def in_turn(layer, cache, calls):
    """The outputs of calls (form, tokens) that continue one another, and the cache at the end."""
    outputs = {}
    for number, (form, x) in enumerate(calls, start=1):
        outputs[f"call {number}, {form}"], cache = layer(x, cache) if form == "forward" else layer.absorbed(x, cache)
    return outputs | {"cache at the end": cache}


# The layer.


@check(points=1, M=size("M"), H=size("H"), D=size("D"), C=size("C"), R=size("2*P"))
def parameters_have_their_shapes(impl, M, H, D, C, R):
    """The parameters are the weights of q_proj, kv_down, kv_norm, k_rope, k_up, v_up and out_proj; there are no biases."""
    return parameters(impl.LatentAttention(M, H, D, C, R))


@check(points=1, after=parameters_have_their_shapes, R=choice(1, 3, 5))
def odd_rotary_part_is_refused(impl, R):
    """The constructor raises ValueError if rope_dim is odd."""
    return {f"rope_dim {odd}": failure(impl.LatentAttention, 8, 2, 4, 3, odd)[0] for odd in sorted({1, R, 10 * R + 1})}


# What is kept of a token.


@check(points=1, after=parameters_have_their_shapes, sizes=FEW | {"L": (1, 3)}, x=normal("B L M"), **DIMS)
def output_and_cache_come_back(impl, x, H, D, C, R, seed):
    """forward returns the output, (B, L, M), and the cache, (B, L, C + R): C + R numbers a token, however many heads there are."""
    result = attention(impl, x, H, D, C, R, seed)(x)
    return [list(part.shape) for part in result] if isinstance(result, (list, tuple)) else result


@check(points=1, after=output_and_cache_come_back, x=normal("B L M"), **DIMS)
def latents_are_kept_normed(impl, x, H, D, C, R, seed):
    """The first C numbers that are kept of a token are kv_norm(kv_down(x)), with 1e-6 under the root."""
    _, cache = attention(impl, x, H, D, C, R, seed)(torch.cat([x, x / 1000]))
    return {"latents of x, then of x / 1000": cache[..., :C]}


@check(points=1, after=latents_are_kept_normed, compare=NEAR, sizes=ONE | {"L": (1, 4), "P": (1, 2, 3)}, x=normal("B L M"), **DIMS)
def rotary_keys_are_kept_rotated(impl, x, H, D, C, R, seed):
    """The last R numbers of the cache are k_rope(x), rotated to the token's position: one key for all heads, not normed."""
    return {"rotary keys": attention(impl, x, H, D, C, R, seed)(x)[1][..., C:]}


# The plain form.


@check(points=1, after=output_and_cache_come_back, sizes=FEW | {"H": (3,), "L": (1,), "P": (1,)}, x=normal("B L M"), **DIMS)
def lone_token_gets_its_own_value(impl, x, H, D, C, R, seed):
    """A token without others has all of the weight: the output is out_proj(v_up(latent))."""
    return {"output": attention(impl, x, H, D, C, R, seed)(x)[0]}


@check(
    points=1,
    after=output_and_cache_come_back,
    sizes=ONE | {"L": (2, 5)},
    x=normal("B L M"),
    other=normal("B L M"),
    **DIMS,
)
def future_is_not_seen(impl, x, other, H, D, C, R, seed):
    """No output changes when later tokens do."""
    layer, half = attention(impl, x, H, D, C, R, seed), (x.shape[1] + 1) // 2
    changed = torch.cat([x[:, :half], other[:, half:]], dim=1)
    return {f"change of the first {half} outputs": layer(changed)[0][:, :half] - layer(x)[0][:, :half]}


@check(points=1, after=lone_token_gets_its_own_value, compare=NEAR, sizes=FEW | {"L": (2, 3)}, x=normal("B L M"), **DIMS)
def contents_meet(impl, x, H, D, C, R, seed):
    """If all rotary keys were zero, a score would be the query's content part times k_up(latent), head by head, over √(D + R).

    (However large the scores are: with q_proj times ten million, too.)
    """
    layer = attention(impl, x, H, D, C, R, seed, k_rope=0.0)
    seen = {"output": layer(x)[0]}
    large = with_weights(layer, seed, x.dtype, {"k_rope": 0.0}, {"q_proj.weight": 1e7})
    return seen | {"output, large scores": large(x)[0]}


@check(points=1, after=lone_token_gets_its_own_value, compare=NEAR, sizes=FEW | {"L": (2, 3)}, x=normal("B L M"), **DIMS)
def rotary_parts_meet(impl, x, H, D, C, R, seed):
    """If k_up were zero, a score would be the query's rotary part times the rotary key, both rotated, over √(D + R)."""
    return {"output": attention(impl, x, H, D, C, R, seed, k_up=0.0)(x)[0]}


@check(points=2, after=(contents_meet, rotary_parts_meet), compare=NEAR, x=normal("B L M"), **DIMS)
def forward_is_latent_attention(impl, x, H, D, C, R, seed):
    """forward is causal attention with keys of D + R channels out of the latents and the rotary keys, values, out_proj."""
    return {"output": attention(impl, x, H, D, C, R, seed)(x)[0]}


# Going on from a cache.


@check(
    points=2,
    after=(forward_is_latent_attention, rotary_keys_are_kept_rotated),
    compare=NEAR,
    sizes=FEW | {"L": (1, 3), "N": (2, 3)},
    first=normal("B L M"),
    second=normal("B N M"),
    third=normal("B 1 M"),
    **DIMS,
)
def cuts_change_nothing(impl, first, second, third, H, D, C, R, seed):
    """However a sequence is cut into calls of forward, outputs and cache are those of one call."""
    layer = attention(impl, first, H, D, C, R, seed)
    return in_turn(layer, None, [("forward", x) for x in (first, second, third)])


# The absorbed form.


@check(
    points=2,
    after=(forward_is_latent_attention, rotary_keys_are_kept_rotated),
    compare=NEAR,
    sizes=FEW | {"B": (2, 1), "L": (1, 3, 4), "H": (2, 3, 1), "D": (3, 1, 7)},
    x=normal("B L M"),
    **DIMS,
)
def absorbed_equals_forward(impl, x, H, D, C, R, seed):
    """absorbed gives the output and the cache that forward gives, for a whole sequence too, and however large the scores are.

    (Those are large where q_proj is multiplied by ten million; k_rope is zero there.)
    """
    seen = in_turn(attention(impl, x, H, D, C, R, seed), None, [("absorbed", x)])
    large = attention(impl, x, H, D, C, R, seed, k_rope=0.0)
    with_weights(large, seed, x.dtype, {"k_rope": 0.0}, {"q_proj.weight": 1e7})
    return seen | {"large scores": large.absorbed(x)[0]}


@check(
    points=2,
    after=(absorbed_equals_forward, cuts_change_nothing),
    compare=NEAR,
    sizes=ONE | {"L": (1, 66), "N": (2, 3)},
    prompt=normal("B L M"),
    more=normal("B N M"),
    tokens=normal("2 B 1 M"),
    **DIMS,
)
def forms_take_turns(impl, prompt, more, tokens, H, D, C, R, seed):
    """absorbed continues a cache, also by several tokens; the one form goes on from what the other has kept."""
    layer = attention(impl, prompt, H, D, C, R, seed)
    calls = [("forward", prompt), ("absorbed", more), ("forward", tokens[0]), ("absorbed", tokens[1])]
    return in_turn(layer, None, calls)


@check(
    points=2,
    after=absorbed_equals_forward,
    compare=at_most(1.1),
    sizes={"B": (1, 2), "H": (2,), "D": (16, 32)},
    B=size("B"),
    H=size("H"),
    D=size("D"),
)
def no_keys_or_values_are_made(impl, B, H, D):
    """In absorbed each token in the cache costs H·(2C + R) multiplications and takes C + R numbers a head at most, whatever D is."""
    t, C, R = 256, 16, 2
    x, cache = torch.ones(B, 1, 1, dtype=torch.float64), torch.ones(B, t, C + R, dtype=torch.float64)
    seen = cost(attention(impl, x, H, D, C, R, seed=0).absorbed, x, cache)
    a_copy_for_each_head = B * H * (t + 1) * (C + R)
    return seen | {"largest_tensor": max(seen["largest_tensor"], a_copy_for_each_head)}


# Both.


def continued_twice(layer, x, first, second):
    """What becomes of a cache, and of a continuation of it, when another one continues it."""
    with torch.no_grad():
        _, cache = layer(x)
        kept = cache.clone()
        _, longer = layer(first, cache)
        kept_longer = longer.clone()
        for form in (layer, layer.absorbed):
            form(second, cache)
        return {"change of the cache": cache - kept, "change of a continuation": longer - kept_longer}


@check(
    points=1,
    after=forward_is_latent_attention,
    sizes=ONE | {"L": (2,)},
    x=normal("B L M"),
    first=normal("B 1 M"),
    second=normal("B 1 M"),
    **DIMS,
)
def caches_stay_as_they_are(impl, x, first, second, H, D, C, R, seed):
    """x and the cache that was given are left as they are: several sequences may continue the same one."""
    layer = attention(impl, x, H, D, C, R, seed)
    seen = {"x afterwards": inputs_after(layer, x)[0], "x after absorbed": inputs_after(layer.absorbed, x)[0]}
    return seen | beside(impl, continued_twice)(layer, x, first, second)


def after_a_step(layer, x, token):
    """In evaluation and without gradients: what comes before, and after the weights were changed where they lie."""
    layer.eval()
    seen = {}
    with torch.no_grad():
        for step in ("before", "after"):
            out, cache = layer(x)
            seen[step] = {"forward": out, "one token": layer.absorbed(token, cache)[0], "absorbed": layer.absorbed(x)[0]}
            for parameter in layer.parameters():
                parameter.mul_(1.5)
    return seen


@check(
    points=1,
    after=forms_take_turns,
    compare=NEAR,
    sizes=ONE | {"L": (2,)},
    x=normal("B L M"),
    other=normal("B L M"),
    token=normal("B 1 M"),
    **DIMS,
)
def nothing_is_remembered(impl, x, other, token, H, D, C, R, seed):
    """All history is in the cache that is given; and when the weights have changed, the new ones count."""
    layer = attention(impl, x, H, D, C, R, seed)
    _, cache = layer(x)
    layer.absorbed(other)
    seen = {f"goes on from its cache, {form}": getattr(layer, form)(token, cache)[0] for form in FORMS}
    seen["begins anew"] = layer.absorbed(token)[0]
    with_weights(layer, seed + 1)
    seen["other weights, one token"] = layer.absorbed(token, cache)[0]
    seen |= {f"other weights, {form}": getattr(layer, form)(x)[0] for form in FORMS}
    step = beside(impl, after_a_step)
    seen["a step"] = step(layer, x, token)
    return seen | {"a step from other weights": step(with_weights(layer, seed), x, token)}


class Output(nn.Module):
    """A form of the layer without its cache."""

    def __init__(self, layer, form):
        super().__init__()
        self.layer, self.form = layer, form

    def forward(self, x):
        return getattr(self.layer, self.form)(x)[0]


@check(points=1, after=absorbed_equals_forward, compare=NEAR, sizes=ONE | {"L": (1, 3)}, x=normal("B L M"), **DIMS)
def gradients_flow(impl, x, H, D, C, R, seed):
    """Without a cache gradients flow from the output to x and to all parameters, in both forms."""
    layer = attention(impl, x, H, D, C, R, seed)
    return {form: gradients(beside(impl, Output)(layer, form), x, seed=seed) for form in FORMS}


@check(
    points=1,
    after=forms_take_turns,
    compare=close(rtol=5e-2, atol=5e-2),
    sizes=ONE | {"L": (3,)},
    x=normal("B L M"),
    token=normal("B 1 M"),
    **DIMS,
)
def half_precision_works(impl, x, token, H, D, C, R, seed):
    """With parameters and x in half precision both forms work and keep its dtype, and a token far from the first is rotated as exactly."""
    seen = {}
    for name, (dtype, place) in HALF.items():
        layer = attention(impl, x.to(dtype), H, D, C, R, seed)
        far = layer.absorbed(token[:1].to(dtype), torch.zeros(1, place, C + R, dtype=dtype))[1]
        seen[name] = in_turn(layer, None, [("forward", x.to(dtype)), ("absorbed", token.to(dtype))])
        seen[name][f"kept of the token at position {place}"] = far[:, -1]
    return seen
