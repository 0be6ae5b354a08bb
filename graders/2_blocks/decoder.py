"""What a right decoder block, and a right stack of them, does."""

import torch

from kata.grading import (
    beside,
    booleans,
    check,
    choice,
    close,
    fates,
    gradients,
    inputs_after,
    normal,
    parameters,
    parts_kept,
    seed,
    size,
    with_weights,
)

FEW = {"B": (2,), "H": (3,), "D": (2,), "L": (1, 4), "S": (1, 5)}  # where sizes are not the subject

# An answer may take its softmax in float32.
NEAR = close(rtol=1e-4, atol=1e-5)
NEAR_GRADIENTS = close(rtol=1e-4, atol=1e-4)

BOTH = {"pre-norm": True, "post-norm": False}  # norm_first

LONG = 1100  # more than a buffer that seemed long enough

SELF, CROSS, FORWARD = "self_attn.out_proj", "cross_attn.out_proj", "ff.down"  # what each sub-layer gives comes from here


def make(impl, x, H, N, seed, silent=(), **options):
    """A block for x with drawn weights, in which some sub-layers give zeros."""
    return with_weights(impl.DecoderBlock(x.shape[-1], H, N, **options), seed, constant=dict.fromkeys(silent, 0.0))


def stack(impl, layers, x, H, N, seed, silent=(), **options):
    """A decoder for x with drawn weights."""
    return with_weights(impl.Decoder(layers, x.shape[-1], H, N, **options), seed, constant=dict.fromkeys(silent, 0.0))


def named(gradients):
    """The same gradients, those of the inputs by their names."""
    return dict(zip(("x", "memory"), gradients["inputs"], strict=True)) | gradients["parameters"]


def same(one, other):
    return "the same" if torch.allclose(one, other, rtol=1e-5, atol=1e-6) else "something else"


# What there is to learn.


@check(points=1, M=choice(6), N=choice(5))
def block_has_its_parameters(impl, M, N):
    """A block has the parameters of self_attn, cross_attn, ff, norm1, norm2 and norm3 as described, biases included, and no others."""
    return parameters(impl.DecoderBlock(d_model=M, num_heads=2, d_hidden=N))


@check(points=1, after=block_has_its_parameters, sizes={"K": (1, 2)}, K=size("K"))
def stack_has_its_parameters(impl, K):
    """A decoder has num_layers blocks in `layers`, and a norm of its own when pre-norm, none when post-norm."""
    shape = {"num_layers": K, "d_model": 4, "num_heads": 2, "d_hidden": 5}
    return {name: parameters(impl.Decoder(**shape, norm_first=first)) for name, first in BOTH.items()}


# The sub-layers, one at a time: the others are silent, for their last layers are zero.


@check(
    points=1,
    after=block_has_its_parameters,
    sizes=FEW | {"S": (5,)},
    x=normal("B L H*D"),
    memory=normal("B S H*D"),
    H=size("H"),
    seed=seed(),
)
def silent_sub_layers_leave_the_residual(impl, x, memory, H, seed):
    """When all three sub-layers give zeros, a pre-norm block gives x back, a post-norm block norm3(norm2(norm1(x)))."""
    silent = (SELF, CROSS, FORWARD)
    return {name: make(impl, x, H, 5, seed, silent, norm_first=first)(x, memory) for name, first in BOTH.items()}


@check(
    points=1,
    after=block_has_its_parameters,
    compare=NEAR,
    sizes=FEW | {"L": (1, 4), "R": (2,), "S": (3,)},
    x=normal("B L H*D"),
    future=normal("B R H*D", scale=10.0),
    memory=normal("B S H*D"),
    H=size("H"),
    seed=seed(),
)
def future_changes_nothing(impl, x, future, memory, H, seed):
    """Whatever follows a token, its own output stays the same: with no more tokens behind it, with some, with others."""
    block = make(impl, x, H, 5, seed)
    alone, futures = block(x, memory), {"by one future": future, "by another": -future}
    return {f"change {by}": block(torch.cat([x, more], dim=1), memory)[:, : x.shape[1]] - alone for by, more in futures.items()}


