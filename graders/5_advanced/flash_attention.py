"""What right flash attention does."""

import math

import torch

from kata.grading import at_most, beside, check, choice, close, cost, count, inputs_after, normal

FEW = {"B": (1, 2), "H": (2, 1), "L": (1, 3, 4), "S": (1, 4, 5), "D": (1, 2, 3)}
ONE = {"B": (2,), "H": (1,), "L": (4,), "S": (5,), "D": (2,)}  # where axes are not the subject
ROUNDED = close(rtol=1e-3, atol=1e-3)  # what float32 may round where scores are 280

# Everything at once, to make states and gradients that are right.


def state(scores, v):
    """(m, l, o) of all keys: scores (..., L, S), values (..., S, D)."""
    m = scores.amax(-1)
    p = (scores - m.unsqueeze(-1)).exp()
    return m, p.sum(-1), p @ v


def empty(like):
    m, l, o = like
    return torch.full_like(m, -math.inf), torch.zeros_like(l), torch.zeros_like(o)


def attended(q, k, v, causal):
    """(out, logsumexp), with all scores at once."""
    L, S = q.shape[2], k.shape[2]
    scores = q @ k.mT / math.sqrt(q.shape[-1])
    if causal:
        scores = scores.masked_fill(torch.ones(L, S, dtype=torch.bool).triu(1 + S - L), -math.inf)
    return scores.softmax(-1) @ v, scores.logsumexp(-1)


def forward(impl, q, k, v, block, causal=False):
    out, logsumexp = impl.flash_forward(q, k, v, block, **({"causal": True} if causal else {}))
    return {"out": out, "logsumexp": logsumexp}


def backward(impl, dout, q, k, v, block, causal=False):
    """What flash_backward gives for what a right forward pass has found."""
    found = attended(q, k, v, causal)
    dq, dk, dv = impl.flash_backward(dout, q, k, v, *found, block, **({"causal": True} if causal else {}))
    return {"dq": dq, "dk": dk, "dv": dv}


def long():
    """dout, q, k and v of one head, with 70 queries and 140 keys: more than one block of 64."""
    x = torch.linspace(0, 900, 4 * 140 * 10, dtype=torch.float64).sin().view(4, 1, 1, 140, 10)
    return x[0, :, :, :70], x[1, :, :, :70], x[2], x[3]


def merged(impl, one, other):
    m, l, o = impl.merge_blocks(one, other)
    return {"m": m, "l": l, "o": o}


# Merging.


@check(points=2, sizes={"L": (1, 3)}, s=normal("A L N"), t=normal("A L P"), v=normal("A N D"), w=normal("A P D"))
def merged_state_is_that_of_all_keys(impl, s, t, v, w):
    """merge_blocks gives the state that one block with the keys of both would have had: m, l and o, o not divided by l."""
    without_axes = [[part[0] for part in state(s, v)], [part[0] for part in state(t, w)]]
    return {
        "one, other": merged(impl, state(s, v), state(t, w)),
        "other, one": merged(impl, state(t, w), state(s, v)),
        "no axis before L": merged(impl, *map(tuple, without_axes)),
    }


@check(
    points=1,
    after=merged_state_is_that_of_all_keys,
    sizes={"L": (1, 3), "N": (1, 2), "P": (2, 1), "D": (1, 2)},
    s=normal("L N"),
    t=normal("L P"),
    v=normal("N D"),
    w=normal("P D"),
)
def merging_holds_at_extremes(impl, s, t, v, w):
    """Whatever the maxima, nothing overflows and nothing is lost: the larger one, of either block, becomes that of both."""
    levels = {"both at -1000": (-1e3, -1e3), "both at 1000": (1e3, 1e3), "low, high": (-1e3, 0.0), "high, low": (1e3, -1e3)}
    return {name: merged(impl, state(s + one, v), state(t + other, w)) for name, (one, other) in levels.items()}


@check(
    points=1,
    after=merged_state_is_that_of_all_keys,
    compare=close(rtol=1e-5, atol=0),  # what is 0 is 0
    sizes={"L": (2, 3), "N": (1, 2), "D": (1, 2)},
    s=normal("L N"),
    v=normal("N D"),
)
def empty_states_change_nothing(impl, s, v):
    """An empty state (m -inf, l 0, o 0) merges with another to that other one, and with an empty one to an empty one, never to NaN."""
    full = state(s, v)
    partly = [part.clone() for part in full]
    for part, nothing in zip(partly, empty(full), strict=True):
        part[0] = nothing[0]
    return {
        "empty, full": merged(impl, empty(full), full),
        "full, empty": merged(impl, full, empty(full)),
        "empty, empty": merged(impl, empty(full), empty(full)),
        "empty for the first query only": merged(impl, tuple(partly), empty(full)),
    }


