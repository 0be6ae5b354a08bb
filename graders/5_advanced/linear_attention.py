"""What right linear attention does."""

import torch

from kata.grading import at_most, beside, check, choice, close, cost, gradients, inputs_after, normal, seed, size

FEW = {"B": (2,), "H": (1, 2), "D": (2, 3), "V": (1, 2)}  # where axes are not the subject; V stands for Dv
LONG = {"B": (1, 2), "H": (2, 1), "L": (1, 4, 270), "D": (1, 2, 3), "V": (1, 3, 2)}  # 270: more than two chunks of any size


# With elu + 1.


@check(points=1, sizes={"L": (2, 3)}, k=normal("B H L D"), v=normal("B H L V"))
def equal_queries_give_equal_results(impl, k, v):
    """With eps = 0 the weights of a query sum to 1: if all values are alike, that value comes out, whatever queries and keys are."""
    alike = v[:, :, :1].expand_as(v).contiguous()
    return {"linear_attention": impl.linear_attention(k, k, alike, 0.0), "causal": impl.causal_linear_attention(k, k, alike, 0.0)}


@check(points=2, q=normal("B H L D"), k=normal("B H S D"), v=normal("B H S V"))
def weights_are_products_of_features(impl, q, k, v):
    """Each query gives the mean of all values with weights phi(q)·phi(k), where phi = elu + 1; eps is added to the sum of weights."""
    return {"default": impl.linear_attention(q, k, v), "eps = 30": impl.linear_attention(q, k, v, eps=30.0)}


@check(points=1, sizes=FEW | {"L": (4, 5)}, q=normal("B H L D"), k=normal("B H L D"), v=normal("B H L V"), other=normal("B H L V"))
def future_is_not_seen(impl, q, k, v, other):
    """In causal_linear_attention no result changes when keys and values of later tokens do; queries matter."""
    t = q.shape[2] // 2
    later_k, later_v = (torch.cat([x[:, :, :t], y[:, :, t:]], dim=2) for x, y in ((k, q), (v, other)))
    before = impl.causal_linear_attention(q, k, v)
    asked = impl.causal_linear_attention(k.flip(2), k, v)
    return {
        f"change of the first {t}": (impl.causal_linear_attention(q, later_k, later_v) - before)[:, :, :t],
        "with other queries": "other results" if bool((asked - before)[:, :, 1:].any()) else "the same",
    }


@check(points=2, sizes=LONG, q=normal("B H L D"), k=normal("B H L D"), v=normal("B H L V"))
def causal_sums_run_to_the_token_itself(impl, q, k, v):
    """Causal, both sums, of weighted values and of weights, run over the keys up to the query's own; also for 270 tokens."""
    return {"default": impl.causal_linear_attention(q, k, v), "eps = 30": impl.causal_linear_attention(q, k, v, eps=30.0)}


# As a recurrent network.


def steps_of(state, q, k, v):
    """What a state gives for one token after the other, (B, H, L, Dv)."""
    return torch.stack([state.step(q[:, :, t], k[:, :, t], v[:, :, t]) for t in range(q.shape[2])], dim=2)


@check(
    points=2,
    sizes={"L": (1, 3, 4)},
    q=normal("B H L D"),
    k=normal("B H L D"),
    v=normal("B H L V"),
    eps=choice(1e-6, 0.5),
)
def steps_give_what_the_causal_form_gives(impl, q, k, v, eps):
    """LinearState.step, token by token, gives what causal_linear_attention gives; a new state begins with nothing."""
    B, H, _, D = q.shape
    first, second = (impl.LinearState(B, H, D, v.shape[-1], torch.float64, eps) for _ in range(2))
    plain = impl.LinearState(B, H, D, v.shape[-1], torch.float64)
    run = beside(impl, steps_of)
    return {"first state": run(first, q, k, v), "second state, other tokens": run(second, k, q, v), "default eps": run(plain, q, k, v)}


def requires_grad_after(state, q, k, v):
    """Whether a later step's result hangs on the graph of an earlier one's inputs."""
    state.step(*(x.clone().requires_grad_() for x in (q, k, v)))
    return state.step(q, k, v).requires_grad


