"""What a right GPT does."""

import torch
from torch import nn

from kata.grading import beside, built_in, check, failure, indices, inputs_after, parameters, seed, size, with_weights

# The parameters.


@check(points=1, sizes={"N": (2,)}, N=size("N"))
def parameters_have_their_names_and_shapes(impl, N):
    """The parameters are those that the docstring lists, by name and shape, and no others: a published GPT-2 could be loaded."""
    return parameters(impl.GPT(7, 5, 6, N, 2))


def is_tied(model):
    head, embedding = model.lm_head.weight, model.token_embedding.weight
    if head is embedding:
        return "one Parameter"
    return "two Parameters over the same numbers" if head.data_ptr() == embedding.data_ptr() else "two Parameters"


@check(points=1, after=parameters_have_their_names_and_shapes, sizes={"V": (7,)}, V=size("V"))
def head_is_the_token_embedding(impl, V):
    """lm_head.weight and token_embedding.weight are one Parameter: trained, counted and saved once."""
    return {"lm_head.weight and token_embedding.weight": beside(impl, is_tied)(impl.GPT(V, 5, 6, 1, 2))}


def statistics(model):
    """For each parameter: mean, standard deviation, and kurtosis, which is 3 for normal numbers."""
    found = {}
    for name, weight in model.named_parameters(remove_duplicate=False):
        w = weight.detach().double()
        z = (w - w.mean()) / w.std().clamp(min=1e-12)
        found[name] = [w.mean().item(), w.std().item(), z.pow(4).mean().item()]
    return found


def drawn(found, std):
    """In words, whether all of these are drawn from N(0, std²); if not, how the first differs."""
    for name, (mean, spread, kurtosis) in found.items():
        if abs(mean) > 0.15 * std:
            return f"mean {mean:.4f} in {name}"
        if not 0.87 < spread / std < 1.13:
            return f"standard deviation {spread:.4f} in {name}"
        if abs(kurtosis - 3) > 0.7:
            return f"no normal distribution in {name}"
    return f"mean 0, standard deviation {std:.4f}"


def filled(found, number):
    """In words, whether all of these are filled with a number."""
    for name, (mean, spread, _) in found.items():
        if abs(mean - number) + spread > 1e-6:
            return f"mean {mean:.4f}, standard deviation {spread:.4f} in {name}"
    return f"{number} throughout"


@check(points=2, after=parameters_have_their_names_and_shapes, sizes={"N": (3,)}, N=size("N"))
def weights_begin_as_in_gpt2(impl, N):
    """A new model has matrices and tables from N(0, 0.02²), out_proj and down from N(0, 0.02² / 2N), biases 0, and norms' weights 1."""
    found = beside(impl, statistics)(impl.GPT(48, 40, 32, N, 4))

    def among(*ends):
        return {name: found[name] for name in found if name.endswith(ends)}

    to_residual = among("out_proj.weight", "down.weight")
    norms = among("norm1.weight", "norm2.weight", "final_norm.weight")
    others = {name: found[name] for name in among("weight") if name not in to_residual | norms}
    return {
        "matrices and tables": drawn(others, 0.02),
        "out_proj and down": drawn(to_residual, 0.02 / (2 * N) ** 0.5),
        "biases": filled(among("bias"), 0),
        "weights of the norms": filled(norms, 1),
    }