@check(
    points=1,
    after=block_has_its_parameters,
    compare=NEAR,
    sizes={"B": (1, 2), "L": (1, 3), "H": (1, 3), "D": (2, 3), "S": (2,)},
    x=normal("B L H*D"),
    memory=normal("B S H*D"),
    H=size("H"),
    seed=seed(),
)
def self_attention_comes_with_norm1(impl, x, memory, H, seed):
    """With zeros from the other two, a pre-norm block is x + self_attn(norm1(x)): causal, in H heads, keys and values normalised too."""
    return make(impl, x, H, 5, seed, (CROSS, FORWARD))(x, memory)


@check(
    points=1,
    after=block_has_its_parameters,
    compare=NEAR,
    sizes=FEW,
    x=normal("B L H*D"),
    memory=normal("B S H*D"),
    H=size("H"),
    seed=seed(),
)
def cross_attention_comes_with_norm2(impl, x, memory, H, seed):
    """With zeros from the other two, a pre-norm block is x + cross_attn(norm2(x), memory): each position reads all of memory, as it is."""
    return make(impl, x, H, 5, seed, (SELF, FORWARD))(x, memory)


@check(
    points=1,
    after=block_has_its_parameters,
    sizes=FEW | {"N": (3, 7)},
    x=normal("B L H*D"),
    memory=normal("B S H*D"),
    H=size("H"),
    N=size("N"),
    seed=seed(),
)
def feed_forward_comes_with_norm3(impl, x, memory, H, N, seed):
    """With zeros from the other two, a pre-norm block is x + ff(norm3(x)), and ff is down(relu(up(·)))."""
    loud = {SELF: 0.0, CROSS: 0.0, "norm3.weight": 5.0}
    return with_weights(impl.DecoderBlock(x.shape[-1], H, N), seed, constant=loud)(x, memory)


# All three.


@check(
    points=1,
    after=(self_attention_comes_with_norm1, cross_attention_comes_with_norm2, feed_forward_comes_with_norm3),
    compare=NEAR,
    sizes=FEW | {"B": (1, 2), "N": (3, 7)},
    x=normal("B L H*D"),
    memory=normal("B S H*D"),
    H=size("H"),
    N=size("N"),
    seed=seed(),
)
def block_is_pre_norm_if_not_told_otherwise(impl, x, memory, H, N, seed):
    """A block is self-attention, then cross-attention, then feed-forward, each x + sub_layer(norm(x)) with its own norm."""
    return make(impl, x, H, N, seed)(x, memory)


@check(
    points=1,
    after=block_has_its_parameters,
    compare=NEAR,
    sizes=FEW | {"L": (3,), "N": (7,)},
    x=normal("B L H*D"),
    memory=normal("B S H*D"),
    H=size("H"),
    N=size("N"),
    seed=seed(),
)
def block_is_post_norm_on_demand(impl, x, memory, H, N, seed):
    """With norm_first=False a block has the same sub-layers in the same order, each norm(x + sub_layer(x)); x itself goes into them."""
    return with_weights(impl.DecoderBlock(x.shape[-1], H, N, 0.0, False), seed)(x, memory)


# Masks.


@check(
    points=1,
    after=self_attention_comes_with_norm1,
    compare=NEAR,
    sizes=FEW | {"L": (2, 5)},
    x=normal("B L H*D"),
    memory=normal("B S H*D"),
    mask=booleans("L L"),
    H=size("H"),
    seed=seed(),
)
def mask_joins_the_causal_one(impl, x, memory, mask, H, seed):
    """A position attends where the mask is True and never to later ones, whatever the mask says of those."""
    mask |= torch.eye(len(mask), dtype=torch.bool)
    block = make(impl, x, H, 5, seed)
    return {"some allowed": block(x, memory, mask), "all allowed": block(x, memory, mask=torch.ones_like(mask))}