@check(points=1, after=steps_give_what_the_causal_form_gives, sizes=FEW, q=normal("B H D"), v=normal("B H V"))
def state_keeps_no_graph(impl, q, v):
    """If a step's inputs require gradients, the results of later steps do not: else a long text would fill the memory."""
    state = impl.LinearState(*q.shape, v.shape[-1], torch.float64)
    return {"the next step's result requires gradients": beside(impl, requires_grad_after)(state, q, q, v)}


@check(
    points=1,
    after=steps_give_what_the_causal_form_gives,
    wanted={"mean": 0.8, "its dtype": torch.bfloat16, "mean, state in float64": 0.8, "mean of ones": 1.0},
    compare=close(2e-2, 2e-2),
)
def sums_have_the_states_dtype(impl):
    """Sums are kept in the state's dtype, results have v's: in bfloat16 256 + 1 is 256, and 256, eight times 1, -256 would sum to 0."""
    k = torch.zeros(1, 1, 10, 1)
    coarse, fine = (torch.tensor([large] + [1.0] * 8 + [-large]).view(1, 1, 10, 1) for large in (256.0, 1e8))
    run = beside(impl, steps_of)
    short = run(impl.LinearState(1, 1, 1, 1), k.bfloat16(), k.bfloat16(), coarse.bfloat16())[0, 0, -1, 0]
    long = run(impl.LinearState(1, 1, 1, 1, torch.float64), k, k, fine)[0, 0, -1, 0]
    far, ones = (
        torch.tensor([255.0] + [0.0] * 23).view(1, 1, 24, 1).bfloat16(),
        torch.ones(1, 1, 24, 1).bfloat16(),
    )  # weights 256, 1, 1, ...
    even = run(impl.LinearState(1, 1, 1, 1), ones, far, ones)[0, 0, -1, 0]
    return {"mean": short.item(), "its dtype": short.dtype, "mean, state in float64": long.item(), "mean of ones": even.item()}


# Random features.


def features_of(features, dim, number, seed):
    """The features, and whether the global generator was left alone."""
    before = torch.get_rng_state()
    made = features(dim, number, torch.Generator().manual_seed(seed))
    return made, bool((torch.get_rng_state() == before).all())


def two_of(features, dim, number, seed):
    """Features, and others after them from the same generator."""
    generator = torch.Generator().manual_seed(seed)
    return [features(dim, number, generator) for _ in range(2)]


@check(points=1, sizes={"D": (2, 5, 1), "R": (7, 2, 10)}, D=size("D"), R=size("R"), seed=seed())
def features_are_orthogonal_in_blocks(impl, D, R, seed):
    """orthogonal_features gives (R, D): each D rows, and the rows that are left over, are orthogonal to each other."""
    w, _ = beside(impl, features_of)(impl.orthogonal_features, D, R, seed)
    unit = w.double() / w.double().norm(dim=-1, keepdim=True)
    cosines = [block @ block.mT for block in unit.split(D)]
    return {"shape": list(w.shape), "dtype": w.dtype, "cosines between the rows of each block": cosines}


