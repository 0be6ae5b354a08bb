"""What a right encoder does: first one block, then the stack, then dropout in both."""

import torch

from kata.grading import (
    booleans,
    check,
    choice,
    close,
    fates,
    gradients,
    indices,
    inputs_after,
    normal,
    parameters,
    parts_kept,
    seed,
    size,
    with_weights,
)

FEW = {"B": (1, 2), "L": (1, 3), "H": (1, 2), "D": (2, 3), "F": (1, 5)}
ONE = {"B": (2,), "L": (3,), "H": (2,), "D": (3,), "F": (5,)}  # where sizes are not the subject
MASKED = {"B": (2, 3), "L": (3,), "H": (2, 3), "D": (2,), "F": (5,)}  # as many heads as sequences, and as many as tokens
MANY = {**ONE, "D": (4,), "F": (8,), "N": (2,)}  # numbers enough for some to be dropped
NEAR = close(rtol=1e-4, atol=1e-5)  # a softmax or statistics in float32 are right too


def block_like(impl, x, H, F, seed, norm_first=True, dropout=0.0):
    """An EncoderBlock for x, with weights that the seed gives."""
    return with_weights(impl.EncoderBlock(x.shape[-1], H, F, dropout, norm_first), seed)


def stack_like(impl, N, x, H, F, seed, norm_first=True, dropout=0.0):
    """An Encoder of N blocks for x, with weights that the seed gives."""
    return with_weights(impl.Encoder(N, x.shape[-1], H, F, dropout, norm_first), seed)


def silence(module, x, F, attention=True, feed_forward=True, blocks=("",)):
    """Fill the last layers of sub-layers with zeros, so that they add nothing to the residual stream."""
    M, zeros = x.shape[-1], {}
    for block in blocks:
        if attention:
            zeros |= {f"{block}self_attn.out_proj.weight": torch.zeros(M, M), f"{block}self_attn.out_proj.bias": torch.zeros(M)}
        if feed_forward:
            zeros |= {f"{block}ff.down.weight": torch.zeros(M, F), f"{block}ff.down.bias": torch.zeros(M)}
    module.load_state_dict(zeros, strict=False)


def causal(L):
    return torch.ones(L, L, dtype=torch.bool).tril()


def alike(one, other):
    """Whether two results are the same, in a word; what dropout leaves to chance cannot be compared in more detail."""
    same = isinstance(other, torch.Tensor) and one.shape == other.shape and torch.allclose(one, other, rtol=1e-4, atol=1e-5)
    return "alike" if same else "different"


# One block, pre-norm.


@check(points=1, sizes={"H": (2, 3), "D": (1, 3), "F": (5, 7)}, H=size("H"), D=size("D"), F=size("F"))
def block_has_its_parameters(impl, H, D, F):
    """A block has the parameters of self_attn's four projections, of ff's up and down, and of norm1 and norm2, whatever norm_first is."""
    made = impl.EncoderBlock(H * D, H, F, norm_first=False), impl.EncoderBlock(d_model=H * D, num_heads=H, d_hidden=F)
    return [parameters(block) for block in made]


@check(
    points=1,
    compare=NEAR,
    after=block_has_its_parameters,
    sizes=FEW,
    x=normal("B L H*D"),
    gain=normal("H*D", scale=5.0),
    H=size("H"),
    F=size("F"),
    seed=seed(),
)
def feed_forward_is_added(impl, x, gain, H, F, seed):
    """When attention adds nothing (out_proj is zero), a pre-norm block gives x + down(ReLU(up(norm2(x)))); norm2's weight is `gain`."""
    block = block_like(impl, x, H, F, seed)
    silence(block, x, F, feed_forward=False)
    block.load_state_dict({"norm2.weight": gain}, strict=False)
    return block(x)


@check(
    points=1, compare=NEAR, after=feed_forward_is_added, sizes=FEW | {"F": (5,)}, x=normal("B L H*D"), H=size("H"), F=size("F"), seed=seed()
)
def attention_is_added(impl, x, H, F, seed):
    """When the feed-forward adds nothing (down is zero), a pre-norm block gives x plus multi-head self-attention over norm1(x)."""
    block = block_like(impl, x, H, F, seed)
    silence(block, x, F, attention=False)
    return block(x)