@check(
    points=1,
    after=cross_attention_comes_with_norm2,
    compare=NEAR,
    sizes=FEW,
    x=normal("B L H*D"),
    memory=normal("B S H*D"),
    memory_mask=booleans("L S", some=True),
    H=size("H"),
    seed=seed(),
)
def memory_mask_is_for_cross_attention(impl, x, memory, memory_mask, H, seed):
    """memory_mask says for each position which of the memory it may read; self-attention does not heed it."""
    return make(impl, x, H, 5, seed)(x, memory, memory_mask=memory_mask)


@check(
    points=1,
    after=(mask_joins_the_causal_one, memory_mask_is_for_cross_attention),
    compare=NEAR,
    sizes=FEW | {"B": (2, 3), "L": (2, 4)},
    x=normal("B L H*D"),
    memory=normal("B S H*D"),
    own=booleans("B L L"),
    heads=booleans("B H L L"),
    padding=booleans("B 1 1 L"),
    memory_own=booleans("B L S", some=True),
    memory_heads=booleans("B H L S", some=True),
    memory_padding=booleans("B 1 1 S", some=True),
    H=size("H"),
    seed=seed(),
)
def masks_broadcast(impl, x, memory, own, heads, padding, memory_own, memory_heads, memory_padding, H, seed):
    """Masks may be (B, L, S), or four axes that broadcast to (B, H, L, S): padding, (B, 1, 1, S), or one mask for each head."""
    itself = torch.eye(x.shape[1], dtype=torch.bool)
    padding[..., 0] = True
    block = make(impl, x, H, 5, seed)
    return {
        "padding, (B, 1, 1, S)": block(x, memory, padding, memory_padding),
        "three axes, (B, L, S)": block(x, memory, own | itself, memory_own),
        "a mask for each head, (B, H, L, S)": block(x, memory, heads | itself, memory_heads),
    }


@check(
    points=1,
    after=masks_broadcast,
    compare=NEAR,
    sizes=FEW | {"L": (2, 4)},
    x=normal("B L H*D"),
    memory=normal("B S H*D"),
    padding=booleans("B 1 1 L"),
    memory_mask=booleans("B 1 L S"),
    H=size("H"),
    seed=seed(),
)
def query_without_keys_gets_the_bias(impl, x, memory, padding, memory_mask, H, seed):
    """Where all keys are blocked, as for a target that is padded on the left or a source that is empty, attention weights are zero."""
    padding[..., 0], memory_mask[0] = False, False
    block = make(impl, x, H, 5, seed)
    return {"self-attention": block(x, memory, padding), "cross-attention": block(x, memory, memory_mask=memory_mask)}


@check(
    points=1,
    after=memory_mask_is_for_cross_attention,
    compare=close(rtol=3e-2, atol=3e-2),
    sizes=FEW | {"L": (4,), "S": (2, 5)},
    x=normal("B L H*D"),
    memory=normal("B S H*D"),
    memory_mask=booleans("B 1 L S", some=True),
    scale=choice(1e12),
    H=size("H"),
    seed=seed(),
)
def float32_stands_a_large_memory(impl, x, memory, memory_mask, scale, H, seed):
    """float32 in gives float32 out, and a memory of large numbers, so with scores far above and far below zero, does no harm."""
    block = make(impl, x, H, 5, seed)
    block.float()
    return block(x.float(), memory.float() * scale, memory_mask=memory_mask) / scale


# The stack.