class Toy(nn.Module):
    """Nine numbers that are learnt, one of them in two places, one frozen; three that are not."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(3, 1)
        self.again = self.first
        self.scale = nn.Parameter(torch.ones(4))
        self.frozen = nn.Parameter(torch.ones(1), requires_grad=False)
        self.register_buffer("table", torch.ones(3))


@check(points=1, sizes={"V": (7,)}, V=size("V"))
def parameters_are_counted_once(impl, V):
    """num_parameters counts the elements of all parameters, each once though it is used twice, frozen ones too, buffers not."""
    modules = {
        "nn.Linear(3, 4)": built_in(impl, "Linear", 3, 4),
        "a module with a shared layer, a frozen parameter and a buffer": beside(impl, Toy)(),
        "a GPT": impl.GPT(V, 5, 6, 1, 2),
    }
    return {name: impl.num_parameters(module) for name, module in modules.items()}


# The logits.


def with_tables(model, tokens, positions):
    with torch.no_grad():
        model.token_embedding.weight.copy_(tokens)  # last, under whichever of its two names it was filled before
        model.position_embedding.weight.copy_(positions)
    return model


def filled_at_random(impl, model, V, max_len, M, seed, scale=1.0, **options):
    """The model in float64 with weights from the seed; `scale` is that of its embeddings."""
    generator = torch.Generator().manual_seed(seed)
    tables = [scale * torch.randn(rows, M, generator=generator, dtype=torch.float64) for rows in (V, max_len)]
    return beside(impl, with_tables)(with_weights(model, seed, **options), *tables)


def built(impl, seed, V=7, max_len=6, M=6, N=1, H=2, dropout=(), **options):
    return filled_at_random(impl, impl.GPT(V, max_len, M, N, H, *dropout), V, max_len, M, seed, **options)


def changed(one, other):
    """For each position whether its logits differ by more than rounding does; NaN always does."""
    return ~((one - other).abs().amax(-1) <= 1e-6 * (1 + other.abs().max()))


@check(points=2, after=parameters_have_their_names_and_shapes, sizes={"L": (4,)}, ids=indices("L", below=7), seed=seed())
def future_is_not_seen(impl, ids, seed):
    """Another token at one position changes the logits at this position and at all after it, and at none before it."""
    rows = ids.repeat(len(ids) + 1, 1)
    rows[1:] += torch.eye(len(ids), dtype=torch.int64)  # row i + 1 has another token at position i
    logits = built(impl, seed)(rows % 7)
    differ = changed(logits[1:], logits[:1])
    late = torch.ones_like(differ).triu()
    steep = built(impl, seed, times={f"blocks.0.attn.{name}_proj.weight": 1e3 for name in "qk"})(rows % 7)
    return {
        "before it": "changed" if bool(differ[~late].any()) else "unchanged",
        "from it on": "changed" if bool(differ[late].all()) else "unchanged in places",
        "before it, with scores in the millions": "changed" if bool(changed(steep[1:], steep[:1])[~late].any()) else "unchanged",
    }


@check(
    points=1,
    after=parameters_have_their_names_and_shapes,
    sizes={"B": (3,), "L": (4,), "V": (7,), "N": (2,)},
    ids=indices("B L", below="V"),
    V=size("V"),
    N=size("N"),
    seed=seed(),
)
def blocks_add_to_a_free_residual_stream(impl, ids, V, N, seed):
    """Where attention and feed-forward add nothing, the logits are lm_head of final_norm, eps 1e-5, of token plus position embeddings."""
    model = impl.GPT(V, 6, 6, N, 2)
    nothing = {"out_proj": 0.0, "ff.down": 0.0}
    scales = {"with embeddings around 1": 1.0, "with embeddings around 0.003, logits times 333": 3e-3}
    return {name: filled_at_random(impl, model, V, 6, 6, seed, scale, constant=nothing)(ids) / scale for name, scale in scales.items()}


@check(
    points=2,
    after=blocks_add_to_a_free_residual_stream,
    sizes={"B": (3,), "L": (5,), "H": (1, 3)},
    ids=indices("B L", below=7),
    H=size("H"),
    seed=seed(),
)
def each_sublayer_is_right_alone(impl, ids, H, seed):
    """Where only one of the two adds something, it is causal attention of H heads over norm1(x), or down(gelu(up(norm2(x)))), tanh-GELU."""
    M, small = 4 * H, 3e-3  # embeddings so small that an eps is seen
    model = impl.GPT(7, 6, M, 1, H)
    alone = {"attention alone": {"ff.down": 0.0}, "feed-forward alone": {"out_proj": 0.0}}
    return {name: filled_at_random(impl, model, 7, 6, M, seed, small, constant=nothing)(ids) / small for name, nothing in alone.items()}


@check(
    points=2,
    after=(future_is_not_seen, each_sublayer_is_right_alone),
    sizes={"B": (1, 3), "L": (2, 5), "V": (7, 11), "H": (1, 3), "D": (4, 3), "N": (1, 2)},
    ids=indices("B L", below="V"),
    V=size("V"),
    H=size("H"),
    D=size("D"),
    N=size("N"),
    seed=seed(),
)
def logits_are_those_of_gpt2(impl, ids, V, H, D, N, seed):
    """With the same weights the logits are those of GPT-2, for any number of blocks."""
    return built(impl, seed, V, ids.shape[1] + 1, H * D, N, H)(ids)


@check(points=1, after=parameters_have_their_names_and_shapes, sizes={"N": (5,)}, max_len=size("N"), seed=seed())
def more_than_max_len_tokens_are_refused(impl, max_len, seed):
    """max_len tokens work; with one more forward raises ValueError."""
    model = built(impl, seed, max_len=max_len)
    most, more = (torch.ones(2, length, dtype=torch.int64) for length in (max_len, max_len + 1))
    seen = {f"shape for {max_len} tokens": list(model(most).shape), f"for {max_len + 1} tokens": failure(model, more)[0]}
    model.eval()
    return seen | {f"for {max_len + 1} tokens in evaluation": failure(model, more)[0]}


# The loss.


def loss_and_gradients(model, ids, targets):
    logits, loss = model(ids, targets)
    loss.backward()
    named = dict(model.named_parameters(remove_duplicate=False))
    model.eval()
    return {
        "logits": logits,
        "loss": loss.double(),  # who computes it in float32 is right too
        "loss in evaluation mode": model(ids, targets)[1].double(),
        "gradients": {name: torch.zeros_like(p) if p.grad is None else p.grad for name, p in named.items()},
    }


@check(
    points=2,
    after=logits_are_those_of_gpt2,
    sizes={"B": (2,), "L": (1, 4), "V": (5,)},
    ids=indices("B L", below="V"),
    targets=indices("B L", below="V"),
    V=size("V"),
    seed=seed(),
)
def loss_is_the_mean_cross_entropy(impl, ids, targets, V, seed):
    """With targets come the logits and the cross-entropy, a mean over the targets that are not -100; all weights get their gradients."""
    targets[0, -1], targets[1, 0], ids[1, 0] = -100, 0, 0  # 0 is a token like any other
    return beside(impl, loss_and_gradients)(built(impl, seed, V, max_len=ids.shape[1], N=2), ids, targets)


LEVEL, SHADE = 3e-3, 1e-5  # of the stream: so small that the last norm's eps shows its size; and what lets the head show the stream
GELU_OF_1 = 0.8411919906
SOURCES = {  # of all numbers of the stream: weights, or else both tables
    "the embeddings": {},
    "attention": {"out_proj.bias": LEVEL},
    "the feed-forward network": {"up.bias": 1.0, "down.weight": LEVEL / (4 * 24 * GELU_OF_1)},
}


def dropped(impl, model, ids, source):
    """In words, what is dropped where all numbers of the stream come from one source and are equal, and what becomes of the others."""
    with_weights(model, 0, constant={**source, "final_norm.weight": 1.0, "": 0.0})
    level = 0.0 if source else LEVEL / 2
    tables = SHADE * torch.eye(24, dtype=torch.float64) + level, torch.full((4, 24), level, dtype=torch.float64)
    normed = beside(impl, with_tables)(model, *tables)(ids).double() / SHADE
    kept = normed > -0.02
    share, rest = float((~kept).double().mean()), kept.double().mean(-1)
    if abs(share - 0.25) > 0.08:
        return f"a share of {share:.2f}"
    if bool((kept == kept[:1]).all()) or bool((kept == kept[:, :1]).all()):
        return "a quarter, but the same numbers in all rows or at all positions"
    high, low = ((normed * part).sum(-1) / part.sum(-1).clamp(min=1) for part in (kept, ~kept))
    gaps = high - low  # v / sqrt(rest · (1 - rest) · v² + eps), for numbers that are 0 or v
    factors = (gaps / LEVEL * (1e-5 / (1 - gaps**2 * rest * (1 - rest)).clamp(min=1e-9)).sqrt())[rest < 1]
    if float(factors.max() - factors.min()) > 0.1:
        return f"a quarter, and the others times {float(factors.min()):.2f} to {float(factors.max()):.2f}"
    return f"a quarter, and the others times {float(factors.mean()):.2f}"


@check(points=2, after=logits_are_those_of_gpt2, sizes={"L": (4,)}, ids=indices("8 L", below=7), seed=seed())
def dropout_is_for_training_only(impl, ids, seed):
    """Dropout acts in training only, on the sum of the embeddings and on what each sublayer adds; without the argument there is none.

    What is kept is divided by 1 - dropout.
    """
    plain, half = built(impl, seed), built(impl, seed, dropout=(0.5,))
    half.eval()
    wanted = plain(ids)
    evaluated = changed(half(ids), wanted) | changed(half(ids), wanted)
    half.train()
    quarter = impl.GPT(24, 4, 24, 1, 2, dropout=0.25)

    def word(different):
        return "others" if bool(different.any()) else "the same"

    return {
        "logits in evaluation": word(evaluated),
        "logits in training, from call to call": word(changed(half(ids), half(ids))),
        "logits in training, without the argument": word(changed(plain(ids), wanted)),
        **{f"dropped of {name} with dropout 0.25": dropped(impl, quarter, ids, source) for name, source in SOURCES.items()},
    }


# Generating.


def writer(impl, seed, max_len, V=13, **options):
    """A model that does not write the same token all the time."""
    return built(impl, seed, V=V, max_len=max_len, M=12, H=3, scale=0.3, constant={"bias": 0.0}, **options)


@check(
    points=1,
    after=logits_are_those_of_gpt2,
    sizes={"B": (4,), "L": (3, 1), "N": (6,)},
    ids=indices("B L", below=5),
    n=size("N"),
    seed=seed(),
)
def likeliest_tokens_are_added(impl, ids, n, seed):
    """generate returns each row and behind it max_new tokens, one after the other the likeliest; max_new may be 0. ids stay the same."""
    model = writer(impl, seed, max_len=9, V=5)  # so few that each token is written by some row
    return {
        "max_new = 0": impl.generate(model, ids, 0),
        f"max_new = {n}": impl.generate(model, ids, n),
        "a single row": impl.generate(model, ids[:1], n),
        "ids afterwards": inputs_after(impl.generate, model, ids, n)[1],
    }


@check(points=1, after=likeliest_tokens_are_added, sizes={"L": (3, 6)}, ids=indices("4 L", below=13), seed=seed())
def window_is_the_last_max_len_tokens(impl, ids, seed):
    """A row that is, or grows, longer than max_len is read through its last max_len tokens, and comes back whole."""
    return impl.generate(writer(impl, seed, max_len=4), ids, 4)


def generated(generate, model, ids):
    """What comes of generating, and how it leaves things behind."""
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: saved.append(0) or tensor, lambda tensor: tensor):
        out = generate(model, ids, 3)
    recording = torch.is_grad_enabled() and all(parameter.requires_grad for parameter in model.parameters())
    torch.set_grad_enabled(True)
    return {
        "tokens": out,
        "mode afterwards": " and ".join(sorted({"training" if module.training else "evaluation" for module in model.modules()})),
        "tensors kept for a backward pass": "some" if saved else "none",
        "gradients afterwards": "can be had" if recording else "are switched off",
    }


@check(points=2, after=likeliest_tokens_are_added, sizes={"L": (3,)}, ids=indices("4 L", below=13), seed=seed())
def generating_leaves_no_trace(impl, ids, seed):
    """generate writes in evaluation mode, without dropout, and builds no graph; afterwards the model is in the mode in which it came."""
    model = writer(impl, seed, max_len=8, dropout=(0.5,))
    generate = beside(impl, generated)
    model.train()
    first = generate(impl.generate, model, ids)
    model.eval()
    return {"came in training": first, "came in evaluation": generate(impl.generate, model, ids)}
