"""What right sparse attention does."""

import torch

from kata.grading import at_most, beside, booleans, check, choice, cost, failure, gradients, index, inputs_after, normal, seed, size

FEW = {"B": (2,), "H": (1, 2), "L": (5, 6), "D": (2,), "V": (2, 3)}  # where axes are not the subject; V stands for Dv
WINDOWS = choice(0, 1, 2, 3, 4, 13)
LONG = {"L": (4, 1, 150)}  # 150: more than any chunk
THREEFOLD = {"operations": 3.0, "largest tensor": 3.0}


def even(L):
    """q and k with equal scores, and values that show who was seen: each token's own unit vector."""
    zeros = torch.zeros(1, 1, L, 1, dtype=torch.float64)
    return zeros, zeros, torch.eye(L, dtype=torch.float64)[None, None]


# In a window.


@check(points=1, sizes={"L": (3, 6, 5)}, L=size("L"), window=WINDOWS, draws=2)
def window_reaches_half_to_each_side(impl, L, window):
    """If all scores are equal, a token's weights are equal over itself and window // 2 tokens on either side, as far as they exist."""
    return {"weights": impl.sliding_window_attention(*even(L), window)[0, 0]}


@check(
    points=2,
    after=window_reaches_half_to_each_side,
    sizes=LONG,
    q=normal("B H L D"),
    k=normal("B H L D"),
    v=normal("B H L V"),
    window=WINDOWS,
)
def window_holds_softmax_attention(impl, q, k, v, window):
    """sliding_window_attention is the softmax of q·k / √D over the keys of the window, times their values; also for 150 tokens."""
    return {f"window = {size}": impl.sliding_window_attention(q, k, v, size) for size in (window, window + 80)}


# With global tokens.


@check(points=1, L=choice(6), window=choice(0, 2), places=choice((0,), (3,), (0, 2)), draws=4)
def global_tokens_see_and_are_seen(impl, L, window, places):
    """If all scores are equal, a global token has equal weights on all tokens, and others on their window and on the global ones."""
    is_global = torch.zeros(1, L, dtype=torch.bool)
    is_global[0, list(places)] = True
    return {"weights": impl.longformer_attention(*even(L), window, is_global)[0, 0]}


@check(
    points=2,
    after=global_tokens_see_and_are_seen,
    sizes=LONG,
    q=normal("B H L D"),
    k=normal("B H L D"),
    v=normal("B H L V"),
    window=WINDOWS,
    is_global=booleans("B L", share=0.4),
)
def each_key_counts_once(impl, q, k, v, window, is_global):
    """longformer_attention is the softmax over all keys that are in the window, or global, or seen by a global query, each once."""
    return impl.longformer_attention(q, k, v, window, is_global)


@check(
    points=1,
    after=each_key_counts_once,
    sizes={"B": (3,), "L": (5,), "D": (2,), "V": (1, 2)},
    q=normal("B 2 L D"),
    k=normal("B 2 L D"),
    v=normal("B 2 L V"),
    window=choice(2),
    first=index("L"),
)
def sequences_have_their_own_global_tokens(impl, q, k, v, window, first):
    """A batch may hold sequences with all, one and no global tokens, also none in any sequence."""
    mixed, nobody = torch.zeros(3, q.shape[2], dtype=torch.bool), torch.zeros(3, q.shape[2], dtype=torch.bool)
    mixed[0], mixed[1, first] = True, True
    return {name: impl.longformer_attention(q, k, v, window, which) for name, which in (("all, one, none", mixed), ("none", nobody))}


# BigBird's mask.


@check(points=1, L=choice(12), block=choice(1, 2, 3), window=choice(0, 1, 3, 4), num_global=choice(0, 1, 2), draws=6)
def window_and_global_blocks_are_exact(impl, L, block, window, num_global):
    """Without random blocks bigbird_mask has window // 2 blocks on either side, and rows and columns of the first num_global blocks."""
    n = L // block
    return {
        "as asked": impl.bigbird_mask(L, block, window, num_global, 0),
        "all blocks global": impl.bigbird_mask(L, block, 1, n, 0),
        "a wide window": impl.bigbird_mask(L, block, 2 * n - 4, 0, 0),
    }


