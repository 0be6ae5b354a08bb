"""What a right multi-head attention does."""

import re

import torch

from kata.grading import (
    booleans,
    check,
    choice,
    close,
    failure,
    gradients,
    indices,
    inputs_after,
    normal,
    parameters,
    seed,
    size,
    with_weights,
)

SIZES = {"B": (2,), "H": (2,), "D": (2,), "L": (3,), "S": (4,)}
MANY = {**SIZES, "L": (12,), "S": (16,)}  # weights enough to count the dropped ones


def attention(impl, H, D, seed, **options):
    """A MultiHeadAttention with weights that the seed gives."""
    return with_weights(impl.MultiHeadAttention(H * D, H, **options), seed)


def refusal(function, *args):
    """The exception of a call that must not succeed, and the numbers in its text that it was called with."""
    kind, text = failure(function, *args)
    sizes = {arg if isinstance(arg, int) else arg.shape[-1] for arg in args}
    return kind, sorted(sizes & {int(number) for number in re.findall(r"\d+", text)})


def fate(weights, without):
    """What dropout has made of weights, in numbers that do not depend on chance."""
    ratios = weights / without
    kept = ratios.abs() > 1e-3
    factors = ratios[kept]
    alike = len(factors) > 0 and torch.allclose(factors, factors[0], rtol=1e-3)
    return {
        "share of weights dropped, about": round(4 * (1 - kept.double().mean().item())) / 4,
        "kept weights are multiplied by": round(factors[0].item(), 2) if alike else "not all the same",
        "axes along which all are dropped alike": [axis for axis in range(4) if bool((kept == kept.narrow(axis, 0, 1)).all())],
    }


@check(points=1, x=normal("B L H*D"), H=size("H"))
def each_head_gets_its_channels(impl, x, H):
    """split_heads turns (B, L, M) into (B, H, L, D); head h holds channels h * D to (h + 1) * D - 1 of each token."""
    return impl.split_heads(x, num_heads=H)


@check(points=1, x=normal("B H L D"))
def merged_heads_stand_side_by_side(impl, x):
    """merge_heads turns (B, H, L, D) back into (B, L, M), the channels of head 0 first."""
    return impl.merge_heads(x)


@check(points=1, after=each_head_gets_its_channels, sizes={"H": (2, 5), "D": (3,)}, H=size("H"), D=size("D"))
def indivisible_channels_are_refused(impl, H, D):
    """split_heads raises ValueError when M is not divisible by H, also when M is less than H, and names both numbers."""
    return [refusal(impl.split_heads, torch.ones(2, H, M), H) for M in (H * D + 1, H - 1)]


@check(points=1, sizes={"H": (3,), "D": (2,)}, H=size("H"), D=size("D"))
def parameters_have_their_names(impl, H, D):
    """The parameters are those of q_proj, k_proj, v_proj and out_proj, each M x M, with biases unless bias=False, and no others."""
    without = impl.MultiHeadAttention(num_heads=H, d_model=H * D, bias=False), impl.MultiHeadAttention(H * D, H, 0.5, False)
    return [parameters(module) for module in (impl.MultiHeadAttention(H * D, H), *without)]


@check(points=1, after=parameters_have_their_names, sizes={"H": (2, 5), "D": (3,)}, H=size("H"), D=size("D"))
def indivisible_model_is_refused(impl, H, D):
    """The constructor already raises ValueError when d_model is not divisible by num_heads, and names both numbers."""
    return [refusal(impl.MultiHeadAttention, M, H) for M in (H * D + 1, H - 1)]


@check(points=2, after=parameters_have_their_names, x=normal("B L H*D"), H=size("H"), D=size("D"), seed=seed())
def self_attention_is_right(impl, x, H, D, seed):
    """With query alone the output is self-attention: softmax of q·k / √D in each head, heads merged, out_proj applied."""
    module = attention(impl, H, D, seed)
    module.eval()
    return module(x)


@check(
    points=1,
    after=self_attention_is_right,
    sizes=MANY,
    x=normal("B L H*D"),
    H=size("H"),
    D=size("D"),
    seed=seed(),
)
def nothing_is_dropped_unasked(impl, x, H, D, seed):
    """Without a `dropout` nothing is left to chance: in training, too, two calls give the same."""
    module = attention(impl, H, D, seed)
    once, again = module(x), module(x)
    module.eval()
    return {"two calls give the same": torch.equal(once, again), "in evaluation": module(x)}


