"""What right rotary positions and ALiBi do."""

import torch

from kata.grading import beside, check, choice, close, failure, gradients, indices, inputs_after, normal, seed, size

NEAR = close(rtol=1e-4, atol=1e-4)  # for angles in float32, whatever order they are computed in
LAYOUTS = {"interleaved": True, "halves": False}
FEW = {"B": (2,), "H": (3,), "L": (1, 4), "P": (1, 3)}  # where axes are not the subject
HALF = {"float16": torch.float16, "bfloat16": torch.bfloat16}


def in_both_layouts(impl, x, positions):
    return {layout: impl.apply_rope(x, positions, interleaved=interleaved) for layout, interleaved in LAYOUTS.items()}


def transposed(apply_rope, x, positions):
    """apply_rope of x as a view, as the heads come out of a projection: (B, L, H, D) with two axes transposed."""
    return apply_rope(x.transpose(1, 2).contiguous().transpose(1, 2), positions)


def visible(change):
    """A change without what rounding alone may have done."""
    return torch.where(change.abs() < 1e-3, 0.0, change)


# The angles.


@check(points=1, positions=indices("L", below=100), D=size("2*P"), base=choice(731.5, 1e6))
def angles_are_position_times_frequency(impl, positions, D, base):
    """rope_angles gives pair i at position p the angle p · base ** (-2i / D), with base 10000 if none is named."""
    return {"default base": impl.rope_angles(positions, D), f"base {base:g}": impl.rope_angles(positions, D, base)}


@check(points=1, after=angles_are_position_times_frequency, positions=indices("B L", below=100), D=size("2*P"))
def angles_follow_any_positions(impl, positions, D):
    """Positions may be (B, L), those of each sequence, fractions in any precision, below zero; the angles are float32 all the same."""
    return {
        "integers": impl.rope_angles(positions, D),
        "fractions in float64": impl.rope_angles(positions.double() / 4, D),
        "fractions in float32": impl.rope_angles(positions[0].float() / 4, D),
        "below zero": impl.rope_angles(positions - 50, D),
    }


# The rotation.


def turned(impl, x, positions):
    """In words, whether vectors at these positions, none of them 0, come back otherwise."""
    return "turned" if bool((impl.apply_rope(x, positions) - x).abs().amax(-1).gt(1e-3).all()) else "as they were"


@check(points=1, compare=NEAR, sizes=FEW, x=normal("B H L 2*P"))
def position_zero_turns_nothing(impl, x):
    """At position 0 all angles are 0: x comes back as it was; at position 1 it does not."""
    here = torch.zeros(x.shape[2], dtype=torch.int64)
    return {"at position 0": impl.apply_rope(x, here), "at position 1": turned(impl, x, here + 1)}


@check(points=1, compare=NEAR, sizes=FEW, x=normal("B H L 2*P"), positions=indices("L", below=12))
def lengths_are_kept(impl, x, positions):
    """A rotation turns every vector and keeps its length."""
    return {"lengths": impl.apply_rope(x, positions).norm(dim=-1), "vectors": turned(impl, x, positions + 1)}


@check(
    points=1,
    compare=close(rtol=1e-3, atol=1e-3),
    sizes=FEW | {"S": (3, 2)},
    q=normal("B H L 2*P"),
    k=normal("B H S 2*P"),
    at=indices("L", below=12),
    other=indices("S", below=12),
    shift=choice(1, 20),
)
def scores_hang_on_the_distance_alone(impl, q, k, at, other, shift):
    """When queries and keys all move by the same number of positions, no score changes; when keys alone do, scores change."""

    def scores(moved, keys_moved):
        return impl.apply_rope(q, at + moved) @ impl.apply_rope(k, other + keys_moved).mT

    here = scores(0, 0)
    apart = bool(visible(scores(0, 1) - here).any())
    return {"change of the scores": visible(scores(shift, shift) - here), "with keys moved alone": "changed" if apart else "as before"}


@check(points=2, compare=NEAR, x=normal("B H L 2*P"), positions=indices("L", below=12))
def neighbours_turn_by_their_angle(impl, x, positions):
    """If not told otherwise, channels 2i and 2i + 1 turn together by angle i: (a, b) becomes (a cos - b sin, a sin + b cos)."""
    return impl.apply_rope(x, positions)


@check(points=2, compare=NEAR, x=normal("B H L 2*P"), positions=indices("L", below=12))
def halves_turn_by_their_angle(impl, x, positions):
    """With interleaved=False channels i and i + D/2 turn together by angle i, and each comes back in its place."""
    return impl.apply_rope(x, positions, interleaved=False)