def blocks_of(mask, block):
    """Which blocks see which, and whether blocks are seen as a whole."""
    n = len(mask) // block
    tiles = mask.view(n, block, n, block).float().mean((1, 3))
    return tiles > 0, bool(((tiles == 0) | (tiles == 1)).all())


def mask_of(bigbird_mask, seed, *sizes):
    """A mask, and whether the global generator was left alone."""
    before = torch.get_rng_state()
    mask = bigbird_mask(*sizes, generator=torch.Generator().manual_seed(seed))
    return mask, bool((torch.get_rng_state() == before).all())


def two_masks(bigbird_mask, seed, from_global, *sizes):
    """Two masks, one after the other, from one generator or from the global one."""
    generator = None if from_global else torch.Generator().manual_seed(seed)
    if from_global:
        torch.manual_seed(seed)
    return [bigbird_mask(*sizes, generator=generator) for _ in range(2)]


@check(
    points=2,
    after=window_and_global_blocks_are_exact,
    block=choice(1, 2, 3),
    window=choice(0, 1, 3, 4),
    num_global=choice(0, 1, 2),
    num_random=choice(1, 2, 4, 8),
    seed=seed(),
    draws=6,
)
def random_blocks_are_as_many_as_asked(impl, block, window, num_global, num_random, seed):
    """Each block that is not global sees num_random whole blocks besides window and global ones; all, if fewer are left."""
    mask, _ = beside(impl, mask_of)(impl.bigbird_mask, seed, 8 * block, block, window, num_global, num_random)
    fixed, _ = blocks_of(impl.bigbird_mask(8 * block, block, window, num_global, 0), block)
    seen, whole = blocks_of(mask, block)
    return {
        "shape and dtype": [list(mask.shape), mask.dtype],
        "blocks are seen as a whole": whole,
        "window and global blocks that are not seen": int((fixed & ~seen).sum()),
        "blocks that each block sees besides": (seen & ~fixed).sum(-1).tolist(),
        # Where the window, or the global blocks, leave one block to some and none to others, or none to all.
        "all are seen": [bool(impl.bigbird_mask(8, 1, *few, 2).all()) for few in ((12, 0), (16, num_global), (1, 8))],
    }


@check(
    points=1,
    after=random_blocks_are_as_many_as_asked,
    wanted={
        "same seed, same mask": True,
        "another seed, another mask": True,
        "same generator again, another mask": True,
        "global generator left alone": True,
        "without a generator, same global seed, same mask": True,
        "without a generator, another call, another mask": True,
    },
    seed=seed(),
)
def random_blocks_come_from_the_generator(impl, seed):
    """All randomness comes from the generator that is passed; without one, from PyTorch's global generator."""
    runs = [beside(impl, mask_of)(impl.bigbird_mask, each, 60, 1, 3, 1, 3) for each in (seed, seed, seed + 1)]
    (first, _), (again, _), (other, _) = runs
    one, two = beside(impl, two_masks)(impl.bigbird_mask, seed, False, 60, 1, 3, 1, 3)
    free = [beside(impl, two_masks)(impl.bigbird_mask, seed, True, 60, 1, 3, 1, 3) for _ in range(2)]
    return {
        "same seed, same mask": bool((first == again).all()),
        "another seed, another mask": bool((first != other).any()),
        "same generator again, another mask": bool((one != two).any()),
        "global generator left alone": all(alone for _, alone in runs),
        "without a generator, same global seed, same mask": bool((free[0][0] == free[1][0]).all()),
        "without a generator, another call, another mask": bool((free[0][0] != free[0][1]).any()),
    }


