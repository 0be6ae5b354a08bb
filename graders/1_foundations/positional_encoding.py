"""What right token embeddings and positions do."""

import re

import torch

from kata.grading import (
    check,
    choice,
    close,
    failure,
    gradients,
    index,
    indices,
    inputs_after,
    normal,
    parameters,
    seed,
    size,
    with_weights,
)

NEAR = close(atol=1e-4)  # of small positions, computed in float32
FAR = close(atol=1e-3)  # of positions up to 5000: in float32 the angle itself is off by half of that


def outcome(module, *args):
    """The exception that a call ends in and its text; or what it returns, when it should have raised."""
    raised, text = failure(module, *args)
    return (module(*args) if raised == "nothing was raised" else raised), text


def beyond(module, x, max_len):
    """What becomes of x when it ends one, L or more positions past the last row, and whether the message says where."""
    L = x.shape[1]
    seen = {}
    for start in (max(max_len + 1 - L, 0), max_len, max_len + 2):
        came, text = outcome(module, x, start)
        numbers = [int(number) for number in re.findall(r"\d+", text)]
        named = {"names start + L": start + L in numbers, "names max_len": max_len in numbers}
        seen[f"start {start} + L {L}, max_len {max_len}"] = {"came": came, **named}
    return seen


def many(x):
    """40 sequences of one token, whose channels repeat x, 8 numbers, 40 times. The table holds only 0 and 1 there, in turns."""
    return x.repeat(40, 1, 40)


def range_of(out):
    """The largest and the smallest that each of the 8 numbers becomes: chance decides where it is dropped, not what comes out."""
    places = out.reshape(-1, 8)
    return {"largest of 1600 copies": places.amax(0), "smallest of 1600 copies": places.amin(0)}


@check(points=2, compare=NEAR, sizes={"length": (1, 2, 7), "M": (2, 4, 6)}, length=size("length"), M=size("M"))
def table_alternates_sines_and_cosines(impl, length, M):
    """sinusoidal_positions(length, M) has sin(p / 10000^(2i / M)) at channel 2i, and the cosine of that angle at 2i + 1."""
    return impl.sinusoidal_positions(length, M).double()


@check(
    points=1,
    after=table_alternates_sines_and_cosines,
    compare=NEAR,
    sizes={"M": (4, 6)},
    M=size("M"),
    base=choice(12.5, 500.0, 1e6),
    draws=2,
)
def base_sets_the_wavelengths(impl, M, base):
    """sinusoidal_positions uses the base that it is given: the wavelengths grow from 2π towards base · 2π."""
    return impl.sinusoidal_positions(length=5, d_model=M, base=base).double()


@check(points=1, after=table_alternates_sines_and_cosines, compare=NEAR, sizes={"M": (1, 3, 7)}, M=size("M"))
def odd_sizes_end_in_a_sine(impl, M):
    """When M is odd the last channel is a sine without its cosine, and every wavelength is still that of M channels."""
    return impl.sinusoidal_positions(5, M).double()


@check(points=1, after=table_alternates_sines_and_cosines, compare=FAR, sizes={"M": (16,)}, M=size("M"))
def far_positions_are_exact(impl, M):
    """Far positions are as exact as the near ones, within 1e-3: 257 and 4999 are not rounded to some neighbour."""
    return impl.sinusoidal_positions(5000, M).double()[[0, 255, 256, 257, 1023, 2049, 4095, 4999]]


@check(points=1, sizes={"V": (7,), "M": (3,)}, V=size("V"), M=size("M"))
def embedding_has_one_weight(impl, V, M):
    """TokenEmbedding(V, M) has one parameter, `weight`, of shape (V, M)."""
    return parameters(impl.TokenEmbedding(V, M))


@check(
    points=1,
    after=embedding_has_one_weight,
    sizes={"V": (3, 6), "M": (1, 6)},
    ids=indices("2 4", below="V"),
    V=size("V"),
    M=size("M"),
    seed=seed(),
)
def embedding_looks_up_and_scales(impl, ids, V, M, seed):
    """TokenEmbedding gives √M times the rows of weight that the ids name, the first and the last too, each time and in weight's dtype."""
    ids[0, 0], ids[1, 3] = 0, V - 1
    module = with_weights(impl.TokenEmbedding(vocab_size=V, d_model=M), seed)
    exact = module(ids), module(ids[:1]), module(ids)
    return exact, [with_weights(module, seed, dtype)(ids) for dtype in (torch.float32, torch.bfloat16)]