@check(
    points=1,
    after=nothing_is_dropped_unasked,
    sizes={**SIZES, "D": (1, 3), "L": (2, 3), "S": (2, 4)},  # L = S: swapped arguments raise no error there
    query=normal("B L H*D"),
    key=normal("B S H*D"),
    value=normal("B S H*D"),
    H=size("H"),
    D=size("D"),
    seed=seed(),
)
def cross_attention_is_right(impl, query, key, value, H, D, seed):
    """Queries may attend to another sequence, of any length: k comes from key, v from value."""
    module, many = attention(impl, H, D, seed), key[:1].repeat(1, 600, 1).cumsum(1) / 100
    return module(query, key, value), module(query[:1, :1], many)


@check(
    points=1,
    after=cross_attention_is_right,
    sizes={**SIZES, "S": (3, 4)},  # S = L: what is missing cannot be told by its length
    query=normal("B L H*D"),
    key=normal("B S H*D"),
    value=normal("B L H*D"),
    H=size("H"),
    D=size("D"),
    seed=seed(),
)
def missing_key_is_query_missing_value_is_key(impl, query, key, value, H, D, seed):
    """key is query when it is not given, value is key, each by itself."""
    module = attention(impl, H, D, seed)
    return module(query=query, key=key), module(query, value=value)


@check(points=1, after=nothing_is_dropped_unasked, sizes=SIZES, x=normal("B L H*D"), H=size("H"), D=size("D"), seed=seed())
def biases_may_be_missing(impl, x, H, D, seed):
    """With bias=False the four projections are plain matrix products."""
    return attention(impl, H, D, seed, bias=False)(x)


@check(
    points=1,
    after=cross_attention_is_right,
    sizes=SIZES,
    query=normal("B L H*D"),
    key=normal("B S H*D"),
    H=size("H"),
    D=size("D"),
    seed=seed(),
)
def weights_come_on_request(impl, query, key, H, D, seed):
    """With need_weights the result is a pair: the output and the weights of every head, (B, H, L, S)."""
    return attention(impl, H, D, seed)(query, key, need_weights=True)


@check(
    points=1,
    after=weights_come_on_request,
    sizes={**SIZES, "L": (2, 3)},  # L = B: a mask (L, S) must not be taken for one per sequence
    query=normal("B L H*D"),
    key=normal("B S H*D"),
    mask=booleans("L S", some=True),
    H=size("H"),
    D=size("D"),
    seed=seed(),
)
def mask_allows_where_true(impl, query, key, mask, H, D, seed):
    """A query gives weight only to keys whose mask (L, S) is True, and its weights still sum to one; in evaluation as in training."""
    module = attention(impl, H, D, seed)
    seen = module(query, key, mask=mask, need_weights=True)
    module.eval()
    return seen, module(query, key, mask=mask, need_weights=True)


@check(
    points=1,
    after=mask_allows_where_true,
    sizes={**SIZES, "B": (2, 3)},
    query=normal("B L H*D"),
    key=normal("B S H*D"),
    mask=booleans("B L S", some=True),
    H=size("H"),
    D=size("D"),
    seed=seed(),
)
def mask_of_three_axes_is_one_per_sequence(impl, query, key, mask, H, D, seed):
    """A mask (B, L, S) holds for all heads of its sequence, whether or not there are as many heads as sequences."""
    return attention(impl, H, D, seed)(query, key, mask=mask)


@check(
    points=1,
    after=mask_allows_where_true,
    sizes=SIZES,
    query=normal("B L H*D"),
    key=normal("B S H*D"),
    keys=booleans("B 1 1 S", some=True),
    heads=booleans("1 H L S", some=True),
    own=booleans("B H L S", some=True),
    H=size("H"),
    D=size("D"),
    seed=seed(),
)
def mask_broadcasts(impl, query, key, keys, heads, own, H, D, seed):
    """The mask may be of any shape that broadcasts to (B, H, L, S): (B, 1, 1, S), (1, H, L, S), (B, H, L, S), (S,), (1, S)."""
    module = attention(impl, H, D, seed)
    return [module(query, key, mask=mask) for mask in (keys, heads, own, keys[0, 0, 0], keys[0, 0])]