@check(
    points=1,
    after=(stack_has_its_parameters, block_is_pre_norm_if_not_told_otherwise),
    compare=NEAR,
    sizes=FEW | {"K": (1, 2), "L": (4,), "S": (5,)},
    K=size("K"),
    x=normal("B L H*D"),
    memory=normal("B S H*D"),
    H=size("H"),
    seed=seed(),
)
def stack_is_blocks_and_a_norm(impl, K, x, memory, H, seed):
    """A pre-norm decoder passes x through its blocks, each with weights of its own and the same memory, and then once through its norm."""
    return stack(impl, K, x, H, 5, seed)(x, memory)


@check(
    points=1,
    after=(stack_has_its_parameters, block_is_post_norm_on_demand),
    compare=NEAR,
    sizes=FEW | {"K": (1, 2), "L": (4,), "S": (5,)},
    K=size("K"),
    x=normal("B L H*D"),
    memory=normal("B S H*D"),
    H=size("H"),
    seed=seed(),
)
def post_norm_stack_is_blocks_alone(impl, K, x, memory, H, seed):
    """With norm_first=False a decoder is its post-norm blocks, one after the other, and no norm behind them."""
    return with_weights(impl.Decoder(K, x.shape[-1], H, 5, 0.0, False), seed)(x, memory)


@check(
    points=1,
    after=(stack_is_blocks_and_a_norm, post_norm_stack_is_blocks_alone, masks_broadcast),
    compare=NEAR,
    sizes=FEW | {"L": (3,), "S": (4,)},
    x=normal("B L H*D"),
    memory=normal("B S H*D"),
    mask=booleans("B L L"),
    memory_mask=booleans("B 1 1 S", some=True),
    H=size("H"),
    seed=seed(),
)
def stack_passes_both_masks_on(impl, x, memory, mask, memory_mask, H, seed):
    """A decoder gives both masks to every one of its blocks, pre-norm and post-norm."""
    mask |= torch.eye(x.shape[1], dtype=torch.bool)
    decoder, post_norm = (stack(impl, 2, x, H, 5, seed, norm_first=first) for first in BOTH.values())
    return {
        "mask": decoder(x, memory, mask=mask),
        "memory_mask": decoder(x, memory, memory_mask=memory_mask),
        "both": decoder(x, memory, mask, memory_mask),
        "both, post-norm": post_norm(x, memory, mask, memory_mask),
    }


# What holds of both.


@check(
    points=1,
    after=stack_passes_both_masks_on,
    sizes=FEW | {"L": (4,), "S": (5,)},
    x=normal("B L H*D"),
    memory=normal("B S H*D"),
    mask=booleans("L L"),
    memory_mask=booleans("L S"),
    H=size("H"),
    seed=seed(),
)
def arguments_are_left_alone(impl, x, memory, mask, memory_mask, H, seed):
    """x, memory and both masks are the same after a call as before it, pre-norm and post-norm."""
    seen = {}
    for name, first in BOTH.items():
        after = inputs_after(make(impl, x, H, 5, seed, norm_first=first), x, memory, mask, memory_mask)
        seen[name] = dict(zip(("x", "memory", "mask", "memory_mask"), after, strict=True))
    return seen


def after_a_change(decoder, x, memory):
    """What a decoder gives for a memory that it has seen already, with other numbers in it."""
    memory = memory.clone()
    decoder(x, memory)
    memory.neg_()
    return decoder(x, memory)