# The forward pass.


@check(points=2, sizes=FEW, q=normal("B H L D"), k=normal("B H S D"), v=normal("B H S D"), block=count("S"))
def forward_is_attention(impl, q, k, v, block):
    """out of flash_forward is softmax(q·k / √D) times the values, for every query over all keys."""
    return forward(impl, q, k, v, block)["out"]


@check(
    points=1,
    sizes=ONE | {"S": (1, 2, 5)},
    q=normal("B H L D"),
    k=normal("B H S D"),
    v=normal("B H S D"),
    block=count("S"),
)
def logsumexp_is_that_of_the_scores(impl, q, k, v, block):
    """logsumexp of flash_forward is log Σ exp(q·k / √D) over all keys, (B, H, L)."""
    return forward(impl, q, k, v, block)["logsumexp"]


@check(
    points=1, after=forward_is_attention, sizes=ONE | {"S": (3, 5)}, q=normal("B H L D", scale=2), k=normal("B H S D"), v=normal("B H S D")
)
def blocks_may_be_of_any_size(impl, q, k, v):
    """The results are the same for every block: of one key, of a number that does not divide S, of all keys, of more than there are.

    (At last 70 queries and 140 keys with a block of 64, of sines.)
    """
    S = k.shape[2]
    found = {f"block {block} of {S} keys": forward(impl, q, k, v, block) for block in (1, 2, S, S + 3)}
    return found | {"block 64 of 140 keys": forward(impl, *long()[1:], 64)}


@check(points=1, after=forward_is_attention, sizes=ONE | {"S": (1, 2, 5)}, x=normal("3 B H S D"), block=count("S"))
def causal_hides_later_keys(impl, x, block):
    """With causal and as many queries as keys, query i sees keys 0 to i: itself, but nothing later. (x holds q, k and v.)"""
    q, k, v = x
    return {f"block {size}": forward(impl, q, k, v, size, True) for size in sorted({block, 2})}


@check(points=1, after=causal_hides_later_keys, sizes=ONE | {"S": (2, 3, 5)}, x=normal("3 B H S D"), few=count("S"))
def causal_ends_at_the_last_key(impl, x, few):
    """With causal and fewer queries than keys, the last query sees all keys, the one before it all but one: query i keys 0 to i + S - L.

    (x holds q, k and v; q is cut to `few` queries, or to one less than there are keys. At last 70 queries and 140 keys, of sines.)
    """
    q, k, v = x
    L = min(few, k.shape[2] - 1)
    found = {f"block {block}": forward(impl, q[:, :, :L], k, v, block, True) for block in (1, 2, 3)}
    return found | {"70 queries, 140 keys, block 64": forward(impl, *long()[1:], 64, True)}


def rising(x, level, back):
    """q, k, v whose scores climb by `level` from key to key, or fall; those of the last query go the other way."""
    q, k, v = x.unbind()
    q[..., 0], k[..., 0] = 2.0, level * (torch.arange(k.shape[2]) - back)
    q[:, :, -1, 0] = -2.0
    return q, k, v  # D is 4, so a score is half of q·k


def extremes(x, level):
    """(q, k, v) with scores that are all high, all low, climbing, falling; D is 4."""
    S = x.shape[3]
    cases = {}
    for sign in (1, -1):
        q, k, v = x.clone().unbind()
        q[..., 0], k[..., 0] = 2.0, sign * level
        cases[f"all scores at {sign * level:g} or so"] = q, k, v
    cases["climbing"] = rising(x.clone(), level, 0)
    cases["from below zero"] = rising(x.clone(), level, S)
    return cases


@check(points=1, after=forward_is_attention, compare=ROUNDED, sizes={"S": (4,)}, x=normal("3 1 1 S 4"), level=choice(280.0))
def forward_holds_at_extremes(impl, x, level):
    """flash_forward is finite and right where scores are all far above zero or below, and where they climb or fall over the blocks.

    (x holds q, k and v. Then q[..., 0] becomes 2 and k[..., 0] the level: with D = 4 it is what all scores get.)
    """
    found = {}
    for name, (q, k, v) in extremes(x, level).items():
        found[f"{name}, float32"] = forward(impl, q.float(), k.float(), v.float(), 2)
    for name, (q, k, v) in extremes(x, 1e4).items():
        found[f"{name}, causal"] = forward(impl, q, k, v, 2, True)
    return found


