"""What a right Reformer does.

Two decimals keep hashes apart: the 2R numbers of a token are equal or differ by
1e-4 and more, which no rounding bridges. `apart` nudges the few tokens of which
the largest two are equal, so that all buckets are fixed.
"""

import torch
from torch import nn

from kata.grading import (
    at_most,
    beside,
    built_in,
    check,
    choice,
    close,
    cost,
    failure,
    gradients,
    indices,
    inputs_after,
    normal,
    parameters,
    seed,
    size,
)
from kata.inputs import Sizes, Strategy

FEW = {"B": (2,), "H": (1, 2), "D": (2, 3), "V": (2,), "C": (3,), "T": (2,), "R": (2,)}  # L is C chunks of T tokens; V stands for Dv


def tokens(axes: str, scale: float = 1.0) -> Strategy:
    """As normal, but no row is shorter than half of `scale`: an epsilon beside its length does not count."""
    plain = normal(axes)

    def draw(sizes: Sizes, generator: torch.Generator) -> torch.Tensor:
        rows = plain.draw(sizes, generator)
        rows[..., 0] += rows.norm(dim=-1) < 0.5
        return rows * scale

    return Strategy(plain.axes, draw)


def apart(x, rotations):
    """x, without tokens of which the largest two hashes are equal."""
    rotated = torch.einsum("...d,ndr->n...r", x, rotations)
    largest = torch.cat([rotated, -rotated], dim=-1).topk(2).values
    tied = (largest[..., 0] - largest[..., 1] < 5e-5).any(0)
    return torch.where(tied.unsqueeze(-1), x + 0.07 * rotations.sum((0, 2)) + 0.03, x)


def one_bucket(qk):
    """qk with a first channel above 0, and a rotation by which all its tokens are in bucket 0."""
    qk[..., 0] = qk[..., 0].abs() + 0.5
    rotation = torch.zeros(1, qk.shape[-1], 1, dtype=qk.dtype)
    rotation[0, 0] = 1.0
    return qk, rotation


def long():
    """qk, v and a rotation for 96 tokens of two heads, of sines, far from ties: the two largest hashes differ by 1e-3 and more."""
    qk, v = torch.linspace(1, 400, 2 * 2 * 96 * 3, dtype=torch.float64).sin().view(2, 1, 2, 96, 3)
    return qk, v, torch.linspace(0, 15, 3 * 2, dtype=torch.float64).cos().view(1, 3, 2)


# Buckets.


@check(points=2, sizes={"N": (1, 2, 3), "L": (1, 2, 4), "D": (2, 3, 4), "R": (1, 2, 3)}, x=normal("L D"), rotations=normal("N D R"))
def buckets_are_places_of_the_largest(impl, x, rotations):
    """lsh_buckets is, for each round, the place of the largest of [xA; -xA]: one of 2R buckets."""
    return impl.lsh_buckets(apart(x, rotations), rotations)


@check(
    points=1,
    after=buckets_are_places_of_the_largest,
    sizes={"B": (2,), "H": (1, 3), "L": (2, 4), "D": (2, 3), "N": (2, 1), "R": (2, 3)},
    x=normal("B H L D"),
    rotations=normal("N D R"),
)
def rounds_come_first(impl, x, rotations):
    """Buckets have the leading axes of x behind that of the rounds, however many they are, and are int64."""
    x = apart(x, rotations)
    vectors = {"(B, H, L, D)": x, "(H, L, D)": x[0], "(L, D)": x[0, 0], "(D,)": x[0, 0, 0], "(1, B, H, L, D)": x[None]}
    return {f"x {name}": impl.lsh_buckets(each, rotations) for name, each in vectors.items()}


# One round of attention.


@check(
    points=2,
    sizes={"B": (1, 2), "H": (1, 2), "L": (1, 2, 3, 4, 5), "D": (2, 3, 4), "V": (1, 2)},
    qk=tokens("B H L D"),
    v=normal("B H L V"),
    length=size("L"),
)
def keys_are_queries_of_length_one(impl, qk, v, length):
    """With one bucket and one chunk each token attends to all but itself: softmax of q · k / √D, with keys that have length 1.

    (qk[..., 0] becomes its magnitude + 0.5, and hashes look at it alone: all are in bucket 0. Then all rows are made 0.09 long.)
    """
    qk, rotation = one_bucket(qk)
    short = 0.09 * qk / qk.norm(dim=-1, keepdim=True)
    return {
        "rows of any length": impl.lsh_attention(qk, v, rotation, chunk=length, causal=False),
        "rows of length 0.09": impl.lsh_attention(short, v, rotation, length, False),
    }


