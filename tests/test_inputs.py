"""Inputs: a ladder of sizes, values from a seed."""

from __future__ import annotations

import torch

from kata import inputs
from kata.inputs import Rung, ladder, smaller

STRATEGIES = {"x": inputs.normal("B L H*D"), "t": inputs.index("L"), "mask": inputs.booleans("L S", some=True)}


def test_ladder_starts_smallest_and_has_rungs_with_all_sizes_different_and_all_equal() -> None:
    sizes = [dict(rung.sizes) for rung in ladder(STRATEGIES, {}, 1)]
    assert set(sizes[0].values()) == {1}
    assert any(len(set(rung.values())) == len(rung) for rung in sizes)
    assert any(set(rung.values()) == {3} for rung in sizes)
    assert any(len(set(rung.values())) == len(rung) and 1 in rung.values() for rung in sizes)
    assert any(rung["L"] > rung["S"] for rung in sizes) and any(rung["L"] < rung["S"] for rung in sizes)


def test_allowed_sizes_are_kept_when_climbing_and_when_shrinking() -> None:
    allowed = {"D": (2, 4)}
    rungs = ladder(STRATEGIES, allowed, 1)
    assert {dict(rung.sizes)["D"] for rung in rungs} <= {2, 4}
    shrunk = [dict(rung.sizes)["D"] for rung in smaller(rungs[-1], allowed)]
    assert set(shrunk) <= {2, 4}


def test_smaller_rungs_are_smaller_in_one_axis() -> None:
    rung = Rung((("A", 3), ("B", 2)))
    for less in smaller(rung, {}):
        changed = [name for name, size in less.sizes if size != dict(rung.sizes)[name]]
        assert len(changed) == 1
        assert dict(less.sizes)[changed[0]] < dict(rung.sizes)[changed[0]]


def test_values_depend_on_the_key_alone_and_leave_the_global_generator() -> None:
    state = torch.get_rng_state()
    rung = Rung((("B", 2), ("L", 3), ("H", 2), ("D", 2), ("S", 4)))
    one, same, other = (rung.inputs(STRATEGIES, key) for key in ("a", "a", "b"))
    assert one["x"].shape == (2, 3, 4)
    assert torch.equal(one["x"], same["x"]) and not torch.equal(one["x"], other["x"])
    assert 0 <= one["t"] < 3
    assert one["mask"].any(-1).all()
    assert torch.equal(torch.get_rng_state(), state)


def test_distinct_values_have_no_ties() -> None:
    values = inputs.distinct("A B").draw({"A": 50, "B": 9}, torch.Generator().manual_seed(0))
    gaps = values.sort(-1).values.diff(dim=-1)
    assert gaps.min() >= 0.5


def test_draws_differ() -> None:
    strategies = {"x": inputs.normal("3")}
    rungs = ladder(strategies, {}, 8)
    assert len({tuple(rung.inputs(strategies, 0)["x"].tolist()) for rung in rungs}) == 8


def test_a_ladder_comes_to_every_option() -> None:
    for number in (1, 2, 3, 8):
        strategies = {"x": inputs.normal("L"), "option": inputs.choice(*range(number))}
        for key in range(20):
            rungs = ladder(strategies, {"L": (2, 4)}, 1)
            assert {rung.inputs(strategies, key)["option"] for rung in rungs} == set(range(number))
    assert len({rungs[0].inputs(strategies, key)["option"] for key in range(20)}) > 2  # it begins with any


def test_choices_meet_in_all_pairs() -> None:
    strategies = {"x": inputs.normal("L"), "one": inputs.choice(0, 1), "other": inputs.choice(0, 1)}
    for key in range(20):
        values = [rung.inputs(strategies, key) for rung in ladder(strategies, {"L": (2, 4)}, 2)]
        assert len({(value["one"], value["other"]) for value in values}) == 4


def test_a_smaller_rung_keeps_the_option() -> None:
    strategies = {"x": inputs.normal("L"), "option": inputs.choice(*range(5))}
    for rung in ladder(strategies, {}, 2):
        for less in smaller(rung, {}):
            assert less.inputs(strategies, 7)["option"] == rung.inputs(strategies, 7)["option"]


def test_texts_have_as_many_pieces_as_asked_for() -> None:
    generator = torch.Generator().manual_seed(0)
    assert inputs.text("n").draw({"n": 0}, generator) == ""
    assert set(inputs.text("n", "ab").draw({"n": 40}, generator)) == {"a", "b"}
    pieces = inputs.text(9, ("<s>", "é")).draw({}, generator)
    assert pieces.count("<s>") + pieces.count("é") == 9