# The backward pass.


@check(
    points=2,
    sizes=FEW,
    dout=normal("B H L D"),
    q=normal("B H L D"),
    k=normal("B H S D"),
    v=normal("B H S D"),
    block=count("S"),
)
def backward_is_the_gradient(impl, dout, q, k, v, block):
    """flash_backward gives the gradients of attention with respect to q, k and v, when dout is that with respect to out."""
    return backward(impl, dout, q, k, v, block)


@check(
    points=1,
    after=backward_is_the_gradient,
    sizes=ONE | {"S": (3, 5)},
    dout=normal("B H L D"),
    q=normal("B H L D"),
    k=normal("B H S D"),
    v=normal("B H S D"),
)
def backward_takes_any_blocks(impl, dout, q, k, v):
    """The gradients are the same for every block: of one key, of a number that does not divide S, of more than there are.

    (At last 70 queries and 140 keys with a block of 64, of sines.)
    """
    S = k.shape[2]
    found = {f"block {block} of {S} keys": backward(impl, dout, q, k, v, block) for block in (1, 2, S + 3)}
    return found | {"block 64 of 140 keys": backward(impl, *long(), 64)}


@check(points=1, after=backward_is_the_gradient, sizes=ONE | {"S": (2, 5)}, x=normal("4 B H S D"), few=count("S"))
def backward_is_causal_too(impl, x, few):
    """With causal no gradient flows between a query and a key that it does not see, with as many queries as keys and with fewer.

    (x holds dout, q, k and v; dout and q are cut to so many queries. At last 70 queries and 140 keys, of sines.)
    """
    dout, q, k, v = x
    found = {}
    for L in sorted({few, k.shape[2]}):
        for block in (1, 3):
            found[f"{L} queries, block {block}"] = backward(impl, dout[:, :, :L], q[:, :, :L], k, v, block, True)
    return found | {"70 queries, 140 keys, block 64": backward(impl, *long(), 64, True)}


@check(points=1, after=backward_is_the_gradient, sizes={"S": (4,)}, x=normal("4 1 1 S 4"), level=choice(1e4))
def backward_holds_at_extremes(impl, x, level):
    """flash_backward is finite and right where scores are all far above zero or below, and where they climb or fall over the blocks.

    (x holds dout, q, k and v. Then q[..., 0] becomes 2 and k[..., 0] the level: with D = 4 it is what all scores get.)
    """
    found = {}
    for name, (q, k, v) in extremes(x[1:], level).items():
        found |= {f"{name}{', causal' * causal}": backward(impl, x[0], q, k, v, 2, causal) for causal in (False, True)}
    return found


# What it costs.


def costs(impl, L, S, block, causal, D=2):
    """What both passes cost for one head of size D."""
    x = torch.linspace(-1, 1, 4 * S * D, dtype=torch.float64).view(4, 1, 1, S, D)
    dout, q, k, v = x[0, :, :, :L], x[1, :, :, :L], x[2], x[3]
    return {
        "flash_forward": cost(impl.flash_forward, q, k, v, block, causal),
        "flash_backward": cost(impl.flash_backward, dout, q, k, v, *attended(q, k, v, causal), block, causal),
    }