@check(
    points=1,
    after=keys_are_queries_of_length_one,
    sizes={"B": (2,), "H": (1, 2), "L": (1, 2, 4), "D": (2, 3), "V": (2,)},
    qk=tokens("B H L D"),
    v=normal("B H L V"),
    length=size("L"),
)
def causal_hides_later_tokens(impl, qk, v, length):
    """With causal, which is the default, a token sees those before it, not itself; the first, who has no other, keeps its own value.

    (qk[..., 0] becomes its magnitude + 0.5, and hashes look at it alone: all are in bucket 0.)
    """
    qk, rotation = one_bucket(qk)
    return {"causal": impl.lsh_attention(qk, v, rotation, length, True), "default": impl.lsh_attention(qk, v, rotation, length)}


@check(
    points=1,
    after=keys_are_queries_of_length_one,
    sizes={"L": (1, 2, 5), "R": (1, 2)},
    buckets=indices("L", below="2*R"),
    R=size("R"),
    draws=2,
)
def other_buckets_are_hidden(impl, buckets, R):
    """In one chunk and with equal scores, weights are equal over the other tokens of the same bucket; a token that has none sees itself.

    (A row of qk is the unit vector that falls into its bucket, and v is the identity.)
    """
    L = len(buckets)
    directions = torch.cat([torch.eye(R), -torch.eye(R)]).double()  # of the buckets
    values = torch.eye(L, dtype=torch.float64)[None, None]
    weights = impl.lsh_attention(directions[buckets][None, None], values, torch.eye(R, dtype=torch.float64)[None], L, causal=False)
    return {"weights": weights[0, 0]}


@check(
    points=2,
    after=keys_are_queries_of_length_one,
    L=choice(6),
    chunk=choice(1, 2, 3, 6),
    causal=choice(False, True),
    draws=6,
)
def chunks_see_themselves_and_the_one_before(impl, L, chunk, causal):
    """In one bucket and with equal scores, weights are equal over a token's chunk and the one before it; before the first is none.

    (All rows of qk are alike, and v is the identity: a row of the result shows whom a token sees.)
    """
    qk, rotation = one_bucket(torch.ones(1, 1, L, 2, dtype=torch.float64))
    values = torch.eye(L, dtype=torch.float64)[None, None]
    return {"weights": impl.lsh_attention(qk, values, rotation, chunk, causal)[0, 0]}


@check(
    points=2,
    after=(buckets_are_places_of_the_largest, other_buckets_are_hidden, chunks_see_themselves_and_the_one_before),
    sizes={"B": (1, 2), "H": (1, 2), "C": (2, 3, 4), "T": (2, 1, 3), "D": (2, 3, 4), "V": (1, 2), "R": (2, 1, 3)},
    qk=tokens("B H C*T D"),
    v=normal("B H C*T V"),
    rotations=normal("1 D R"),
    chunk=size("T"),
    causal=choice(False, True),
)
def tokens_are_sorted_by_bucket_then_position(impl, qk, v, rotations, chunk, causal):
    """Chunks are cut from tokens sorted by bucket, then position, for each head; masks ask for positions; results stand in their places.

    (At last 96 tokens of sines, in chunks of 16.)
    """
    return {
        "as drawn": impl.lsh_attention(apart(qk, rotations), v, rotations, chunk, causal),
        "96 tokens": impl.lsh_attention(*long(), 16, causal),
    }


# Several rounds.


@check(points=1, after=keys_are_queries_of_length_one, causal=choice(False, True), qk=tokens("1 1 4 2"), draws=3)
def company_in_one_round_is_enough(impl, causal, qk):
    """A token that is alone in one round, and not in another, does not see itself; one that is alone in all keeps its own value.

    (Numbers of qk become their magnitudes + 0.5, with the signs ++, -+, +-, ++. The first round goes by the sign of channel 0, where
    token 1 is alone, the second by that of channel 1, where token 2 is. v is the identity.)
    """
    signs = torch.tensor([[1.0, 1.0], [-1.0, 1.0], [1.0, -1.0], [1.0, 1.0]], dtype=torch.float64)
    rotations = torch.eye(2, dtype=torch.float64)[:, :, None]
    qk, values = (qk.abs() + 0.5) * signs, torch.eye(4, dtype=torch.float64)[None, None]
    return {"weights": impl.lsh_attention(qk, values, rotations, 4, causal)[0, 0]}