@check(
    points=1,
    after=mask_allows_where_true,
    sizes=SIZES,
    query=normal("B L H*D", scale=1000.0),
    key=normal("B S H*D", scale=1000.0),
    allowed=indices("L", below="S"),
    H=size("H"),
    D=size("D"),
    seed=seed(),
)
def blocked_keys_get_nothing(impl, query, key, allowed, H, D, seed):
    """A single allowed key gets all the weight, even when its score lies thousands below the others."""
    mask = torch.nn.functional.one_hot(allowed, key.shape[1]).bool()
    return attention(impl, H, D, seed)(query, key, mask=mask, need_weights=True)[1]


@check(
    points=1,
    after=mask_allows_where_true,
    sizes=SIZES,
    query=normal("B L H*D"),
    key=normal("B S H*D"),
    mask=booleans("B 1 L S", some=True),
    own=booleans("B H L S", some=True),
    row=indices("B", below="L"),
    H=size("H"),
    D=size("D"),
    seed=seed(),
)
def query_without_keys_has_zero_weights(impl, query, key, mask, own, row, H, D, seed):
    """A query that may attend to no key, in one head or in all, has zero weights; what is left for its output is the bias of out_proj."""
    mask[torch.arange(len(row)), 0, row] = False
    own[torch.arange(len(row)), 0, row] = False
    module, without_bias = attention(impl, H, D, seed), attention(impl, H, D, seed, bias=False)
    padding = torch.arange(2)[:, None, None, None].expand(-1, 1, 1, key.shape[1]) == 0  # sequence 1 is nothing but padding
    masks = mask, mask[0, 0], padding, own, mask[..., :1], own[0, 0] & False
    return [module(query, key, mask=which, need_weights=True) for which in masks], without_bias(query, key, mask=mask)


@check(
    points=1,
    after=query_without_keys_has_zero_weights,
    sizes=SIZES,
    query=normal("B L H*D"),
    key=normal("B S H*D"),
    value=normal("B S H*D"),
    mask=booleans("B 1 L S", some=True),
    row=indices("B", below="L"),
    H=size("H"),
    D=size("D"),
    seed=seed(),
)
def gradients_are_right(impl, query, key, value, mask, row, H, D, seed):
    """Gradients with respect to inputs and parameters are right, and finite where a query has no key."""
    mask[torch.arange(len(row)), 0, row] = False
    module = attention(impl, H, D, seed)
    return gradients(module, query, key, value, mask, seed=seed), gradients(module, query, seed=seed)


@check(
    points=1,
    after=cross_attention_is_right,
    sizes=MANY,
    query=normal("B L H*D"),
    key=normal("B S H*D"),
    dropout=choice(0.25, 0.75),
    H=size("H"),
    D=size("D"),
    seed=seed(),
)
def evaluation_drops_nothing(impl, query, key, dropout, H, D, seed):
    """After eval() two calls give the same, and what the module would give without dropout."""
    module = attention(impl, H, D, seed, dropout=dropout)
    module.eval()
    once, again = module(query, key), module(query, key)
    without = attention(impl, H, D, seed)(query, key)
    return {"two calls give the same": torch.equal(once, again), "as without dropout": torch.allclose(once, without, rtol=1e-4, atol=1e-5)}


@check(
    points=1,
    after=(evaluation_drops_nothing, mask_allows_where_true),
    sizes=MANY,
    query=normal("B L H*D"),
    key=normal("B S H*D"),
    allowed=booleans("S", share=0.8, some=True),
    dropout=choice(0.25, 0.75),
    H=size("H"),
    D=size("D"),
    seed=seed(),
)
def training_drops_weights(impl, query, key, allowed, dropout, H, D, seed):
    """In training each weight is dropped by itself with probability p, and those that are kept are divided by 1 - p."""
    seen = [attention(impl, H, D, seed, dropout=p)(query, key, mask=allowed, need_weights=True)[1] for p in (dropout, 0.0)]
    weights, without = (w[..., allowed] for w in seen)
    return {
        **fate(weights, without),
        "weights still sum to one": torch.allclose(weights.sum(-1), torch.ones(1).to(weights)),
        "without dropout": without,
    }


