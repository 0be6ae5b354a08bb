"""Comparing: types and shapes before values, tolerance by dtype, exceptions by type, costs by share."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from kata.compare import ROOM, Raised, Value, at_most, close, compare, spelled
from kata.implementation import Parameters

T = torch.tensor


def message(wanted: Any, got: Any, **tolerance: float) -> str:
    found = close(**tolerance).difference(wanted, got)
    return found.message if found else ""


@pytest.mark.parametrize(
    "wanted, got",
    [
        (T([1.0, 2.0], dtype=torch.float64), T([1.0, 2.0 + 1e-7], dtype=torch.float64)),
        (T([1.0], dtype=torch.bfloat16), T([1.0078], dtype=torch.bfloat16)),
        (T([float("nan"), float("inf")]), T([float("nan"), float("inf")])),
        (T([True, False]), T([True, False])),
        ((T([1]), 2), [T([1]), 2]),
        ({"a": 1.0}, {"a": 1.0 + 1e-9}),
        (1.0, 1),
        (float("inf"), float("inf")),
        (float("nan"), float("nan")),
        ("x", "x"),
        (None, None),
    ],
    ids=range(11),
)
def test_equal(wanted: Any, got: Any) -> None:
    assert message(wanted, got) == ""


@pytest.mark.parametrize(
    "wanted, got, says",
    [
        (T([1.0, 2.0]), T([1.0, 3.0]), "1 of 2 values differ; 2 wanted at [1], 3 came"),
        (T([1.0]), T([[1.0]]), "shape (1,) wanted, (1, 1) came"),
        (T([1.0]), T([1.0], dtype=torch.float64), "dtype float32 wanted, float64 came"),
        (T([True]), T([1]), "dtype bool wanted, int64 came"),
        (T([1.0]), None, "a float32 tensor of shape (1,) wanted, None came"),
        (T([1.0]), (T([1.0]), None), "a float32 tensor of shape (1,) wanted, a tuple of 2 came"),
        (T([1.0]), 1.0, "a float32 tensor of shape (1,) wanted, 1.0 (float) came"),
        (T([1.0]), T([float("nan")]), "1 wanted at [0], nan came"),
        (T([float("-inf")]), T([-1e9]), "-inf wanted at [0], -1e+09 came"),
        (T([1, 2]), T([1, 3]), "1 of 2 values differ; 2 wanted at [1], 3 came"),
        ([1, 2], [1], "2 values wanted, 1 came"),
        ({"a": [2]}, {"b": [2]}, "'a' is missing; 'b' is not asked for"),
        (3, 3.0, "3 wanted, 3.0 came"),
        (1, True, "1 wanted, True came"),
        (1, T(1), "1 wanted, a int64 tensor of shape () came"),
    ],
    ids=range(15),
)
def test_different(wanted: Any, got: Any, says: str) -> None:
    assert message(wanted, got) == says


def test_a_difference_inside_containers_says_where() -> None:
    found = compare(Value([{"a": T([1.0])}]), Value([{"a": T([2.0])}]), close())
    assert found is not None
    assert found.where == "[0]['a']"
    assert found.message.startswith("in result[0]['a']: ")


def test_exceptions_are_compared_by_type() -> None:
    error = Raised(("builtins.ValueError", "builtins.Exception"), "no")
    special = Raised(("answer.TooLong", "builtins.ValueError", "builtins.Exception"), "too long")
    other = Raised(("builtins.IndexError", "builtins.LookupError"), "out of range")
    assert compare(error, error, close()) is None
    assert compare(error, special, close()) is None
    for got, says in [
        (other, "ValueError wanted, but IndexError was raised: out of range"),
        (Value(None), "ValueError wanted, but nothing was raised"),
    ]:
        found = compare(error, got, close())
        assert found is not None
        assert found.message == says
    found = compare(Value(1), other, close())
    assert found is not None
    assert found.message == "IndexError: out of range"


def test_costs_are_graded_by_their_share() -> None:
    cost = at_most(1.1, least=0.5).difference
    assert cost(100, 110) is None
    assert cost({"flops": 100}, {"flops": 60}) is None
    for wanted, got, says in [
        (100, 111, "1.11 times as much"),
        (100, 49, "not seen"),
        ({"flops": 100, "largest_tensor": 10}, {"flops": 100, "largest_tensor": 40}, "largest tensor: 40 where 10 is enough"),
        (0, 1, "none is allowed"),
        (1, None, "a number wanted, None came"),
    ]:
        found = cost(wanted, got)
        assert found is not None
        assert says in found.message


@pytest.mark.parametrize("got", [1.0 + 1e-3, 10**400, float("nan"), float("inf"), True], ids=range(5))
def test_a_number_that_is_another_is_told(got: object) -> None:
    assert message(1.0, got)
    assert message(float("inf"), -1.0)


@pytest.mark.parametrize(
    "cost", [float("nan"), float("inf"), -(10**400), 10**400, 10**4200], ids=["nan", "inf", "below", "above", "far above"]
)
def test_a_cost_that_no_count_gives_is_refused(cost: float) -> None:
    found = at_most(1.1).difference({"flops": 100}, {"flops": cost})
    assert found is not None
    assert found.message.startswith("a number wanted, ")


@pytest.mark.parametrize("value", [(), (1,), [], [1, (2.0, "x")], {}, {"a": [None], (1, 2): {}}, {3}, b"x", -5, True, T([1.0])], ids=repr)
def test_a_value_is_spelled_as_python_does(value: Any) -> None:
    assert spelled(value) == repr(value)


@pytest.mark.parametrize(
    "value", ["x" * 1_000_000, list(range(100_000)), {"a": [T([1.0])] * 50_000}, [10**5000]], ids=["text", "list", "tensors", "integer"]
)
def test_a_value_without_end_is_shown_in_part(value: Any) -> None:
    assert 0 < len(spelled(value)) <= ROOM + 1
    assert 0 < len(message("x", value)) < 2 * ROOM
    assert 0 < len(message({}, dict.fromkeys(range(100_000)))) < 2 * ROOM


def test_a_parameter_may_have_further_names_but_there_may_be_no_further_parameter() -> None:
    wanted = Value({"weight": [2], "bias": [3]})
    asked_for = [("weight", [2], 1), ("bias", [3], 2)]

    def difference(*more: tuple[str, list[int], int]) -> str:
        found = compare(wanted, Value(Parameters([*asked_for, *more])), close())
        return found.message if found else ""

    assert difference() == difference(("alias", [2], 1)) == ""
    assert difference(("another", [2], 3)) == "'another' is not asked for"
    assert (
        difference(("alias", [2], 1), ("another", [2], 3), ("its.alias", [2], 3))
        == "'another' is not asked for; 'its.alias' is not asked for"
    )


def test_parameters_that_are_none_are_refused_before_they_are_compared() -> None:
    for nonsense in ([("weight", [2], [])], [([], [2], 1)], [("weight", [2])]):
        with pytest.raises((TypeError, ValueError)):
            Parameters(nonsense)  # type: ignore[arg-type]  # what a runner may send