@check(
    points=2,
    after=tokens_are_sorted_by_bucket_then_position,
    sizes=FEW | {"N": (2, 3), "C": (2, 3), "T": (2, 3)},
    qk=tokens("B H C*T D"),
    v=normal("B H C*T V"),
    rotations=normal("N D R"),
    chunk=size("T"),
    causal=choice(False, True),
)
def one_softmax_spans_all_rounds(impl, qk, v, rotations, chunk, causal):
    """Several rounds share one softmax, in which a key stands once for each round that sees it."""
    return impl.lsh_attention(apart(qk, rotations), v, rotations, chunk, causal)


# Large scores, gradients, costs, manners.


@check(
    points=1,
    after=one_softmax_spans_all_rounds,
    compare=close(rtol=1e-3, atol=1e-3),
    sizes=FEW | {"H": (2,)},
    qk=tokens("B H C*T D", scale=2000.0),
    v=normal("B H C*T V"),
    rotations=normal("2 D R"),
    chunk=size("T"),
    causal=choice(False, True),
)
def large_scores_do_not_overflow(impl, qk, v, rotations, chunk, causal):
    """Where scores are in the thousands, above zero and below, results are those of a softmax that subtracts the largest score.

    (At last two tokens that point away from each other: their scores are -3000, or -8500, and still each sees the other, not itself.)
    """
    found = {"as drawn": impl.lsh_attention(apart(qk, rotations), v, rotations, chunk, causal)}
    for score in (-3000, -8500):
        opposite, rotation = one_bucket(torch.tensor([[0.0, -score], [0.0, score]], dtype=torch.float64)[None, None] * 2**0.5)
        found[f"scores of {score}"] = impl.lsh_attention(opposite, v[:1, :1, :2], rotation, 2, False)
    return found


@check(
    points=2,
    after=one_softmax_spans_all_rounds,
    sizes=FEW | {"H": (2,)},
    qk=tokens("B H C*T D"),
    v=normal("B H C*T V"),
    rotations=normal("2 D R"),
    chunk=size("T"),
    causal=choice(False, True),
    seed=seed(),
)
def attention_has_its_gradients(impl, qk, v, rotations, chunk, causal, seed):
    """Gradients flow to v, and to qk both as queries and as keys; they are finite also where a token sees only itself."""
    of_qk, of_v, _ = gradients(impl.lsh_attention, apart(qk, rotations), v, rotations, chunk, causal, seed=seed)["inputs"]
    return {"qk": of_qk, "v": of_v}


@check(
    points=2,
    after=one_softmax_spans_all_rounds,
    wanted={"operations": 3.0, "operations, causal": 3.0, "largest tensor": 3.0, "largest tensor, causal": 3.0},
    compare=at_most(1.3),
    chunk=choice(8),
)
def cost_grows_with_length(impl, chunk):
    """With chunks of 8, 384 tokens cost 3 times as much as 128, not 9 times, though all are in one bucket: operations, largest tensor."""
    rotations = torch.linspace(-1, 2, 2 * 4 * 4, dtype=torch.float64).view(2, 4, 4)
    x, y = (torch.ones(1, 1, length, 4, dtype=torch.float64) for length in (128, 384))
    found = {}
    for said, causal in (("", False), (", causal", True)):
        less, more = (cost(impl.lsh_attention, each, each, rotations, chunk, causal) for each in (x, y))
        for name, told in (("flops", "operations"), ("largest_tensor", "largest tensor")):
            found[told + said] = round(more[name] / max(less[name], 1), 2)
    return found


@check(points=1, after=keys_are_queries_of_length_one, L=choice(6))
def uneven_lengths_are_refused(impl, L):
    """lsh_attention raises ValueError if L is not divisible by chunk, also if chunk is larger than L."""
    qk, rotation = one_bucket(torch.ones(1, 1, L, 2, dtype=torch.float64))
    return {f"chunk {chunk}": failure(impl.lsh_attention, qk, qk, rotation, chunk)[0] for chunk in (4, 5, 7, 12)}


