"""A mistake is run only where the reference comes to the functions that it changes."""

from __future__ import annotations

import pytest
from rooms import ROOMS, TOPICS

from kata.compare import compare
from kata.costs import StepCounter
from kata.loading import load
from kata.reach import MARK, differing, marked

SOURCE = '''"""A module."""

from __future__ import annotations

LIMIT = 3


def once(x):
    return x


START = once(1)


def twice(x, by=2):
    """Doubles."""
    return by * once(x)


def later(x):
    return [inner(y) for y in x if (lambda z: z)(y)]


def inner(y):
    return y


class Box:
    size = 1

    def __init__(self):
        self.held = []

    @property
    def full(self):
        return len(self.held) >= self.size

    @full.setter
    def full(self, value):
        self.held = [value]
'''


@pytest.mark.parametrize(
    "old, new, names",
    [
        ("return by * once(x)", "return by + once(x)", {"twice"}),
        ("return by * once(x)", "\n    # a comment\n    return by * once(x)", set()),
        ("return by * once(x)", "return by * once(x)\n\n\ndef once(x):\n    return 0", None),
        ("return by * once(x)", "return by * helper(x)\n\n\ndef helper(x):\n    return 0", None),
        ("return by * once(x)", "return 2.0 * once(x)", {"twice"}),
        ("(lambda z: z)(y)", "(lambda z: -z)(y)", {"later"}),
        ("[inner(y) for y", "[inner(-y) for y", {"later"}),
        ("self.held = []", "self.held = [0]", {"Box.__init__"}),
        (">= self.size", "> self.size", {"Box.full"}),
        ("[value]", "[]", {"Box.full"}),
        ("def twice(x, by=2)", "def twice(x, by=3)", None),
        ("def twice(x, by=2)", "def twice(y, by=2)", {"twice"}),
        ("    @full.setter\n", "", None),
        ("size = 1", "size = 2", None),
        ("LIMIT = 3", "LIMIT = 4", None),
        ("LIMIT = 3", "LIMIT = 3.0", None),
        ("def inner(y):", "def inside(y):", None),
        ("START = once(1)", "START = once(True)", None),
        ("class Box:", "class Box(list):", None),
    ],
)
def test_what_differs(old: str, new: str, names: set[str] | None) -> None:
    assert SOURCE.count(old) == 1
    assert differing(SOURCE, SOURCE.replace(old, new)) == names


def test_a_marked_module_does_the_same_and_tells_what_was_called() -> None:
    module = load(SOURCE, "marked.py", "kata_marked", marked(SOURCE))
    reached = getattr(module, MARK)
    assert module.__doc__ == "A module." and module.twice.__doc__ == "Doubles."
    assert reached == {"once"}  # as it was loaded
    assert module.later([1, 2]) == [1, 2]
    assert reached == {"once", "later", "inner"}
    box = module.Box()
    assert reached == {"once", "later", "inner", "Box.__init__"}
    box.full = 1
    assert box.full
    assert reached == {"once", "later", "inner", "Box.__init__", "Box.full"}
    assert module.twice(2) == 4
    assert "twice" in reached


def test_a_marked_module_executes_as_many_lines() -> None:
    steps = []
    for tree in (None, marked(SOURCE)):
        module = load(SOURCE, "marked.py", "kata_marked", tree)
        with StepCounter() as counter:
            module.later([1, 2])
            module.twice(2)
            module.Box().full = 1
        steps.append(counter.steps)
    assert steps[0] == steps[1] > 8


@pytest.mark.parametrize("topic", [pytest.param(topic.name, marks=pytest.mark.xdist_group(topic.name)) for topic in TOPICS])
def test_a_mistake_that_is_not_met_does_what_the_reference_does(topic: str) -> None:
    """Run all the same, on an input of each check."""
    room = ROOMS[topic]
    spared = 0
    for place, check in enumerate(room.checks):
        rung, key = check.rungs[-1], ("check", 0, check.name)
        inputs, wanted = room.wanted(check, rung, key)
        for mistake in room.mistakes[place % 8 :: 8]:
            if not check.slow and not room.meets(mistake, (check.name, rung, key)):
                spared += 1
                assert compare(wanted, check.run(mistake.implementation, inputs), check.comparison) is None, (mistake.id, check.name)
    assert spared or len(room.names) == 1