@check(
    points=1,
    after=embedding_looks_up_and_scales,
    sizes={"V": (5,)},
    ids=indices("2 4", below="V"),
    V=size("V"),
    row=index(2),
    column=index(4),
    seed=seed(),
)
def embedding_refuses_unknown_ids(impl, ids, V, row, column, seed):
    """TokenEmbedding raises IndexError for an id of V or more and for a negative one, wherever in the batch it stands."""
    module = with_weights(impl.TokenEmbedding(V, 3), seed)
    came = {}
    for unknown in (V, V + 2, -1, -V):
        ids[row, column] = unknown
        came[f"id {unknown} of {V}"] = outcome(module, ids)[0]
    return came


@check(points=1, after=embedding_looks_up_and_scales, sizes={"V": (4,), "M": (3,)}, V=size("V"), M=size("M"), seed=seed())
def embedding_learns_every_row(impl, V, M, seed):
    """The gradient of weight is √M times what reaches a token, summed over all places where the token stands."""
    ids = torch.tensor([[0, 3, 3, 0], [1, 3, 0, 0]])
    return gradients(with_weights(impl.TokenEmbedding(V, M), seed), ids, seed=seed)["parameters"]


@check(points=1, sizes={"max_len": (7,), "M": (3,)}, max_len=size("max_len"), M=size("M"))
def learned_positions_have_one_weight(impl, max_len, M):
    """LearnedPositions(max_len, M) has one parameter, `weight`, of shape (max_len, M)."""
    return parameters(impl.LearnedPositions(max_len, M))


@check(
    points=1,
    after=learned_positions_have_one_weight,
    sizes={"L": (1, 3), "more": (0, 2)},
    x=normal("2 L 3"),
    more=size("more"),
    seed=seed(),
)
def learned_positions_are_added(impl, x, more, seed):
    """LearnedPositions adds row j of weight to token j of every sequence; the sequence may be as long as the table."""
    module = with_weights(impl.LearnedPositions(max_len=x.shape[1] + more, d_model=3), seed)
    return module(x)


@check(
    points=1,
    after=learned_positions_are_added,
    sizes={"start": (1, 2, 4)},
    x=normal("3 2 4"),
    start=size("start"),
    seed=seed(),
)
def learned_positions_begin_at_start(impl, x, start, seed):
    """With `start`, LearnedPositions adds the rows start, start + 1, ... and without it, also after that, those from 0."""
    module = with_weights(impl.LearnedPositions(start + 2, 4), seed)
    return module(x, start), module(x[:1, :1], start=1), module(x)


@check(
    points=1,
    after=learned_positions_are_added,
    sizes={"max_len": (1, 4), "L": (1, 3)},
    max_len=size("max_len"),
    x=normal("2 L 3"),
    seed=seed(),
)
def learned_positions_end(impl, max_len, x, seed):
    """Past max_len LearnedPositions raises ValueError, even by one and for a single token, and names start + L and max_len."""
    return beyond(with_weights(impl.LearnedPositions(max_len, 3), seed), x, max_len)


@check(points=1, after=learned_positions_begin_at_start, sizes={"L": (2,)}, x=normal("3 L 4"), seed=seed())
def learned_positions_learn(impl, x, seed):
    """Gradients reach x and the rows of weight that were added, summed over the batch, and no other row."""
    return gradients(with_weights(impl.LearnedPositions(5, 4), seed), x, 1, seed=seed)


@check(
    points=1,
    after=table_alternates_sines_and_cosines,
    compare=NEAR,
    sizes={"L": (1, 3), "M": (2, 5)},
    x=normal("2 L M"),
    M=size("M"),
)
def sinusoids_are_added(impl, x, M):
    """SinusoidalPositions adds row j of sinusoidal_positions to token j of every sequence, up to max_len; float32 stays float32."""
    module = impl.SinusoidalPositions(M, max_len=3)
    module.eval()
    return module(x), module(x.float())


@check(points=1, after=sinusoids_are_added, compare=NEAR, x=normal("8", mean=6.0))
def nothing_is_dropped_by_default(impl, x):
    """Without `dropout`, SinusoidalPositions gives the whole sum in training too."""
    return range_of(impl.SinusoidalPositions(320, max_len=3)(many(x)))


@check(
    points=1,
    after=sinusoids_are_added,
    compare=NEAR,
    sizes={"start": (1, 2, 4)},
    x=normal("2 3 6"),
    start=size("start"),
)
def sinusoids_begin_at_start(impl, x, start):
    """With `start`, SinusoidalPositions adds the rows start, start + 1, ... and without it, also after that, those from 0."""
    module = impl.SinusoidalPositions(d_model=6, max_len=start + 3)
    module.eval()
    return module(x, start), module(x[:1, :1], start=1), module(x)