@check(
    points=1,
    after=one_softmax_spans_all_rounds,
    compare=close(rtol=1e-2, atol=1e-2),  # float32 has no more beside -1e5, to which some set the score with oneself
    sizes=FEW | {"H": (2,)},
    qk=tokens("B H C*T D"),
    v=normal("B H C*T V"),
    rotations=normal("2 D R"),
    chunk=size("T"),
)
def inputs_are_left_alone(impl, qk, v, rotations, chunk):
    """Arguments are the same after the call as before it, and float32 in gives float32 out."""
    qk = apart(qk, rotations)
    return {
        "afterwards": dict(zip(("qk", "v", "rotations"), inputs_after(impl.lsh_attention, qk, v, rotations, chunk), strict=False)),
        "from float32": impl.lsh_attention(qk.float(), v.float(), rotations.float(), chunk),
    }


# The reversible block.


def block_of(ReversibleBlock, M, seed, noise=0.0, same=False, special=False, share=False, frozen=False):
    """A block of two small networks that are wider inside; `special` ones have parameters that are frozen or unused.

    Noise is drawn in training, not in evaluation; `frozen` freezes a parameter when the block has been made.
    """

    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            for name, shape in (("up", (M, 8 * M)), ("down", (8 * M, M))):
                drawn = torch.randn(shape, generator=generator, dtype=torch.float64) / shape[0] ** 0.5
                setattr(self, name, nn.Parameter(drawn))
            if special:
                self.unused = nn.Parameter(torch.ones(M, dtype=torch.float64))
                self.up.requires_grad_(False)
            self.drawn, self.replayed = [], None

        def forward(self, x):
            if noise and self.training:
                if self.replayed is None:
                    self.drawn.append(torch.rand_like(x))
                x = x * (1 + noise * (self.drawn[-1] if self.replayed is None else self.replayed))
            return torch.tanh(x @ self.up) @ self.down

    generator = torch.Generator().manual_seed(seed)
    f, g = Network(), Network()
    if share:
        g.up = f.up
    block = ReversibleBlock(f, f if same else g)
    if frozen:
        g.up.requires_grad_(False)
    return block


def called_on_both(block, x):
    return block(x, x)


BLOCK = {"B": (1, 2), "L": (2, 3), "M": (1, 2, 3)}
SMALL = {"B": (2,), "L": (1,), "M": (2,)}


@check(points=1, sizes=BLOCK, x1=normal("B L M"), x2=normal("B L M"), width=size("M"), seed=seed())
def streams_are_coupled_one_after_the_other(impl, x1, x2, width, seed):
    """forward is y1 = x1 + f(x2), then y2 = x2 + g(y1), whatever the axes before the last; its parameters are those of f and of g."""
    block = beside(impl, block_of)(impl.ReversibleBlock, width, seed)
    y1, y2 = block(x1, x2)
    return {
        "y1": y1,
        "y2": y2,
        "one axis": block(x1[0, 0], x2[0, 0]),
        "one tensor as both": beside(impl, called_on_both)(block, x1),
        "parameters": parameters(block),
    }


@check(
    points=1,
    after=streams_are_coupled_one_after_the_other,
    sizes=BLOCK,
    y1=normal("B L M"),
    y2=normal("B L M"),
    width=size("M"),
    seed=seed(),
)
def inverse_finds_the_inputs(impl, y1, y2, width, seed):
    """inverse gives the x1 and x2 of which forward makes y1 and y2."""
    x1, x2 = beside(impl, block_of)(impl.ReversibleBlock, width, seed).inverse(y1, y2)
    return {"x1": x1, "x2": x2}


def learnt(block, x1, x2, weights, calls=1, before=0.0, needed=("x1", "x2"), added=False):
    """Gradients after backward() of a sum of the outputs with these weights; the block is called on its own outputs again."""
    leaves = {name: x.clone().requires_grad_(name in needed) for name, x in (("x1", x1), ("x2", x2))}
    named = dict(block.named_parameters())
    if before:
        for param in named.values():
            param.grad = torch.full_like(param, before)
    y1, y2 = leaves.values()
    for _ in range(calls):
        y1, y2 = block(y1, y2)
    if added:
        y1, y2 = y1 + y2, y1
    sum((w * y).sum() for w, y in zip(weights, (y1, y2), strict=True) if w is not None).backward()
    wanted = named | {name: leaves[name] for name in needed}
    return {name: torch.zeros_like(leaf) if leaf.grad is None else leaf.grad for name, leaf in wanted.items()}


