"""Whatever goes over the wire comes back the same; whatever is not legal is refused before it costs anything."""

from __future__ import annotations

import io
import json
import struct
from typing import Any

import numpy
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kata.wire import DTYPES, Malformed, harmless, pack, receive, send, unpack

shapes = st.lists(st.integers(0, 4), max_size=4)
leaves = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5) | st.binary(max_size=5)
values = st.recursive(
    leaves,
    lambda v: st.lists(v, max_size=3) | st.tuples(v) | st.frozensets(st.integers()) | st.dictionaries(st.text(max_size=3), v, max_size=3),
    max_leaves=8,
)


def there_and_back(value: Any) -> Any:
    tensors: list[torch.Tensor] = []
    stream = io.BytesIO()
    send(stream, ({"result": pack(value, tensors, pytest.fail)}, tensors))
    stream.seek(0)
    received = receive(stream)
    assert received is not None
    return unpack(received[0]["result"], received[1], pytest.fail)


@given(values)
@settings(max_examples=100, deadline=None)
def test_data_comes_back_the_same(value: Any) -> None:
    assert there_and_back(value) == value


def test_a_float_of_numpys_is_a_float() -> None:
    back = there_and_back([numpy.float64(0.1)])
    assert back == [0.1]
    assert type(back[0]) is float


@given(st.lists(st.tuples(st.sampled_from(list(DTYPES.values())), shapes), min_size=1, max_size=4), st.integers(0, 99))
@settings(max_examples=100, deadline=None)
def test_tensors_come_back_to_the_bit(kinds: list[tuple[torch.dtype, list[int]]], seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    tensors = [(torch.randn(shape, generator=generator) * 50).to(dtype) for dtype, shape in kinds]
    for ours, theirs in zip(tensors, there_and_back(tensors), strict=True):
        assert ours.dtype == theirs.dtype
        assert ours.shape == theirs.shape
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize(
    "tensor",
    [
        torch.arange(12).reshape(3, 4).mT,
        torch.ones(1).expand(5),
        torch.arange(9)[::2],
        torch.tensor(float("nan")),
        torch.zeros(2, 0, 3),
        torch.tensor([1 + 2j, 3 - 4j]).conj().imag,  # a view that negates what it reads
        torch.arange(4, dtype=torch.bfloat16)[2],
        torch.nn.Parameter(torch.ones(2)),
    ],
    ids=["transposed", "expanded", "strided", "scalar", "empty", "negated", "bfloat16", "parameter"],
)
def test_any_layout_is_carried(tensor: torch.Tensor) -> None:
    torch.testing.assert_close(there_and_back(tensor), tensor, equal_nan=True)


def frame(head: Any, body: bytes = b"", head_size: int | None = None, body_size: int | None = None) -> io.BytesIO:
    raw = head if isinstance(head, bytes) else json.dumps(head).encode()
    sizes = (len(raw) if head_size is None else head_size, len(body) if body_size is None else body_size)
    return io.BytesIO(struct.pack("<II", *sizes) + raw + body)


@pytest.mark.parametrize(
    "stream",
    [
        frame(b"", head_size=0xFFFFFFFF),
        frame([{}, []], body_size=0xFFFFFFFF),
        frame(b"nonsense"),
        frame(b"\xff\xfe"),
        frame([]),
        frame({}),
        frame([[], []]),
        frame([{}, [["float64", [2]]]], b"\0" * 8),
        frame([{}, [["float64", [-1]]]], b"\0" * 8),
        frame([{}, [["float64", [True]]]], b"\0" * 8),
        frame([{}, [["float64", [1.0]]]], b"\0" * 8),
        frame([{}, [["object", [1]]]], b"\0" * 8),
        frame([{}, [["float64", [1] * 40]]], b"\0" * 8),
        frame([{}, [["float64", [1 << 20, 1 << 20, 1 << 20]]]], b"\0" * 8),
        frame([{}, [["float64", [1 << 26, 1 << 26, 1 << 26, 0]]]]),
        frame(b"[" * 100_000 + b"]" * 100_000),
    ],
    ids=range(16),
)
def test_what_is_not_legal_is_refused(stream: io.BytesIO) -> None:
    with pytest.raises(Malformed):
        receive(stream)


@pytest.mark.parametrize(
    "tree",
    [
        [],
        {},
        {"tensor": 3},
        {"tensor": "0"},
        {"list": 5},
        {"dict": [[1]]},
        {"dict": [[{"list": []}, 1]]},
        {"tuple": None},
        {"bytes": "xy"},
        {"set": [{"list": []}]},
    ],
    ids=str,
)
def test_a_tree_that_holds_nonsense_is_refused(tree: Any) -> None:
    with pytest.raises(Malformed):
        unpack(tree, [], lambda tree: pytest.fail("no reference here"))


def test_a_reference_to_no_number_is_refused() -> None:
    with pytest.raises(Malformed):
        unpack({"object": float("inf")}, [], lambda tree: int(tree["object"]))


def test_a_tree_nested_beyond_python_is_refused() -> None:
    tree: Any = None
    for _ in range(5000):
        tree = {"list": [tree]}
    with pytest.raises(Malformed):
        unpack(tree, [], lambda tree: None)


def test_a_truncated_stream_ends() -> None:
    whole = frame([{}, [["float64", [1]]]], b"\0" * 8).getvalue()
    for length in range(len(whole)):
        assert receive(io.BytesIO(whole[:length])) is None


def test_bytes_that_are_no_booleans_become_some() -> None:
    received = receive(frame([{}, [["bool", [3]]]], b"\x00\x01\x07"))
    assert received is not None
    assert received[1][0].tolist() == [False, True, True]


def test_control_characters_do_not_reach_the_terminal() -> None:
    assert harmless("a\x1b[2Jb\nc\td\x07") == "a·[2Jb\nc\td·"