@check(
    points=1,
    after=training_drops_weights,
    sizes=MANY,
    query=normal("B L H*D"),
    key=normal("B S H*D"),
    value=normal("B S H*D"),
    H=size("H"),
    D=size("D"),
    seed=seed(),
)
def output_is_made_with_the_returned_weights(impl, query, key, value, H, D, seed):
    """In training, too, the weights returned are those that the values were weighted by: dropout comes first, and only once."""
    module = attention(impl, H, D, seed, dropout=0.5)
    out, weights = module(query, key, value, need_weights=True)
    v = module.v_proj(value)
    heads = [weights[:, h] @ v[..., h * D : (h + 1) * D] for h in range(H)]
    wanted = module.out_proj(torch.cat(heads, -1))
    return {
        "zeros in the output": bool((out == 0).any()),
        "output follows from the weights": torch.allclose(out, wanted, rtol=1e-4, atol=1e-5),
    }


@check(
    points=1,
    after=output_is_made_with_the_returned_weights,
    sizes={"B": (2,), "D": (16,), "L": (40,), "S": (8,)},  # one head, D > S: the weights can be told from the output
    query=normal("B L D"),
    key=normal("B S D"),
    D=size("D"),
    seed=seed(),
)
def dropout_does_not_wait_for_need_weights(impl, query, key, D, seed):
    """Without need_weights, too, the weights are dropped and the others divided by 1 - p."""
    module = attention(impl, 1, D, seed, dropout=0.25, bias=False)
    out, values = module(query, key), module.out_proj(module.v_proj(key))
    module.eval()
    _, without = module(query, key, need_weights=True)
    weights = out @ torch.linalg.pinv(values)
    found = fate(weights[:, None], without)
    found.pop("axes along which all are dropped alike")  # there is one head
    return found


@check(points=1, after=training_drops_weights, sizes=MANY, x=normal("B L H*D"), H=size("H"), D=size("D"), seed=seed())
def dropout_is_drawn_anew(impl, x, H, D, seed):
    """Each call in training drops other weights, after an evaluation as before it; and one can learn with what is left."""
    module = attention(impl, H, D, seed, dropout=0.5)
    once, again = module(x), module(x)
    learned = gradients(module, x, seed=seed)["parameters"]
    module.eval()
    evaluated = module(x)
    module.train()
    return {
        "two calls in training are alike": torch.equal(once, again),
        "after evaluation nothing is dropped any more": torch.allclose(module(x), evaluated),
        "gradient of out_proj.bias": learned["out_proj.bias"],
        "gradients reach": sorted(name for name, gradient in learned.items() if name.endswith("weight") and bool(gradient.any())),
    }


@check(
    points=1,
    after=query_without_keys_has_zero_weights,
    compare=close(atol=6e-2, rtol=3e-2),
    sizes={**SIZES, "B": (1,), "L": (2,), "S": (3,)},
    query=normal("B L H*D"),
    key=normal("B S H*D"),
    mask=booleans("L S", some=True),
    H=size("H"),
    D=size("D"),
    seed=seed(),
)
def parameters_may_have_another_dtype(impl, query, key, mask, H, D, seed):
    """With parameters and inputs in float32, float16 or bfloat16 the results have that dtype, and masks work, without any key too."""
    module, results = attention(impl, H, D, seed), []
    mask[0] = False
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        module.to(dtype)
        results.append(module(query.to(dtype), key.to(dtype), mask=mask, need_weights=True))
    return results


@check(
    points=1,
    after=query_without_keys_has_zero_weights,
    sizes=SIZES,
    query=normal("B L H*D"),
    key=normal("B S H*D"),
    mask=booleans("B L S"),
    own=booleans("L L", some=True),
    H=size("H"),
    D=size("D"),
    seed=seed(),
)
def nothing_is_changed_or_remembered(impl, query, key, mask, own, H, D, seed):
    """The inputs are the same after a call as before it, and a call, or another module, leaves no trace in the next call."""
    module, other = attention(impl, H, D, seed), attention(impl, 2 * H, D, seed + 1)
    mask[0, 0] = False
    after = inputs_after(module, query, key, key, mask), inputs_after(impl.split_heads, query, H)
    return after, module(query, mask=own), module(query, key), module(query, -key), other(torch.cat([key, key], -1)), module(query)
