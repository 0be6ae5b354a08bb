"""Stubs are cut from solutions line by line."""

from __future__ import annotations

import pytest

from kata import progress
from kata.stubs import cut, public_names

SOLUTION = '''"""A question."""

import math

LIMIT = 3  # stays


# a helper's comment goes with it
def _helper(x):
    return x


def given(x):  # given
    return _helper(x)


@staticmethod
def f(
    x: int,
) -> int:  # a comment that stays
    """What it does.

    >>> f(1)
    1
    """
    # how it does it
    return math.floor(x)


class Box:
    """Keeps a number."""

    size = 1

    def __init__(self, x):
        self.x = x

    def _secret(self):
        return self.x

    @property
    def value(self) -> int:
        """The number."""
        return self._secret()

    def bare(self): return 1

    def _last_secret(self):
        return 2


def last(x):
    return x
'''

STUB = '''"""A question."""

import math

LIMIT = 3  # stays


def given(x):  # given
    return _helper(x)


@staticmethod
def f(
    x: int,
) -> int:  # a comment that stays
    """What it does.

    >>> f(1)
    1
    """
    # TODO: write it as described above.
    raise NotImplementedError


class Box:
    """Keeps a number."""

    size = 1

    def __init__(self, x):
        # TODO: make the parameters and whatever else it takes.
        raise NotImplementedError

    @property
    def value(self) -> int:
        """The number."""
        # TODO: write it as described above.
        raise NotImplementedError

    def bare(self):
        # TODO: write bare.
        raise NotImplementedError


def last(x):
    # TODO: write last.
    raise NotImplementedError
'''


def test_bodies_and_helpers_go_and_the_rest_stays() -> None:
    assert cut(SOLUTION) == STUB


def test_a_stub_is_valid_python_with_the_same_contract() -> None:
    assert public_names(cut(SOLUTION)) == public_names(SOLUTION) == ["given", "f", "Box", "last"]


def test_reset_keeps_a_copy_and_started_knows_the_stub(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    from dataclasses import replace

    from rooms import ROOMS

    topic = replace(ROOMS["attention"].topic, root=tmp_path)
    topic.solution.parent.mkdir(parents=True)
    topic.solution.write_text(SOLUTION)
    assert not progress.started(topic)
    progress.write_stub(topic)
    assert topic.exercise.read_text() == STUB
    assert not progress.started(topic)
    topic.exercise.write_text("mine")
    assert progress.started(topic)
    (tmp_path / progress.DIGESTS).write_text(progress.digest_list([topic]))
    progress.digests.cache_clear()
    assert progress.started(topic)
    progress.write_stub(topic)
    topic.solution.unlink()  # what was shipped is known without it
    assert not progress.started(topic)
    topic.exercise.write_text("mine")
    copies = [progress.back_up(topic), progress.back_up(topic)]
    assert [copy.read_text() for copy in copies] == ["mine", "mine"]
    assert len(set(copies)) == 2
