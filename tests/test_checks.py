"""Checks and the implementations they ask, in this process."""

from __future__ import annotations

import sys
from dataclasses import replace

import pytest
import torch
from rooms import ROOMS

from kata.checks import check
from kata.compare import Raised, Value
from kata.grading import built_in, cost, failure, gradients, held, inputs_after, normal, parameters, steps, trained, with_weights
from kata.host import Local
from kata.implementation import Implementation, ImplementationRaised
from kata.loading import load

SOURCE = """
import torch

def double(x):
    return 2 * x

def nothing(x):
    return None

def spoils(x):
    return x.zero_()

def picky(n):
    if n > 2:
        raise Special(f"{n} is too many")
    return n

class Special(ValueError):
    pass

class Layer(torch.nn.Module):
    def __init__(self, n):
        super().__init__()
        self.proj = torch.nn.Linear(n, n)
        self.tied = self.proj

    def forward(self, x, mask=None):
        return self.proj(x)

class Counter:
    def __init__(self):
        self.count = 0

    def add(self, n=1):
        self.count += n
        return self

def apply(function, x, counter):
    return function(x, counter)
"""


@pytest.fixture
def impl() -> Implementation:
    return Implementation(Local(load(SOURCE, "source.py", "source")))


def test_values_come_back_and_the_callers_tensors_stay_as_they_were(impl: Implementation) -> None:
    x = torch.ones(3)
    assert torch.equal(impl.double(x), 2 * x)
    assert torch.equal(impl.spoils(x), torch.zeros(3))
    assert torch.equal(x, torch.ones(3))
    assert torch.equal(inputs_after(impl.spoils, x)[0], torch.zeros(3))


def test_objects_stay_there_and_are_asked_when_used(impl: Implementation) -> None:
    counter = impl.Counter()
    assert counter.count == 0
    assert counter.add(3).add().count == 4
    assert counter.count == 4


def test_functions_of_a_check_are_called_back_with_objects_passed_through(impl: Implementation) -> None:
    counter = impl.Counter()

    def step(x, passed):
        passed.add(2)
        return impl.double(x) + passed.count

    assert torch.equal(impl.apply(step, torch.ones(2), counter), torch.full((2,), 4.0))
    assert counter.count == 2


def test_a_callback_that_fails_is_told_to_the_implementation(impl: Implementation) -> None:
    with pytest.raises(ImplementationRaised, match="could not use these arguments: IndexError"):
        impl.apply(lambda x, counter: [][0], torch.ones(1), impl.Counter())


def test_failures_are_told_by_builtin_class_and_text(impl: Implementation) -> None:
    assert failure(impl.picky, 3) == ("ValueError", "3 is too many")
    assert failure(impl.picky, 2) == ("nothing was raised", "")
    with pytest.raises(ImplementationRaised, match="there is no `dubble` in the file; is `double` meant to be it"):
        impl.dubble(1)