@check(
    points=2,
    after=features_are_orthogonal_in_blocks,
    wanted={
        "mean of squared norms between 3.65 and 4.35": True,
        "squared norms above 9.5, between 50 and 155": True,
        "with D = 1, both signs": True,
        "variance of squared norms": 8.0,
        "variance of their means over blocks of 4": 2.0,
        "mean of first rows": torch.zeros(4, dtype=torch.float64),
        "mean of last rows": torch.zeros(4, dtype=torch.float64),
        "mean outer product of first rows, unit, times 4": torch.eye(4, dtype=torch.float64),
        "mean outer product of last rows, unit, times 4": torch.eye(4, dtype=torch.float64),
        "few rows of 64 blocks lie along another": True,
        "mean of fourth powers in first rows, unit, between 0.115 and 0.135": True,
        "squared norms of rows left over, mean between 22 and 42": True,
        "squared norms of rows left over, all alike": False,
    },
    compare=close(rtol=0.4, atol=0.23),  # five standard errors and more
    seed=seed(),
)
def features_are_distributed_as_gaussian_vectors(impl, seed):
    """A row is distributed as D standard normals, w as likely as -w, its norm as theirs; each block is turned anew."""
    w, _ = beside(impl, features_of)(impl.orthogonal_features, 4, 2048, seed)
    narrow, _ = beside(impl, features_of)(impl.orthogonal_features, 1, 64, seed)
    wide, _ = beside(impl, features_of)(impl.orthogonal_features, 32, 63, seed)
    rest = wide.double()[32:].square().sum(-1)
    squares, unit = w.double().square().sum(-1), w.double() / w.double().norm(dim=-1, keepdim=True)
    return {
        "mean of squared norms between 3.65 and 4.35": 3.65 < squares.mean().item() < 4.35,
        "squared norms above 9.5, between 50 and 155": 50 < int((squares > 9.5).sum()) < 155,
        "with D = 1, both signs": 10 < int((narrow > 0).sum()) < 54,
        "variance of squared norms": squares.var().item(),
        "variance of their means over blocks of 4": squares.view(-1, 4).mean(-1).var().item(),
        "mean of first rows": w.double()[::4].mean(0),
        "mean of last rows": w.double()[3::4].mean(0),
        "mean outer product of first rows, unit, times 4": unit[::4].mT @ unit[::4] / 128,
        "mean outer product of last rows, unit, times 4": unit[3::4].mT @ unit[3::4] / 128,
        "few rows of 64 blocks lie along another": int(((unit[:256] @ unit[:256].mT).abs() > 0.999).sum()) < 256 + 40,
        "mean of fourth powers in first rows, unit, between 0.115 and 0.135": 0.115 < unit[::4].pow(4).mean().item() < 0.135,
        "squared norms of rows left over, mean between 22 and 42": 22 < rest.mean().item() < 42,
        "squared norms of rows left over, all alike": bool(rest.std() < 2),
    }


@check(
    points=1,
    after=features_are_orthogonal_in_blocks,
    wanted={
        "same seed, same features": True,
        "another seed, other directions": True,
        "another seed, other norms": True,
        "same generator again, others": True,
        "global generator left alone": True,
    },
    seed=seed(),
)
def features_come_from_their_generator(impl, seed):
    """All randomness of orthogonal_features comes from the generator that is passed: the same seed gives the same, and only that."""
    runs = [beside(impl, features_of)(impl.orthogonal_features, 3, 5, each) for each in (seed, seed, seed + 1)]
    (first, _), (again, _), (other, _) = runs
    one, two = beside(impl, two_of)(impl.orthogonal_features, 3, 5, seed)
    unit = torch.nn.functional.normalize
    return {
        "same seed, same features": bool((first == again).all()),
        "another seed, other directions": not bool((unit(first) - unit(other)).abs().max() < 1e-3),
        "another seed, other norms": not bool((first.norm(dim=-1) - other.norm(dim=-1)).abs().max() < 1e-3),
        "same generator again, others": bool((one != two).all() and (one.norm(dim=-1) - two.norm(dim=-1)).abs().max() > 1e-3),
        "global generator left alone": all(alone for _, alone in runs),
    }


# The Performer.


@check(
    points=2,
    q=normal("B H L D"),
    k=normal("B H S D"),
    v=normal("B H S V"),
    projection=normal("R D"),
)
def performer_uses_positive_features(impl, q, k, v, projection):
    """Weights are phi(q)·phi(k), phi_r(x) = exp(w_r·x' - |x'|²/2) / √R for x' = x / D^(1/4); the result is divided by their sum."""
    return impl.performer_attention(q, k, v, projection)


@check(
    points=1,
    after=(performer_uses_positive_features, causal_sums_run_to_the_token_itself),
    sizes=LONG | {"R": (3, 2)},
    q=normal("B H L D"),
    k=normal("B H L D"),
    v=normal("B H L V"),
    projection=normal("R D"),
)
def performer_can_be_causal(impl, q, k, v, projection):
    """With causal=True both sums of performer_attention run over the keys up to the query's own; also for 270 tokens."""
    return impl.performer_attention(q, k, v, projection, causal=True)