@check(
    points=1,
    compare=NEAR,
    after=attention_is_added,
    sizes=FEW,
    x=normal("B L H*D"),
    H=size("H"),
    F=size("F"),
    seed=seed(),
)
def block_is_right(impl, x, H, F, seed):
    """A pre-norm block, which is the default: attention first, then feed-forward of what attention has made of the stream."""
    return with_weights(impl.EncoderBlock(x.shape[-1], H, F, dropout=0.0), seed)(x)


@check(
    points=1,
    after=attention_is_added,
    sizes={**ONE, "D": (2, 3)},
    x=normal("B L H*D", scale=1e-3),
    H=size("H"),
    F=size("F"),
    seed=seed(),
)
def norms_divide_with_epsilon(impl, x, H, F, seed):
    """Both norms add 1e-5 to the variance, under the root: that shows where tokens are small."""
    block, results = block_like(impl, x, H, F, seed), []
    silence(block, x, F, attention=False)
    results.append(block(x))
    block = block_like(impl, x, H, F, seed)
    silence(block, x, F, feed_forward=False)
    return [*results, block(x)]


# One block, post-norm.


@check(points=1, compare=NEAR, after=block_is_right, sizes=ONE | {"H": (1, 3)}, x=normal("B L H*D"), H=size("H"), F=size("F"), seed=seed())
def post_norm_block_is_right(impl, x, H, F, seed):
    """With norm_first=False the sums are normalised: norm1 of x plus attention over x, then norm2 of that plus its feed-forward."""
    return block_like(impl, x, H, F, seed, norm_first=False)(x)


# Its mask.


@check(
    points=1,
    compare=NEAR,
    after=post_norm_block_is_right,
    sizes=MASKED,
    x=normal("B L H*D"),
    mask=booleans("L L", some=True),
    H=size("H"),
    F=size("F"),
    seed=seed(),
)
def mask_allows_where_true(impl, x, mask, H, F, seed):
    """A token attends only to tokens for which its row of mask (L, L) is True, pre-norm and post-norm."""
    return [block_like(impl, x, H, F, seed, norm_first)(x, mask) for norm_first in (True, False)]


@check(
    points=1,
    compare=NEAR,
    after=mask_allows_where_true,
    sizes=MASKED,
    x=normal("B L H*D"),
    mask=booleans("B L L", some=True),
    H=size("H"),
    F=size("F"),
    seed=seed(),
)
def mask_of_three_axes_is_one_per_sequence(impl, x, mask, H, F, seed):
    """A mask (B, L, L) holds for all heads of its sequence, whether or not there are as many heads as sequences."""
    return block_like(impl, x, H, F, seed)(x, mask=mask)


@check(
    points=1,
    compare=NEAR,
    after=mask_allows_where_true,
    sizes={**MASKED, "B": (2,)},
    x=normal("B L H*D"),
    keys=booleans("B 1 1 L", some=True),
    heads=booleans("1 H L L", some=True),
    own=booleans("B H L L", some=True),
    H=size("H"),
    F=size("F"),
    seed=seed(),
)
def mask_of_four_axes_broadcasts(impl, x, keys, heads, own, H, F, seed):
    """A mask may hold for all queries of a sequence, (B, 1, 1, L), for a head, (1, H, L, L), or for a head of a sequence, (B, H, L, L)."""
    block = block_like(impl, x, H, F, seed)
    return [block(x, mask) for mask in (keys, heads, own)]


@check(
    points=1,
    compare=NEAR,
    after=mask_allows_where_true,
    sizes=ONE,
    x=normal("B L H*D", scale=1e3),
    allowed=indices("L", below="L"),
    H=size("H"),
    F=size("F"),
    seed=seed(),
)
def blocked_tokens_get_nothing(impl, x, allowed, H, F, seed):
    """A single allowed token gets all the attention, even when its score lies thousands below those of the others."""
    mask = torch.nn.functional.one_hot(allowed, x.shape[1]).bool()
    return block_like(impl, x, H, F, seed, norm_first=False)(x, mask)