@check(points=1, after=sinusoids_are_added, sizes={"max_len": (1, 4), "L": (1, 3)}, max_len=size("max_len"), x=normal("2 L 4"))
def sinusoids_end(impl, max_len, x):
    """Past max_len SinusoidalPositions raises ValueError, even by one and for a single token, and names start + L and max_len."""
    return beyond(impl.SinusoidalPositions(4, max_len), x, max_len)


@check(points=1, after=(sinusoids_begin_at_start, sinusoids_end), compare=FAR, sizes={"M": (6,)}, x=normal("2 3 M"), M=size("M"))
def there_are_5000_sinusoids_by_default(impl, x, M):
    """Without max_len there are 5000 positions: the last is 4999, within 1e-3, and there is none after it."""
    module = impl.SinusoidalPositions(M)
    return module(x, 4997), outcome(module, x, 4998)[0]


@check(points=1, sizes={"M": (4,)}, M=size("M"))
def table_is_neither_learned_nor_saved(impl, M):
    """The table of SinusoidalPositions is no parameter, and state_dict() is empty."""
    module = impl.SinusoidalPositions(M, max_len=3)
    return {"parameters": parameters(module), "state_dict()": dict(module.state_dict())}


@check(points=1, after=sinusoids_are_added, sizes={"M": (4,)}, M=size("M"))
def table_goes_where_the_module_goes(impl, M):
    """The table is a buffer: what happens to the module, .to("cuda") or .bfloat16(), happens to the table."""
    module = impl.SinusoidalPositions(M, max_len=6)
    nothing = torch.zeros(1, 6, M, dtype=torch.float64)
    exact = module(nothing)
    module.bfloat16()
    return {"the table is rounded by module.bfloat16()": bool((module(nothing) - exact).abs().max() > 1e-4)}


@check(points=1, after=sinusoids_are_added, compare=NEAR, x=normal("8", mean=6.0), dropout=choice(0.3, 0.6))
def evaluation_drops_nothing(impl, x, dropout):
    """In evaluation the sum comes whole and unscaled, the same each time, whatever dropout is."""
    module = impl.SinusoidalPositions(320, 5, dropout)
    module.eval()
    return range_of(module(many(x))), range_of(module(many(x)))


@check(points=1, after=evaluation_drops_nothing, compare=NEAR, x=normal("8", mean=6.0), dropout=choice(0.3, 0.6), draws=2)
def training_drops_from_the_sum(impl, x, dropout):
    """In training a number of the sum is either 0 or divided by 1 - dropout, so that its mean stays what it was."""
    return range_of(impl.SinusoidalPositions(320, max_len=5, dropout=dropout)(many(x)))


@check(points=1, after=training_drops_from_the_sum, x=normal("20 30 20", mean=5.0), dropout=choice(0.25, 0.6), draws=2)
def dropout_is_a_probability(impl, x, dropout):
    """Each number is dropped by itself with probability `dropout`: other ones in each sequence, token, channel and call."""
    module = impl.SinusoidalPositions(20, max_len=32, dropout=dropout)
    dropped, again = module(x, 2) == 0, module(x, 2) == 0
    return {
        "the share dropped is dropout": bool((dropped.double().mean() - dropout).abs() < 0.1),
        "the sequences differ": bool((dropped != dropped.roll(1, 0)).any()),
        "the tokens differ": bool((dropped != dropped.roll(1, 1)).any()),
        "the channels differ": bool((dropped != dropped.roll(1, 2)).any()),
        "the calls differ": bool((dropped != again).any()),
    }


@check(points=1, after=sinusoids_are_added, sizes={"L": (3,)}, x=normal("2 L 4"), seed=seed())
def sinusoids_pass_the_gradient_on(impl, x, seed):
    """The gradient passes through SinusoidalPositions to x as it is."""
    return gradients(impl.SinusoidalPositions(4, 5), x, 1, seed=seed)["inputs"]


@check(points=1, sizes={"L": (3,)}, x=normal("2 L 4"), ids=indices("2 L", below=5), seed=seed())
def arguments_are_left_alone(impl, x, ids, seed):
    """x and ids are the same after a call as before it: += would change the caller's tensor."""
    return {
        "TokenEmbedding": inputs_after(impl.TokenEmbedding(5, 4), ids),
        "LearnedPositions": inputs_after(with_weights(impl.LearnedPositions(6, 4), seed), x, 2),
        "SinusoidalPositions": inputs_after(impl.SinusoidalPositions(4, 6), x, 2),
        "SinusoidalPositions with dropout": inputs_after(impl.SinusoidalPositions(4, 6, 0.5), x, 2),
    }