@check(
    points=1,
    after=performer_uses_positive_features,
    compare=close(rtol=1e-3, atol=1e-3),  # what float32 may round where exponents are -1000
    sizes={"B": (1, 2), "H": (1, 2), "L": (1, 3), "S": (1, 4), "D": (4, 5), "V": (2,), "R": (3, 5)},
    q=normal("B H L D", scale=40.0),
    k=normal("B H S D", scale=40.0),
    v=normal("B H S V"),
    projection=normal("R D", scale=0.2),
)
def tiny_features_do_not_spoil_the_quotient(impl, q, k, v, projection):
    """Where |x|² is several thousand, all features of a token underflow; scaled by factors that cancel they give the right quotient."""
    k = torch.cat([k[:1] / 10, k[1:]])  # features of one sequence are far larger than those of another
    k = torch.cat([k[:, :1], k[:, 1:] * 2], dim=1)  # and those of one head than those of another
    return impl.performer_attention(q, k, v, projection)


@check(
    points=1,
    after=(performer_can_be_causal, tiny_features_do_not_spoil_the_quotient),
    compare=close(rtol=1e-3, atol=1e-3),  # what float32 may round where exponents are -1000
    sizes={"B": (1, 2), "H": (1, 2), "L": (1, 3, 5), "D": (4, 5), "V": (2,), "R": (3, 5)},
    q=normal("B H L D", scale=40.0),
    k=normal("B H L D", scale=0.03, mean=30.0),
    v=normal("B H L V"),
    projection=normal("R D", scale=0.1),
)
def causal_features_may_be_tiny_too(impl, q, k, v, projection):
    """With causal too, where exponents of all keys are about -1000 and no two further apart than 50, the quotients are right."""
    return impl.performer_attention(q, k, v, projection, causal=True)


@check(
    points=1,
    after=(features_are_orthogonal_in_blocks, performer_uses_positive_features),
    wanted={"error below 0.08 with 1024 features": True, "with 8 features a quarter more at least": True},
    q=normal("4 2 8 4", scale=0.5, dtype=torch.float32),
    k=normal("4 2 8 4", scale=0.5, dtype=torch.float32),
    v=normal("4 2 8 4", dtype=torch.float32),
    seed=seed(),
)
def error_falls_with_the_number_of_features(impl, q, k, v, seed):
    """With many orthogonal features performer_attention comes near to softmax attention, with few it does not."""
    softmax = (q @ k.mT / 2).softmax(-1) @ v

    def error(number):
        w, _ = beside(impl, features_of)(impl.orthogonal_features, 4, number, seed)
        return (impl.performer_attention(q, k, v, w) - softmax).square().mean().sqrt().item()

    many, few = error(1024), error(8)
    return {"error below 0.08 with 1024 features": many < 0.08, "with 8 features a quarter more at least": few > 1.25 * many}


# Gradients, manners, costs.


@check(
    points=1,
    after=(weights_are_products_of_features, causal_sums_run_to_the_token_itself),
    sizes={"B": (2,), "H": (1, 2), "L": (3, 150), "D": (2, 3), "V": (2,)},
    q=normal("B H L D", mean=0.005),  # never 0, where relu has a corner and phi has none
    k=normal("B H L D", mean=0.005),
    v=normal("B H L V"),
    far=normal("B H L D", scale=1000.0, mean=0.005),
    seed=seed(),
)
def gradients_are_right(impl, q, k, v, far, seed):
    """Gradients of linear_attention and causal_linear_attention are right, also where inputs are 1000 and more."""
    return {
        "linear_attention": gradients(impl.linear_attention, q, k, v, seed=seed)["inputs"],
        "linear_attention, large keys": gradients(impl.linear_attention, q, far, v, seed=seed)["inputs"],
        "linear_attention, large queries": gradients(impl.linear_attention, far, k, v, seed=seed)["inputs"],
        "causal_linear_attention": gradients(impl.causal_linear_attention, q, k, v, seed=seed)["inputs"],
        "causal_linear_attention, both large": gradients(impl.causal_linear_attention, far, far, v, seed=seed)["inputs"],
    }


@check(
    points=1,
    after=(performer_uses_positive_features, performer_can_be_causal),
    sizes={"B": (2,), "H": (1, 2), "L": (3,), "D": (2, 3), "V": (2,), "R": (3,)},
    q=normal("B H L D"),
    k=normal("B H L D"),
    v=normal("B H L V"),
    projection=normal("R D"),
    seed=seed(),
)
def performers_gradients_are_right(impl, q, k, v, projection, seed):
    """Gradients of performer_attention with respect to q, k and v are right, causal or not."""
    return {
        name: gradients(impl.performer_attention, q, k, v, projection, causal, seed=seed)["inputs"][:3]
        for name, causal in (("all keys", False), ("causal", True))
    }