@check(
    points=1,
    compare=NEAR,
    after=mask_allows_where_true,
    sizes=MASKED,
    x=normal("B L H*D"),
    mask=booleans("B 1 L L", some=True),
    row=indices("B", below="L"),
    H=size("H"),
    F=size("F"),
    seed=seed(),
)
def lonely_token_gets_the_bias(impl, x, mask, row, H, F, seed):
    """A token that may attend to nothing has zero weights, not NaN and not the mean: attention adds the bias of out_proj."""
    mask[torch.arange(len(row)), 0, row] = False
    padded = torch.ones_like(mask[:, :, :1])
    padded[0] = False  # a sequence without any token
    block = block_like(impl, x, H, F, seed)
    return [block(x, m) for m in (mask, mask[0, 0], padded, mask[0, 0] & False)]


@check(
    points=1,
    compare=NEAR,
    after=lonely_token_gets_the_bias,
    sizes=ONE,
    x=normal("B L H*D"),
    mask=booleans("B 1 L L", some=True),
    row=indices("B", below="L"),
    H=size("H"),
    F=size("F"),
    seed=seed(),
)
def block_can_be_trained(impl, x, mask, row, H, F, seed):
    """Gradients with respect to x and to all parameters are right, and finite where a token may attend to nothing."""
    mask[torch.arange(len(row)), 0, row] = False
    return [gradients(block_like(impl, x, H, F, seed, norm_first), x, mask, seed=seed) for norm_first in (True, False)]


@check(
    points=1,
    compare=NEAR,
    after=mask_allows_where_true,
    sizes=ONE,
    x=normal("B L H*D"),
    mask=booleans("B L L", some=True),
    H=size("H"),
    F=size("F"),
    seed=seed(),
)
def nothing_is_changed_or_remembered(impl, x, mask, H, F, seed):
    """x and mask are the same after a call as before it, and no call leaves a trace in the next, of whatever length."""
    block = block_like(impl, x, H, F, seed)
    after = inputs_after(block, x, mask) + inputs_after(block_like(impl, x, H, F, seed, norm_first=False), x, mask)
    longer, many = torch.cat([x, -x], dim=1), x[:1].repeat(1, 200, 1).cumsum(1)
    masks = mask[0], causal(x.shape[1]), mask, mask.flip(0)  # two and two alike in shape
    seen = block(x), [block(x, m) for m in masks], block(longer, causal(longer.shape[1])), block(longer), block(x[:1], mask[:1])
    return after, seen, block(many)[:, -3:]


@check(points=1, after=mask_allows_where_true, sizes=MANY, x=normal("B L H*D", dtype=torch.float32), H=size("H"), F=size("F"), seed=seed())
def float32_stays_float32(impl, x, H, F, seed):
    """Parameters are made in PyTorch's default dtype, and with parameters and x in float32 so is the result, masked or not."""
    made = impl.EncoderBlock(x.shape[-1], H, F)(x, causal(x.shape[1])).dtype
    block = block_like(impl, x, H, F, seed)
    block.float()
    return made, block(x), block(x, causal(x.shape[1]))


# The stack.


@check(points=1, sizes={"N": (1, 3), "H": (2,), "D": (3,), "F": (5,)}, N=size("N"), H=size("H"), D=size("D"), F=size("F"))
def stack_has_its_parameters(impl, N, H, D, F):
    """The stack's parameters are those of its blocks, in an nn.ModuleList, and with pre-norm, the default, those of a last norm."""
    made = impl.Encoder(num_layers=N, d_model=H * D, num_heads=H, d_hidden=F), impl.Encoder(N, H * D, H, F, norm_first=False)
    return [parameters(stack) for stack in made]


@check(
    points=1,
    compare=NEAR,
    after=(stack_has_its_parameters, feed_forward_is_added),
    sizes={**ONE, "N": (2,)},
    N=size("N"),
    x=normal("B L H*D"),
    H=size("H"),
    F=size("F"),
    tiny=choice(1e-3),
    seed=seed(),
)
def last_norm_is_applied_once(impl, N, x, H, F, tiny, seed):
    """When no block has anything to add, a pre-norm stack gives one LayerNorm of x, with eps 1e-5."""
    stack = stack_like(impl, N, x, H, F, seed)
    silence(stack, x, F, blocks=[f"layers.{i}." for i in range(N)])
    return stack(x), stack(x * tiny)