@check(
    points=2,
    after=streams_are_coupled_one_after_the_other,
    sizes=BLOCK,
    x=normal("2 B L M"),
    weights=normal("2 B L M"),
    width=size("M"),
    seed=seed(),
)
def gradients_are_those_of_the_two_lines(impl, x, weights, width, seed):
    """backward() gives x1, x2 and the parameters of f and g the gradients that plain autograd would. (x holds x1 and x2.)"""
    block = beside(impl, block_of)(impl.ReversibleBlock, width, seed)
    return beside(impl, learnt)(block, x[0], x[1], list(weights))


def numbers_kept(blocks, x):
    """How many numbers live on after the blocks have run, outputs included, for each number in the outputs of the last."""
    from torch.multiprocessing.reductions import StorageWeakRef
    from torch.utils._python_dispatch import TorchDispatchMode

    class Watch(TorchDispatchMode):
        @classmethod
        def _should_skip_dynamo(cls):
            return False  # True imports PyTorch's compiler

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            for tensor in out if isinstance(out, (tuple, list)) else [out]:
                if isinstance(tensor, torch.Tensor) and tensor.dtype != torch.uint8:  # which states of generators are
                    storage = tensor.untyped_storage()
                    made[StorageWeakRef(storage)] = storage.nbytes() // 8
            return out

    made = {}
    leaf = x.clone().requires_grad_()
    with Watch():
        y1, y2 = leaf + 1, leaf + 2  # their graph keeps nothing
        for block in blocks:
            y1, y2 = block(y1, y2)
    kept = sum(numbers for storage, numbers in made.items() if not storage.expired())
    return round(kept / (y1.numel() + y2.numel()), 2)


@check(
    points=2,
    after=gradients_are_those_of_the_two_lines,
    wanted={"one block": 1.0, "three blocks, one after the other": 3.0},
    compare=at_most(1.1),
    width=choice(4),
    seed=seed(),
)
def only_outputs_are_kept(impl, width, seed):
    """From forward to backward a block keeps no tensor but its two outputs: counted are all numbers kept, for each number in y1 and y2."""
    blocks = [beside(impl, block_of)(impl.ReversibleBlock, width, seed + i) for i in range(3)]
    x = torch.linspace(-1, 1, 6 * width, dtype=torch.float64).view(6, width)
    kept = beside(impl, numbers_kept)
    return {"one block": kept(blocks[:1], x), "three blocks, one after the other": kept(blocks, x)}


@check(
    points=1,
    after=gradients_are_those_of_the_two_lines,
    sizes=SMALL,
    x=normal("2 B L M"),
    weights=normal("2 B L M"),
    width=size("M"),
    seed=seed(),
)
def gradients_are_added(impl, x, weights, width, seed):
    """Gradients are added: to those that are there, over several calls of one block, and over f and g where these share parameters."""
    make, learn = beside(impl, block_of), beside(impl, learnt)
    return {
        "gradients of 1 before": learn(make(impl.ReversibleBlock, width, seed), x[0], x[1], list(weights), before=1.0),
        "called twice in a row": learn(make(impl.ReversibleBlock, width, seed), x[0], x[1], list(weights), calls=2),
        "f is g": learn(make(impl.ReversibleBlock, width, seed, same=True), x[0], x[1], list(weights)),
        "f and g share one of two": learn(make(impl.ReversibleBlock, width, seed, share=True), x[0], x[1], list(weights)),
    }