@check(
    points=1,
    after=(neighbours_turn_by_their_angle, halves_turn_by_their_angle),
    compare=NEAR,
    sizes={"P": (2, 3, 4)},
    x=normal("B H L 2*P"),
    positions=indices("L", below=12),
    base=choice(1234.5, 5e5),
)
def base_is_used(impl, x, positions, base):
    """apply_rope turns by the angles of the base that it is given."""
    return {layout: impl.apply_rope(x, positions, base, interleaved) for layout, interleaved in LAYOUTS.items()}


@check(
    points=1,
    after=(neighbours_turn_by_their_angle, halves_turn_by_their_angle),
    compare=NEAR,
    x=normal("B H L 2*P"),
    positions=indices("B L", below=48),
)
def each_sequence_has_its_positions(impl, x, positions):
    """With positions (B, L) each sequence turns by its own, all its heads alike.

    Positions may be fractions or below zero, and x a transposed view.
    """
    return in_both_layouts(impl, x, positions / 4) | {
        "below zero": impl.apply_rope(x, positions[0] - 24),
        "a view": beside(impl, transposed)(impl.apply_rope, x, positions),
    }


@check(
    points=1,
    after=neighbours_turn_by_their_angle,
    compare=close(rtol=2e-2, atol=2e-2),
    sizes=FEW,
    x=normal("B H L 2*P", scale=0.5),
    positions=indices("L", below=12),
)
def dtype_is_kept(impl, x, positions):
    """What comes out has the dtype of x."""
    return {name: impl.apply_rope(x.to(dtype), positions) for name, dtype in (HALF | {"float32": torch.float32}).items()}


@check(
    points=1,
    after=dtype_is_kept,
    compare=close(rtol=2e-2, atol=3e-2),
    sizes=FEW,
    x=normal("B H L 2*P", scale=0.5),
    positions=indices("L", below=100000, start=2049),
)
def long_texts_work_in_half_precision(impl, x, positions):
    """Where x is half precision, positions in the thousands still turn it by their own angles, computed in float32."""
    return {name: in_both_layouts(impl, x.to(dtype), positions) for name, dtype in HALF.items()}


@check(points=1, after=(neighbours_turn_by_their_angle, halves_turn_by_their_angle), D=choice(3, 7))
def odd_sizes_raise(impl, D):
    """apply_rope raises ValueError if D is odd, in either layout."""
    x, positions = torch.ones(1, 2, 3, D), torch.arange(3)
    raised = {layout: failure(impl.apply_rope, x, positions, interleaved=pairs)[0] for layout, pairs in LAYOUTS.items()}
    return raised | {"a single channel": failure(impl.apply_rope, x[..., :1], positions)[0]}


@check(
    points=1,
    after=(neighbours_turn_by_their_angle, halves_turn_by_their_angle),
    compare=NEAR,
    sizes=FEW,
    x=normal("B H L 2*P"),
    positions=indices("L", below=12),
    seed=seed(),
)
def gradients_flow_to_x(impl, x, positions, seed):
    """The gradient that reaches x is right, in either layout."""
    taken = {layout: gradients(impl.apply_rope, x, positions, interleaved=pairs, seed=seed) for layout, pairs in LAYOUTS.items()}
    return {layout: found["inputs"][0] for layout, found in taken.items()}


# Weights of the other layout.


@check(
    points=1,
    after=(neighbours_turn_by_their_angle, halves_turn_by_their_angle),
    compare=close(rtol=1e-3, atol=1e-3),
    sizes={"B": (2,), "M": (4,), "L": (3,), "H": (1, 3), "P": (1, 2, 4)},
    x=normal("B L M"),
    q_weight=normal("H*2*P M"),
    k_weight=normal("H*2*P M"),
    H=size("H"),
    positions=indices("L", below=12),
)
def converted_weights_give_the_same_scores(impl, x, q_weight, k_weight, H, positions):
    """With both weights through interleaved_to_half_split, turning halves gives the scores that turning neighbours gave before."""

    def scores(weights, interleaved):
        projected = ((x @ weight.mT).unflatten(-1, (H, -1)).transpose(1, 2) for weight in weights)
        q, k = (impl.apply_rope(each, positions, interleaved=interleaved) for each in projected)
        return q @ k.mT

    before = scores((q_weight, k_weight), interleaved=True)
    after = scores([impl.interleaved_to_half_split(weight, H) for weight in (q_weight, k_weight)], interleaved=False)
    return {"change of the scores": visible(after - before)}