@check(
    points=1,
    after=random_blocks_are_as_many_as_asked,
    wanted={
        "rows like the row above": True,
        "later blocks among them": True,
        "even places among them": True,
        "seen by one block most": True,
        "mean distance": True,
        "blocks that draw each other": True,
        "blocks that nobody draws, with 30 for each": 0,
    },
    seed=seed(),
)
def random_blocks_are_spread_evenly(impl, seed):
    """Random blocks are drawn for each block anew, and each that is not seen anyway is equally likely."""
    mask, _ = beside(impl, mask_of)(impl.bigbird_mask, seed, 100, 1, 3, 2, 4)
    fixed = impl.bigbird_mask(100, 1, 3, 2, 0)
    drawn = (mask & ~fixed)[2:, 2:]
    more, _ = beside(impl, mask_of)(impl.bigbird_mask, seed, 100, 1, 3, 2, 30)
    place = torch.arange(98)
    rows, columns = drawn.nonzero(as_tuple=True)
    return {  # bounds that chance breaks less than once in a million
        "rows like the row above": int((drawn[1:] == drawn[:-1]).all(-1).sum()) < 5,
        "later blocks among them": 0.35 < (columns > rows).double().mean().item() < 0.65,
        "even places among them": 0.35 < (columns % 2 == 0).double().mean().item() < 0.65,
        "seen by one block most": int(drawn.sum(0).max()) < 20,
        "blocks that draw each other": int((drawn & drawn.mT).sum()) < 48,
        "blocks that nobody draws, with 30 for each": int((~(more & ~fixed)[2:, 2:].any(0)).sum()),
        "mean distance": 26 < (place[rows] - place[columns]).abs().double().mean().item() < 42,
    }


@check(points=1, after=window_and_global_blocks_are_exact, L=choice(7, 9, 10), draws=2)
def uneven_lengths_are_refused(impl, L):
    """bigbird_mask raises ValueError if L is not divisible by block, also if block is larger than L."""
    return {f"{L} tokens, blocks of {block}": failure(impl.bigbird_mask, L, block, 1, 1, 1)[0] for block in (4, L + 1)}


# Blocks in any layout.


@check(
    points=2,
    sizes={"N": (1, 2, 3, 7), "T": (1, 2, 3)},
    q=normal("B H N*T D"),
    k=normal("B H N*T D"),
    v=normal("B H N*T V"),
    layout=booleans("N N", some=True),
    block=size("T"),
)
def layout_says_which_blocks_are_seen(impl, q, k, v, layout, block):
    """block_sparse_attention is the softmax of q·k / √D over all keys of all blocks that the query's block sees, times their values."""
    return impl.block_sparse_attention(q, k, v, layout, block)


@check(
    points=1,
    after=layout_says_which_blocks_are_seen,
    sizes={"B": (2,), "H": (1, 2), "D": (2,), "V": (3,)},
    q=normal("B H 6 D"),
    k=normal("B H 6 D"),
    v=normal("B H 6 V"),
    empty=index(3),
    seed=seed(),
)
def who_sees_nothing_gets_zeros(impl, q, k, v, empty, seed):
    """Queries of a block that sees no block get zeros, and gradients without NaN; so do all, if the layout is empty."""
    layout = torch.ones(3, 3, dtype=torch.bool)
    layout[empty] = False
    return {
        "results": impl.block_sparse_attention(q, k, v, layout, 2),
        "gradients": gradients(impl.block_sparse_attention, q, k, v, layout, 2, seed=seed)["inputs"][:3],
        "empty layout": impl.block_sparse_attention(q, k, v, layout & False, 2),
    }


# All of them: large scores, gradients, manners.


def each(impl, q, k, v, is_global):
    """Each function with these inputs; L is 6."""
    layout = torch.tensor([[True, True, False], [False, True, False], [True, False, True]])
    return {
        "sliding_window_attention": (impl.sliding_window_attention, (q, k, v, 2)),
        "longformer_attention": (impl.longformer_attention, (q, k, v, 2, is_global)),
        "block_sparse_attention": (impl.block_sparse_attention, (q, k, v, layout, 2)),
    }


AFTER = (window_holds_softmax_attention, each_key_counts_once, layout_says_which_blocks_are_seen)
SIX = {"B": (2,), "H": (1, 2), "D": (2, 3), "V": (2,)}


@check(
    points=1,
    after=AFTER,
    sizes=SIX,
    q=normal("B H 6 D", scale=50.0),
    k=normal("B H 6 D", scale=50.0),
    v=normal("B H 6 V"),
    is_global=booleans("B 6", share=0.3),
)
def large_scores_do_not_overflow(impl, q, k, v, is_global):
    """Where scores are in the thousands, results are those of a softmax that subtracts the largest score."""
    return {name: function(*given) for name, (function, given) in each(impl, q, k, v, is_global).items()}