@check(
    points=2,
    after=(forward_is_attention, backward_is_the_gradient),
    compare=at_most(1.99),  # half of the scores are granted to whoever needs less
    block=choice(16),
)
def no_tensor_holds_all_scores(impl, block):
    """Neither pass makes a tensor with as many numbers as a head has scores, L · S: no matrix of scores, no mask of booleans."""
    few, many = costs(impl, 8, 64, block, False), costs(impl, 48, 48, block, True)
    return {
        "flash_forward, 8 queries, 64 keys": max(few["flash_forward"]["largest_tensor"], 8 * 64 // 2),
        "flash_backward, 8 queries, 64 keys": max(few["flash_backward"]["largest_tensor"], 8 * 64 // 2),
        "flash_forward, 48 tokens, causal": max(many["flash_forward"]["largest_tensor"], 48 * 48 // 2),
        "flash_backward, 48 tokens, causal": max(many["flash_backward"]["largest_tensor"], 48 * 48 // 2),
    }


@check(
    points=1,
    after=(causal_hides_later_keys, backward_is_causal_too),
    compare=at_most(1.2, least=0.75),
    L=choice(12),
)
def hidden_blocks_are_not_computed(impl, L):
    """With causal, blocks of scores that no query may see cost nothing: with L = S and 3 blocks, at most 4/5 of the operations."""
    found, block = {}, L // 3
    for S in (L, L + block):
        masked, free = costs(impl, L, S, block, True), costs(impl, L, S, block, False)
        for name in masked:
            found[f"share of {name}, {L} queries, {S} keys"] = masked[name]["flops"] / max(free[name]["flops"], 1)
    return found


def scores_made(function, *args):
    """How many scores the largest product made, and how many lived at a time, if D is 2: of what has more rows and columns than 3."""
    from torch.multiprocessing.reductions import StorageWeakRef
    from torch.utils._python_dispatch import TorchDispatchMode

    class Watch(TorchDispatchMode):
        @classmethod
        def _should_skip_dynamo(cls):
            return False  # True imports PyTorch's compiler

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            if isinstance(out, torch.Tensor) and out.dim() > 1 and min(out.shape[-2:]) > 3:
                storage = out.untyped_storage()
                living[StorageWeakRef(storage)] = storage.nbytes() // out.element_size()
                for gone in [storage for storage in living if storage.expired()]:
                    del living[gone]
                most.append(sum(living.values()))
                if func._schema.name.removeprefix("aten::") in ("mm", "bmm", "addmm", "baddbmm", "sum"):
                    largest.append(out.shape[-2] * out.shape[-1])
            return out

    living, most, largest = {}, [0], [0]
    with Watch():
        function(*args)
    return max(largest), max(most)


@check(
    points=1,
    after=(forward_is_attention, backward_is_the_gradient),
    compare=at_most(1.0),
    block=choice(5),
)
def scores_exist_for_one_block_of_keys(impl, block):
    """Scores exist for at most `block` keys at a time: none of more keys are computed at once, and blocks are not kept till all are there.

    (5 queries, 80 keys, D is 2: a product has at most 25 scores, and fewer than all 400 live at a time, weights and masks counted too.)
    """
    x = torch.linspace(-1, 1, 4 * 80 * 2, dtype=torch.float64).view(4, 1, 1, 80, 2)
    dout, q, k, v = x[0, :, :, :5], x[1, :, :, :5], x[2], x[3]
    watched, found = beside(impl, scores_made), {}
    for name, args in (("flash_forward", (q, k, v)), ("flash_backward", (dout, q, k, v, *attended(q, k, v, False)))):
        largest, most = watched(getattr(impl, name), *args, block)
        found |= {f"{name}, at once": max(largest, 5 * block), f"{name}, kept": max(most, 399)}
    return found


# Manners.


@check(
    points=1,
    after=(merged_state_is_that_of_all_keys, forward_is_attention, backward_is_the_gradient),
    compare=close(rtol=1e-4, atol=1e-4),  # products in half precision are further off
    sizes=ONE,
    dout=normal("B H L D"),
    q=normal("B H L D"),
    k=normal("B H S D"),
    v=normal("B H S D"),
)
def arguments_are_left_alone(impl, dout, q, k, v):
    """Arguments are the same after the call as before it, and float32 in gives float32 out."""
    out, logsumexp = attended(q, k, v, True)
    states = [state(q @ k.mT, v), state(q @ k.mT + 1, v)]
    states32 = [tuple(part.float() for part in each) for each in states]
    dout32, q32, k32, v32, out32, logsumexp32 = (x.float() for x in (dout, q, k, v, out, logsumexp))
    return {
        "merge_blocks": inputs_after(impl.merge_blocks, *states),
        "flash_forward": inputs_after(impl.flash_forward, q, k, v, 2, True)[:3],
        "flash_forward, not causal": inputs_after(impl.flash_forward, q, k, v, 2)[:3],
        "flash_backward": inputs_after(impl.flash_backward, dout, q, k, v, out, logsumexp, 2, True)[:6],
        "flash_backward, not causal": inputs_after(impl.flash_backward, dout, q, k, v, *attended(q, k, v, False), 2)[:6],
        "merge_blocks of float32": impl.merge_blocks(*states32),
        "flash_forward of float32": impl.flash_forward(q32, k32, v32, 2, True),
        "flash_backward of float32": impl.flash_backward(dout32, q32, k32, v32, out32, logsumexp32, 2, True),
    }