@check(
    points=1,
    after=gradients_are_those_of_the_two_lines,
    sizes=SMALL,
    x=normal("2 B L M"),
    weights=normal("2 B L M"),
    width=size("M"),
    seed=seed(),
)
def gradients_come_in_every_case(impl, x, weights, width, seed):
    """Gradients come if x1 or x2 need none, if parameters are frozen, unused or none, if one of y1 and y2 is used, or their sum.

    In evaluation too, where f and g draw no random numbers, in the backward pass neither.
    """
    make, learn = beside(impl, block_of), beside(impl, learnt)
    identity, tanh = built_in(impl, "Identity"), built_in(impl, "Tanh")
    evaluated = make(impl.ReversibleBlock, width, seed, noise=4.0)
    evaluated.eval()
    return {
        "in evaluation": learn(evaluated, x[0], x[1], list(weights)),
        "inputs that need no gradient": learn(make(impl.ReversibleBlock, width, seed), x[0], x[1], list(weights), needed=[]),
        "x1 that needs no gradient": learn(make(impl.ReversibleBlock, width, seed), x[0], x[1], list(weights), needed=["x2"]),
        "x2 that needs no gradient": learn(make(impl.ReversibleBlock, width, seed), x[0], x[1], list(weights), needed=["x1"]),
        "no parameters, f Identity, g Tanh": learn(impl.ReversibleBlock(identity, tanh), x[0], x[1], list(weights)),
        "no parameters, f Tanh, g Identity": learn(impl.ReversibleBlock(tanh, identity), x[0], x[1], list(weights)),
        "y1 + y2 is used": learn(make(impl.ReversibleBlock, width, seed), x[0], x[1], [weights[0], None], added=True),
        "a parameter frozen later": learn(make(impl.ReversibleBlock, width, seed, frozen=True), x[0], x[1], list(weights)),
        "frozen and unused parameters": learn(make(impl.ReversibleBlock, width, seed, special=True), x[0], x[1], list(weights)),
        "only y1 is used": learn(make(impl.ReversibleBlock, width, seed), x[0], x[1], [weights[0], None]),
        "only y2 is used": learn(make(impl.ReversibleBlock, width, seed), x[0], x[1], [None, weights[1]]),
    }


def drawn_again(block, x1, x2):
    """A block that draws random numbers, beside the two lines with the numbers of its forward pass.

    It is called once more before the backward pass, with other numbers.
    """

    def learn(run):
        leaves = [x1.clone().requires_grad_(), x2.clone().requires_grad_(), *block.parameters()]
        for param in block.parameters():
            param.grad = None
        outs = run(*leaves[:2])
        run(*leaves[:2])
        before = torch.get_rng_state()
        left.append(before)
        (outs[0].sin().sum() + outs[1].cos().sum()).backward()
        alone.append(bool((torch.get_rng_state() == before).all()))
        return list(outs), [leaf.grad for leaf in leaves]

    def plainly(x1, x2):
        y1 = x1 + f(x2)
        return y1, x2 + g(y1)

    f, g, alone, left, start = block.f, block.g, [], [], torch.get_rng_state()
    (outs, grads), first = learn(block), (f.drawn[0], g.drawn[0])
    f.replayed, g.replayed = first
    wanted_outs, wanted_grads = learn(plainly)
    f.replayed = g.replayed = None
    f.drawn.clear()
    block(x1, x2)
    torch.set_rng_state(start)
    for _ in range(4):
        torch.rand_like(x1)

    def off(found, wanted):
        return max(round(float((a - b).detach().abs().max()), 4) for a, b in zip(found, wanted, strict=True))

    return {
        "outputs are off by": off(outs, wanted_outs),
        "gradients are off by": off(grads, wanted_grads),
        "forward leaves the generator as f and g do": bool((torch.get_rng_state() == left[0]).all()),
        "backward leaves the generator alone": alone[0],
        "the next call draws other numbers": bool((f.drawn[0] != first[0]).any()),
    }


@check(
    points=1,
    after=gradients_are_those_of_the_two_lines,
    wanted={
        "outputs are off by": 0.0,
        "gradients are off by": 0.0,
        "forward leaves the generator as f and g do": True,
        "backward leaves the generator alone": True,
        "the next call draws other numbers": True,
    },
    x=normal("2 3 2"),
    seed=seed(),
)
def backward_draws_the_same_numbers(impl, x, seed):
    """If f and g draw random numbers, the gradients are those for the numbers of this call, even if another has come after it.

    (x holds x1 and x2.)
    """
    block = beside(impl, block_of)(impl.ReversibleBlock, 2, seed, noise=4.0)
    return beside(impl, drawn_again)(block, x[0], x[1])