@check(
    points=1,
    after=AFTER,
    sizes=SIX,
    q=normal("B H 6 D"),
    k=normal("B H 6 D"),
    v=normal("B H 6 V"),
    is_global=booleans("B 6", share=0.3),
    seed=seed(),
)
def gradients_are_right(impl, q, k, v, is_global, seed):
    """Gradients with respect to q, k and v are right for all three forms, also where a whole window is global, or no token is."""
    mixed = torch.tensor([[True] * 3 + [False] * 3, [False] * 6])
    calls = each(impl, q, k, v, is_global) | {"global tokens in one sequence only": (impl.longformer_attention, (q, k, v, 2, mixed))}
    return {name: gradients(function, *given, seed=seed)["inputs"][:3] for name, (function, given) in calls.items()}


@check(
    points=1,
    after=AFTER,
    sizes=SIX,
    q=normal("B H 6 D"),
    k=normal("B H 6 D"),
    v=normal("B H 6 V"),
    is_global=booleans("B 6", share=0.3),
)
def inputs_are_left_alone(impl, q, k, v, is_global):
    """Arguments are the same after the call as before it, and float32 in gives float32 out, bfloat16 bfloat16."""
    single, half = (each(impl, q.to(dtype), k.to(dtype), v.to(dtype), is_global) for dtype in (torch.float32, torch.bfloat16))
    return {
        name: {
            "tensors afterwards": [x for x in inputs_after(function, *given) if torch.is_tensor(x)],
            "dtype from float32": single[name][0](*single[name][1]).dtype,
            "dtype from bfloat16": half[name][0](*half[name][1]).dtype,
        }
        for name, (function, given) in each(impl, q, k, v, is_global).items()
    }


# Costs.


def growth(function, few, many):
    """How many times as much a call costs with 384 tokens, all ones, as with 128."""
    x, y = (torch.ones(1, 1, length, 4, dtype=torch.float64) for length in (128, 384))
    less, more = cost(function, x, x, x, *few), cost(function, y, y, y, *many)
    names = {"flops": "operations", "largest_tensor": "largest tensor"}
    return {said: round(more[name] / max(less[name], 1), 2) for name, said in names.items()}


@check(points=2, after=window_holds_softmax_attention, wanted=THREEFOLD, compare=at_most(1.3))
def windows_cost_grows_with_length(impl):
    """With a window of 8, 384 tokens cost 3 times as much as 128, not 9 times: in operations and in the largest tensor."""
    return growth(impl.sliding_window_attention, [8], [8])


@check(points=2, after=each_key_counts_once, wanted=THREEFOLD, compare=at_most(1.3))
def longformers_cost_grows_with_length(impl):
    """With a window of 8 and 2 global tokens, 384 tokens cost 3 times as much as 128: in operations and in the largest tensor."""
    first_and_ninth = torch.zeros(1, 384, dtype=torch.bool)
    first_and_ninth[0, [0, 8]] = True
    return growth(impl.longformer_attention, [8, first_and_ninth[:, :128]], [8, first_and_ninth])


def arrow(n):
    """A layout in which the first block sees all, and the others see it and themselves: 3n - 2 blocks."""
    layout = torch.eye(n, dtype=torch.bool)
    layout[0] = layout[:, 0] = True
    return layout


@check(
    points=2,
    after=layout_says_which_blocks_are_seen,
    wanted={"operations": 3.0, "largest tensor, as a share of L x L": 0.7},  # 0.12 is seen, by a list of pairs 4 times
    compare=at_most(1.3),
)
def block_cost_grows_with_the_blocks_seen(impl):
    """Where the first block sees all, and others it and themselves, 3 times as many cost 3 times as much; nothing is as large as L x L."""
    times = growth(impl.block_sparse_attention, [arrow(8), 16], [arrow(24), 16])
    x = torch.ones(1, 1, 384, 4, dtype=torch.float64)
    largest = cost(impl.block_sparse_attention, x, x, x, arrow(24), 16)["largest_tensor"]
    return {"operations": times["operations"], "largest tensor, as a share of L x L": round(largest / 384**2, 3)}