@check(
    points=1,
    after=stack_is_blocks_and_a_norm,
    compare=NEAR,
    sizes=FEW | {"L": (4,), "S": (3,)},
    x=normal("B L H*D"),
    memory=normal("B S H*D"),
    seed=seed(),
)
def each_call_stands_alone(impl, x, memory, seed):
    """One decoder works for any lengths in turn, longer ones and shorter ones, and another memory gives another answer."""
    decoder, many = stack(impl, 1, x, 1, 5, seed), x[:1].repeat(1, LONG // 4, 1).cumsum(1)
    calls = {
        "the first call": (x, memory),
        f"a target of {LONG}": (many, memory[:1]),
        "a single token, another memory": (x[:, :1], memory.flip(1, 2)),
        f"the first target, a memory of {LONG}": (x, many.expand(len(x), -1, -1)),
    }
    seen = {name: decoder(*call)[:, -3:] for name, call in calls.items()}
    return seen | {"a memory that was changed since": beside(impl, after_a_change)(decoder, x, memory)}


@check(
    points=1,
    after=(arguments_are_left_alone, stack_passes_both_masks_on),
    compare=NEAR_GRADIENTS,
    sizes=FEW | {"L": (4,), "S": (5,)},
    x=normal("B L H*D"),
    memory=normal("B S H*D"),
    mask=booleans("B L L"),
    memory_mask=booleans("B L S", some=True),
    H=size("H"),
    seed=seed(),
)
def all_can_be_trained(impl, x, memory, mask, memory_mask, H, seed):
    """Gradients with respect to the target, the memory and all parameters are right, pre-norm and post-norm."""
    mask |= torch.eye(x.shape[1], dtype=torch.bool)
    decoders = {name: stack(impl, 2, x, H, 5, seed, norm_first=first) for name, first in BOTH.items()}
    return {name: named(gradients(decoder, x, memory, mask, memory_mask, seed=seed)) for name, decoder in decoders.items()}


@check(
    points=1,
    after=(all_can_be_trained, query_without_keys_gets_the_bias),
    compare=NEAR_GRADIENTS,
    sizes=FEW | {"L": (2, 4), "S": (5,)},
    x=normal("B L H*D"),
    memory=normal("B S H*D"),
    padding=booleans("B 1 1 L"),
    memory_mask=booleans("B 1 1 S"),
    H=size("H"),
    seed=seed(),
)
def gradients_stay_finite_without_keys(impl, x, memory, padding, memory_mask, H, seed):
    """Gradients are right, and finite, also where a query has no allowed key."""
    padding[..., 0], memory_mask[0] = False, False
    return named(gradients(make(impl, x, H, 5, seed), x, memory, padding, memory_mask, seed=seed))


@check(
    points=1,
    after=(stack_is_blocks_and_a_norm, post_norm_stack_is_blocks_alone),
    sizes=FEW | {"L": (4,), "S": (5,)},
    x=normal("B L H*D", scale=1e-3),
    memory=normal("B S H*D"),
    H=size("H"),
    seed=seed(),
)
def norms_have_their_epsilon(impl, x, memory, H, seed):
    """All norms add 1e-5 to the variance, which shows when a token's channels hardly differ."""
    silent = dict.fromkeys((SELF, CROSS, FORWARD, "norm1.bias", "norm2.bias"), 0.0)
    quiet = silent | dict.fromkeys(("norm1.weight", "norm2.weight"), 1e-2)  # so that norm2 and norm3 get little, too
    block = with_weights(impl.DecoderBlock(x.shape[-1], H, 5, norm_first=False), seed, constant=quiet)
    decoder = stack(impl, 1, x, H, 5, seed, (SELF, CROSS, FORWARD))
    return {"norm1 to norm3": block(x, memory), "norm of the decoder": decoder(x, memory)}


# Dropout.


@check(
    points=1,
    after=(stack_is_blocks_and_a_norm, post_norm_stack_is_blocks_alone),
    sizes=FEW | {"L": (4,), "S": (5,)},
    x=normal("B L H*D"),
    memory=normal("B S H*D"),
    H=size("H"),
    seed=seed(),
)
def nothing_is_dropped_in_evaluation(impl, x, memory, H, seed):
    """After eval() a decoder with dropout gives what one without gives, call after call."""
    plain, dropping = (stack(impl, 2, x, H, 5, seed, dropout=p) for p in (0.0, 0.5))
    dropping.eval()
    wanted = plain(x, memory)
    return {call: same(dropping(x, memory), wanted) for call in ("first call", "second call")}


@check(
    points=1,
    after=nothing_is_dropped_in_evaluation,
    sizes=FEW | {"L": (4,), "S": (5,)},
    x=normal("B L H*D"),
    memory=normal("B S H*D"),
    H=size("H"),
    seed=seed(),
)
def something_is_dropped_in_training(impl, x, memory, H, seed):
    """In training, also after an evaluation, two calls with dropout differ, of a block and of a decoder, whichever of its blocks speaks."""
    seen, modules = {}, {"block": make(impl, x, H, 5, seed, dropout=0.5)}
    for i in (0, 1):
        silent = [f"layers.{1 - i}.{layer}" for layer in (SELF, CROSS, FORWARD)]
        modules[f"decoder, only its block {i} adds something"] = stack(impl, 2, x, H, 5, seed, silent, dropout=0.5)
    for name, module in modules.items():
        module.eval()
        module.train()
        seen[name] = same(module(x, memory), module(x, memory))
    return seen


@check(
    points=1,
    after=(something_is_dropped_in_training, silent_sub_layers_leave_the_residual),
    sizes=FEW | {"L": (4,), "S": (5,)},
    x=normal("B L H*D"),
    memory=normal("B S H*D"),
    H=size("H"),
    seed=seed(),
)
def residual_is_never_dropped(impl, x, memory, H, seed):
    """Dropout falls on what sub-layers give, not on x: when they give zeros, nothing is random in training either."""
    seen = {}
    for name, first in BOTH.items():
        plain, dropping = (make(impl, x, H, 5, seed, (SELF, CROSS, FORWARD), dropout=p, norm_first=first) for p in (0.0, 0.5))
        seen[name] = same(dropping(x, memory), plain(x, memory))
    return seen


def single(module, seed, speaking, bare=False):
    """A module of one head and one hidden channel, in which one sub-layer adds something: its bias is one, and all of it if `bare`."""
    silent = {name: 0.0 for name in (SELF, CROSS, FORWARD) if name != speaking}
    own = {f"{speaking}.bias": 1.0, "ff.up.bias": 9.0} | ({f"{speaking}.weight": 0.0} if bare else {})
    return with_weights(module, seed, constant=silent | own)


@check(
    points=1,
    after=residual_is_never_dropped,
    sizes={"B": (80,), "M": (6,)},
    x=normal("B 1 M"),
    memory=normal("B 1 M"),
    dropout=choice(0.25, 0.5),
    seed=seed(),
)
def dropout_falls_in_its_places(impl, x, memory, dropout, seed):
    """Attention weights, hidden channels and what a sub-layer gives are dropped, number by number; the others are divided by 1 - p.

    (With one token, one head and one hidden channel each of these shows by itself: what stays of a sub-layer is its bias, here 1.
    Where there are three hidden channels, each of them adds 1.)
    """
    M, seen = x.shape[-1], {}
    for speaking in (SELF, CROSS, FORWARD):
        block = single(impl.DecoderBlock(M, 1, 1, dropout), seed, speaking)
        given = block(x, memory) - x
        block.eval()
        name = speaking.partition(".")[0]
        seen[f"what {name} gives"] = fates(given, block(x, memory) - x, dropout)
        post_norm = single(impl.Decoder(1, M, 1, 1, dropout, norm_first=False), seed, speaking, bare=True)
        seen[f"two calls of a post-norm decoder, {name} giving its bias alone"] = same(post_norm(x, memory), post_norm(x, memory))
    parts = {f"{SELF}.": 0.0, f"{CROSS}.": 0.0, "ff.up.weight": 0.0, "ff.up.bias": 1.0, f"{FORWARD}.weight": 1.0, f"{FORWARD}.bias": 0.0}
    channels = with_weights(impl.DecoderBlock(M, 1, 3, dropout), seed, constant=parts)
    return seen | {"how many of three hidden channels are kept": parts_kept(channels(x, memory) - x, dropout)}