@check(
    points=1,
    compare=NEAR,
    after=(last_norm_is_applied_once, block_is_right),
    sizes={**ONE, "N": (1, 2, 3)},
    N=size("N"),
    x=normal("B L H*D"),
    H=size("H"),
    F=size("F"),
    seed=seed(),
)
def blocks_follow_one_another(impl, N, x, H, F, seed):
    """A pre-norm stack, which is the default: each block works on what the one before it has made, and the last norm ends it."""
    return with_weights(impl.Encoder(N, x.shape[-1], H, F, dropout=0.0), seed)(x)


@check(
    points=1,
    compare=NEAR,
    after=(stack_has_its_parameters, post_norm_block_is_right),
    sizes={**ONE, "N": (1, 3)},
    N=size("N"),
    x=normal("B L H*D"),
    H=size("H"),
    F=size("F"),
    seed=seed(),
)
def post_norm_stack_is_right(impl, N, x, H, F, seed):
    """With norm_first=False the blocks are post-norm, and no norm follows the last of them."""
    return stack_like(impl, N, x, H, F, seed, norm_first=False)(x)


@check(
    points=1,
    compare=NEAR,
    after=(blocks_follow_one_another, mask_allows_where_true),
    sizes={**ONE, "N": (2,)},
    N=size("N"),
    x=normal("B L H*D"),
    keys=booleans("B 1 1 L", share=0.4),
    own=booleans("B L L", some=True),
    H=size("H"),
    F=size("F"),
    seed=seed(),
)
def mask_holds_in_every_block(impl, N, x, keys, own, H, F, seed):
    """The mask, of whatever shape, holds in every block, and the next call does not remember it."""
    stack = stack_like(impl, N, x, H, F, seed)
    return [stack(x, causal(x.shape[1])), stack(x, mask=keys), stack(x, own), stack(x)]


@check(
    points=1,
    compare=NEAR,
    after=mask_holds_in_every_block,
    sizes={**ONE, "N": (2,)},
    N=size("N"),
    x=normal("B L H*D"),
    H=size("H"),
    F=size("F"),
    seed=seed(),
)
def stack_can_be_trained(impl, N, x, H, F, seed):
    """Gradients reach x and every parameter of every block, and x is left as it was."""
    mask = causal(x.shape[1])
    stack = stack_like(impl, N, x, H, F, seed)
    return gradients(stack, x, mask, seed=seed), inputs_after(stack, x, mask)


# Dropout.


@check(
    points=1,
    after=(block_is_right, blocks_follow_one_another),
    sizes=MANY,
    N=size("N"),
    x=normal("B L H*D"),
    H=size("H"),
    F=size("F"),
    seed=seed(),
)
def nothing_is_dropped_unasked(impl, N, x, H, F, seed):
    """Without a `dropout` nothing is left to chance: block and stack give the same in training and in evaluation."""
    M, seen = x.shape[-1], {}
    for name, module in {"block": impl.EncoderBlock(M, H, F), "stack": impl.Encoder(N, M, H, F)}.items():
        with_weights(module, seed)
        in_training = module(x)
        module.eval()
        seen[name] = alike(in_training, module(x))
    return seen


@check(
    points=1,
    compare=NEAR,
    after=nothing_is_dropped_unasked,
    sizes=MANY,
    N=size("N"),
    x=normal("B L H*D"),
    H=size("H"),
    F=size("F"),
    dropout=choice(0.3, 0.6),
    seed=seed(),
)
def evaluation_drops_nothing(impl, N, x, H, F, dropout, seed):
    """After eval() a block or a stack with dropout gives the same at every call: what it would give without, also after training."""
    stack = stack_like(impl, N, x, H, F, seed, dropout=dropout)
    block = block_like(impl, x, H, F, seed, norm_first=False, dropout=dropout)
    seen = {}
    for name, module in {"pre-norm stack": stack, "post-norm block": block}.items():
        module(x)  # in training
        module.eval()
        once = module(x)
        two_calls = alike(once, module(x))
        seen[name] = {"two calls": two_calls, "output": once if two_calls == "alike" else "left to chance"}
    return seen