@check(points=1, weight=normal("H*2*P M"), H=size("H"))
def rows_move_within_their_head(impl, weight, H):
    """interleaved_to_half_split gives the rows of each head in another order: first those of the first channels of all pairs."""
    return impl.interleaved_to_half_split(weight, H)


@check(
    points=1,
    after=neighbours_turn_by_their_angle,
    sizes=FEW | {"P": (2,), "M": (3,)},
    x=normal("B H L 2*P"),
    weight=normal("H*2*P M"),
    H=size("H"),
)
def arguments_are_left_alone(impl, x, weight, H):
    """x, positions and weight are the same after the calls as before."""
    positions = torch.arange(1.0, x.shape[2] + 1)
    return {
        "apply_rope": inputs_after(impl.apply_rope, x, positions)[:2],
        "apply_rope, halves": inputs_after(impl.apply_rope, x, positions, 10000.0, False)[:2],
        "rope_angles": inputs_after(impl.rope_angles, positions, x.shape[-1])[0],
        "linear_scaling": inputs_after(impl.linear_scaling, positions, 2.0)[0],
        "interleaved_to_half_split": inputs_after(impl.interleaved_to_half_split, weight, H)[0],
    }


# Longer texts.


@check(points=1, positions=indices("L", below=9000), factor=choice(2.0, 3.0, 8.0))
def positions_are_squeezed(impl, positions, factor):
    """linear_scaling divides the positions by the factor, whole or not, and rounds none of them."""
    return {
        "integers": impl.linear_scaling(positions, factor).double(),
        "fractions": impl.linear_scaling(positions[:, None].double() / 4, factor + 0.5).double(),
    }


@check(
    points=1,
    after=angles_are_position_times_frequency,
    sizes={"P": (2, 3, 8)},
    base=choice(10000.0, 500.0),
    factor=choice(2.0, 4.0, 1.5),
    D=size("2*P"),
)
def slowest_pair_is_stretched(impl, base, factor, D):
    """ntk_base gives base · factor ** (D / (D - 2)): the last pair turns `factor` times as slowly, the first as fast as before."""
    new = impl.ntk_base(base, factor, D)
    turns = impl.rope_angles(torch.tensor([1000]), D, new) / impl.rope_angles(torch.tensor([1000]), D, base)
    return {"new base": new, "speed of the first pair": turns[0, 0], "speed of the last pair": turns[0, -1]}


# ALiBi.


@check(points=1, sizes={"H": (1, 2, 8)}, H=size("H"))
def slopes_are_geometric(impl, H):
    """For a power of two the slopes begin at 2 ** (-8 / H), and each is that many times the one before; they are float32."""
    return {"slopes": impl.alibi_slopes(H), "slopes of twice as many heads": impl.alibi_slopes(2 * H)}


@check(points=1, after=slopes_are_geometric, sizes={"H": (3, 6, 13)}, H=size("H"))
def other_numbers_of_heads_have_slopes(impl, H):
    """If H is no power of two, behind the slopes of the next lower one stand every second of those of twice as many heads."""
    return {"slopes": impl.alibi_slopes(H), f"of {2 * H + 1} heads": impl.alibi_slopes(2 * H + 1)}


def of_what_is_seen(bias, L, S):
    """A bias without what stands at keys after the query."""
    return torch.where(torch.ones(L, S, dtype=torch.bool).tril(S - L), bias, 0.0)


@check(points=1, after=slopes_are_geometric, sizes={"H": (1, 2, 12), "L": (1, 3, 70)}, H=size("H"), L=size("L"))
def bias_grows_with_the_distance(impl, H, L):
    """alibi_bias is -slope times the number of tokens from the key to the query, for each head its slope; 0 on the diagonal; float32."""
    return of_what_is_seen(impl.alibi_bias(H, L), L, L)


@check(
    points=1,
    after=bias_grows_with_the_distance,
    sizes={"H": (1, 3, 16), "L": (1, 3), "N": (1, 4, 300)},
    H=size("H"),
    L=size("L"),
    more=size("N"),
)
def last_query_stands_at_the_last_key(impl, H, L, more):
    """With more keys than queries the last query stands at the last key, as when decoding with a cache."""
    return of_what_is_seen(impl.alibi_bias(H, L, L + more), L, L + more)