def test_gradients_are_those_of_a_random_upstream(impl: Implementation) -> None:
    x = torch.ones(2, 3, dtype=torch.float64)
    found = gradients(impl.double, x, seed=5)["inputs"][0]
    upstream = torch.randn(2, 3, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    assert torch.equal(found, 2 * upstream)
    layer = with_weights(impl.Layer(3), 1)
    both = gradients(layer, x, seed=5)
    assert set(both["parameters"]) == {"proj.weight", "proj.bias"}
    torch.testing.assert_close(both["parameters"]["proj.weight"], upstream.mT @ x)


def test_weights_depend_on_seed_and_name_and_shape_alone(impl: Implementation) -> None:
    x = torch.eye(3, dtype=torch.float64)
    assert parameters(impl.Layer(3)) == {"proj.weight": [3, 3], "proj.bias": [3], "tied.weight": [3, 3], "tied.bias": [3]}
    one, same, other = (with_weights(impl.Layer(3), seed)(x) for seed in (1, 1, 2))
    assert torch.equal(one, same) and not torch.equal(one, other)
    constant = with_weights(impl.Layer(3), 1, constant={"bias": 0.5, "weight": 0.0})(x)
    assert torch.equal(constant, torch.full((3, 3), 0.5, dtype=torch.float64))
    with pytest.raises(ImplementationRaised, match=r"Counter must be a torch\.nn\.Module"):
        with_weights(impl.Counter(), 1)


def test_training_reaches_what_can_be_learnt_and_reports(impl: Implementation) -> None:
    source = """
import torch
class Table(torch.nn.Module):
    def __init__(self, n):
        super().__init__()
        self.logits = torch.nn.Embedding(n, n)
        self.drop = torch.nn.Dropout(0.5)
        self.idle = torch.nn.Parameter(torch.ones(3))
    def forward(self, ids):
        return self.logits(ids) if self.training else 2 * self.logits(ids)
"""
    model = with_weights(Implementation(Local(load(source, "table.py", "table"))).Table(5), 0, torch.float32)
    ids = torch.arange(5)[:, None]
    reports = []
    losses = trained(model, [ids, (ids + 1) % 5], torch.arange(5).expand(60, 5), 0.3, report=lambda *both: reports.append(both))
    assert len(losses) == 60 and losses[-1] < 0.1 < losses[0]
    assert [step for step, _ in reports] == [0, 10, 20, 30, 40, 50, 59]
    assert model.training is False
    assert torch.equal(model(ids).argmax(-1), (ids + 1) % 5)


def test_built_in_modules_are_made_there_and_can_be_passed_in(impl: Implementation) -> None:
    linear = with_weights(built_in(impl, "Linear", 2, 3), seed=1)
    x = torch.ones(1, 2, dtype=torch.float64)
    torch.testing.assert_close(linear(x), x @ linear.weight.T + linear.bias)
    assert parameters(built_in(impl, "Sequential", linear)) == {"0.weight": [3, 2], "0.bias": [3]}


def test_held_results_keep_their_storage_and_graph(impl: Implementation) -> None:
    x = held(impl.double, torch.ones(4))
    assert x.requires_grad is False
    assert x.untyped_storage().data_ptr() == x.untyped_storage().data_ptr()
    assert torch.equal(impl.double(x), torch.full((4,), 4.0))


def test_costs_count_products_in_every_form() -> None:
    source = """
import torch
def matmul(a, b): return a @ b
def einsum(a, b): return torch.einsum("ik,kj->ij", a, b)
def loop(a, b): return torch.stack([row @ b for row in a])
def dots(a, b): return torch.stack([torch.stack([torch.dot(row, column) for column in b.T]) for row in a])
def sums(a, b): return (a[:, :, None] * b).sum(1)
def linear(a, b): return torch.nn.functional.linear(a, b.T.contiguous(), torch.zeros(b.shape[1]))
def scaled(a, b): return (3 * a) @ b * 2 + 1
def fused(a, b): return torch.nn.functional.scaled_dot_product_attention(a[None, None], a[None, None], a[None, None])
"""
    impl = Implementation(Local(load(source, "costs.py", "costs")))
    a, b = torch.ones(4, 8), torch.ones(8, 16)
    for name in ("matmul", "einsum", "loop", "dots", "sums", "linear", "scaled"):
        assert cost(getattr(impl, name), a, b)["flops"] == 2 * 4 * 8 * 16, name
    assert cost(impl.fused, a, b)["flops"] == 2 * 4 * 4 * (8 + 8)
    assert cost(impl.matmul, a, b)["largest_tensor"] == 4 * 16
    assert cost(impl.sums, a, b)["largest_tensor"] == 4 * 8 * 16


def test_steps_count_lines_of_python_the_same_each_time_and_leave_a_debugger_alone() -> None:
    source = """
def line(n):
    total = 0
    for i in range(n):
        total += i
    return total

def square(n):
    return [line(n) for _ in range(n)]

def breaks(n):
    raise ValueError(n)
"""
    impl = Implementation(Local(load(source, "steps.py", "test_steps")))
    before = sys.gettrace()
    assert steps(impl.line, 50) == steps(impl.line, 50)
    assert 3.5 < steps(impl.line, 400) / steps(impl.line, 100) < 4.5
    assert steps(impl.square, 40) / steps(impl.square, 10) > 12
    assert failure(steps, impl.breaks, 3) == ("ValueError", "3")
    assert sys.gettrace() is before


def test_a_check_that_cannot_use_what_came_says_what_it_was(impl: Implementation) -> None:
    @check(x=normal("A B"))
    def slices(impl, x):
        """It can be sliced."""
        return impl.nothing(x)[:, 1:]

    outcome = slices.run(impl, {"x": torch.ones(1, 1)})
    assert isinstance(outcome, Raised)
    assert outcome.message.startswith("None came back, and the check cannot go on with it: ")


def test_a_check_may_change_its_inputs_without_others_seeing_it(impl: Implementation) -> None:
    @check(x=normal("A"))
    def changes(impl, x):
        """It changes x."""
        return impl.double(x.fill_(7.0))

    inputs = {"x": torch.zeros(2)}
    assert isinstance(changes.run(impl, inputs), Value)
    assert torch.equal(inputs["x"], torch.zeros(2))


def test_a_check_whose_inputs_do_not_fit_or_that_says_nothing_is_refused() -> None:
    with pytest.raises(TypeError, match=r"inputs \['x'\] do not match its arguments \['y'\]"):

        @check(x=normal("A"))
        def misnamed(impl, y):
            """It has another argument."""

    with pytest.raises(TypeError, match="a docstring must say what is right"):

        @check()
        def silent(impl):
            pass


def test_a_check_that_stumbles_over_the_reference_is_told() -> None:
    room = ROOMS["attention"]
    broken = replace(room.checks[0], function=lambda impl, **inputs: 1 / 0)
    with pytest.raises(RuntimeError, match="stumbles over the reference"):
        room.wanted(broken, broken.rungs[0], "a key of its own")