@check(
    points=1,
    after=evaluation_drops_nothing,
    sizes=MANY,
    N=size("N"),
    x=normal("B L H*D"),
    H=size("H"),
    F=size("F"),
    seed=seed(),
)
def training_drops_in_every_block(impl, N, x, H, F, seed):
    """In training, dropout makes two calls differ, and it does so in every block, also when the others have nothing to add."""
    stack, seen = impl.Encoder(N, x.shape[-1], H, F, dropout=0.5), {}
    for i in range(N):
        with_weights(stack, seed)
        silence(stack, x, F, blocks=[f"layers.{j}." for j in range(N) if j != i])
        seen[f"two calls, only block {i} adds something"] = alike(stack(x), stack(x))
    return seen


@check(
    points=1,
    after=training_drops_in_every_block,
    sizes=MANY,
    N=size("N"),
    x=normal("B L H*D"),
    H=size("H"),
    F=size("F"),
    seed=seed(),
)
def stream_itself_is_never_dropped(impl, N, x, H, F, seed):
    """Dropout works on what is added, never on the stream: when no block has anything to add, training and evaluation are alike."""
    stack = stack_like(impl, N, x, H, F, seed, dropout=0.5)
    silence(stack, x, F, blocks=[f"layers.{i}." for i in range(N)])
    block = block_like(impl, x, H, F, seed, norm_first=False, dropout=0.5)
    silence(block, x, F)
    seen = {}
    for name, module in {"pre-norm stack": stack, "post-norm block": block}.items():
        in_training = module(x)
        module.eval()
        seen[name] = alike(in_training, module(x))
    return seen


PLACES = {"attention": ("ff.down", "self_attn.out_proj.bias"), "feed-forward": ("self_attn.out_proj", "ff.down.bias")}  # silent; one
SINGLE = {"B": (80,), "M": (6,)}  # sequences of one token, for a block with one head and one hidden channel
PARTS = {
    "self_attn.out_proj.": 0.0,
    "ff.up.weight": 0.0,
    "ff.up.bias": 1.0,
    "ff.down.weight": 1.0,
    "ff.down.bias": 0.0,
}  # each hidden channel adds one


def single(module, seed, silent, one, bare=False):
    """A module of one head and one hidden channel, in which one sub-layer adds something: its bias is one, and all of it if `bare`."""
    constant = {f"{silent}.": 0.0, one: 1.0, "ff.up.bias": 9.0} | ({one.replace("bias", "weight"): 0.0} if bare else {})
    return with_weights(module, seed, constant=constant)


@check(
    points=1,
    after=(training_drops_in_every_block, stream_itself_is_never_dropped, block_is_right),
    sizes=SINGLE,
    x=normal("B 1 M"),
    dropout=choice(0.25, 0.5),
    seed=seed(),
)
def dropout_falls_in_four_places(impl, x, dropout, seed):
    """Attention weights, hidden channels and what either sub-layer adds are dropped, number by number; the others are divided by 1 - p.

    (With one token, one head and one hidden channel each of these shows by itself: what stays of a sub-layer is its bias, here 1.
    Where there are three hidden channels, each of them adds 1.)
    """
    M, seen = x.shape[-1], {}
    for name, (silent, one) in PLACES.items():
        block = single(impl.EncoderBlock(M, 1, 1, dropout), seed, silent, one)
        added = block(x) - x
        block.eval()
        seen[f"what {name} adds"] = fates(added, block(x) - x, dropout)
        stack = single(impl.Encoder(1, M, 1, 1, dropout, norm_first=False), seed, silent, one, bare=True)
        seen[f"two calls of a post-norm stack, {name} adding its bias alone"] = alike(stack(x), stack(x))
    channels = with_weights(impl.EncoderBlock(M, 1, 3, dropout), seed, constant=PARTS)
    return seen | {"how many of three hidden channels are kept": parts_kept(channels(x) - x, dropout)}