@check(
    points=1,
    after=(causal_sums_run_to_the_token_itself, performer_uses_positive_features),
    sizes=FEW | {"L": (3,)},
    q=normal("B H L D"),
    k=normal("B H L D"),
    v=normal("B H L V"),
)
def inputs_are_left_alone(impl, q, k, v):
    """Arguments are the same after the call as before it, and float32 in gives float32 out, bfloat16 bfloat16."""
    functions = {
        "linear_attention": (impl.linear_attention, (q, k, v)),
        "causal_linear_attention": (impl.causal_linear_attention, (q, k, v)),
        "performer_attention": (impl.performer_attention, (q, k, v, torch.eye(q.shape[-1]).double())),
    }
    return {
        name: {
            "inputs afterwards": inputs_after(function, *x),
            "dtype from float32": function(*(each.float() for each in x)).dtype,
            "dtype from bfloat16": function(*(each.bfloat16() for each in x)).dtype,
        }
        for name, (function, x) in functions.items()
    }


THREEFOLD = {"operations": 3.0, "largest tensor": 3.0}  # of what stays the same, a chunk's weights for one, nothing is told


def growth(function, *options):
    """How many times as much a call costs with 384 tokens as with 128."""
    x, y = (torch.ones(1, 1, length, 4, dtype=torch.float64) for length in (128, 384))
    less, more = cost(function, x, x, x, *options), cost(function, y, y, y, *options)
    names = {"flops": "operations", "largest_tensor": "largest tensor"}
    return {said: round(more[name] / max(less[name], 1), 2) for name, said in names.items()}


@check(points=2, after=weights_are_products_of_features, wanted=THREEFOLD, compare=at_most(1.3))
def linear_attention_costs_grow_with_length(impl):
    """With 384 tokens linear_attention takes 3 times as many operations as with 128, not 9, and a largest tensor 3 times as large."""
    return growth(impl.linear_attention)


@check(points=2, after=causal_sums_run_to_the_token_itself, wanted=THREEFOLD, compare=at_most(1.3))
def causal_costs_grow_with_length(impl):
    """With 384 tokens causal_linear_attention takes 3 times as many operations as with 128, and a largest tensor 3 times as large."""
    return growth(impl.causal_linear_attention)


@check(points=1, after=performer_uses_positive_features, wanted=THREEFOLD, compare=at_most(1.3))
def performer_costs_grow_with_length(impl):
    """With 384 tokens performer_attention takes 3 times as many operations as with 128, and a largest tensor 3 times as large."""
    return growth(impl.performer_attention, torch.eye(4, dtype=torch.float64))


@check(points=1, after=performer_can_be_causal, wanted=THREEFOLD, compare=at_most(1.3))
def causal_performer_costs_grow_with_length(impl):
    """With causal=True too, 384 tokens cost performer_attention 3 times as much as 128, in operations and in the largest tensor."""
    return growth(impl.performer_attention, torch.eye(4, dtype=torch.float64), True)


@check(
    points=1,
    after=steps_give_what_the_causal_form_gives,
    wanted={"operations": 1.0, "largest tensor": 1.0},
    compare=at_most(1.3),
)
def a_step_costs_the_same_after_any_number(impl):
    """A step of LinearState costs as much after 43 tokens as after 2: it keeps sums, not tokens."""
    tokens = torch.ones(1, 1, 40, 4, dtype=torch.float64)
    few, one = tokens[:, :, :2], tokens[:, :, 0]
    state, run = impl.LinearState(1, 1, 4, 4, torch.float64), beside(impl, steps_of)
    run(state, few, few, few)
    early = cost(state.step, one, one, one)
    run(state, tokens, tokens, tokens)
    late = cost(state.step, one, one, one)
    return {
        "operations": late["flops"] / max(early["flops"], 1),
        "largest tensor": late["largest_tensor"] / max(early["largest_tensor"], 1),
    }
