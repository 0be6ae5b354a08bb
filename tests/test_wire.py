"""Whatever goes over the wire comes back the same; whatever is not legal is refused before it costs anything."""

from __future__ import annotations

import collections
import io
import struct
from typing import Any

import msgpack
import numpy
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kata.wire import DTYPES, INTEGER, REFERENCE, SET, TUPLE, Malformed, Received, Written, harmless, opened, receive, send

shapes = st.lists(st.integers(0, 4), max_size=4)
leaves = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5) | st.binary(max_size=5)
values = st.recursive(
    leaves,
    lambda v: st.lists(v, max_size=3) | st.tuples(v) | st.sets(st.integers()) | st.dictionaries(st.text(max_size=3), v, max_size=3),
    max_leaves=8,
)


def over_the_wire(value: Any) -> Any:
    stream = io.BytesIO()
    send(stream, Written({}, value, no_reference))
    stream.seek(0)
    received = receive(stream)
    assert received is not None
    return opened(received, no_reference)


def within_the_process(value: Any) -> Any:
    return opened(Written({}, value, no_reference), no_reference)


def no_reference(*_: Any) -> Any:
    pytest.fail("no reference here")


either_way = pytest.mark.parametrize("there_and_back", [over_the_wire, within_the_process])


def same(one: Any, other: Any) -> bool:
    """Equal, and of the same types all the way down."""
    if type(one) is not type(other):
        return False
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, dict):
        return list(one) == list(other) and all(same(one[name], other[name]) for name in one)
    return bool(one == other)


@either_way
@given(values)
@settings(max_examples=100, deadline=None)
def test_data_comes_back_the_same(there_and_back: Any, value: Any) -> None:
    assert same(there_and_back(value), value)


@either_way
@pytest.mark.parametrize(
    "value",
    [2**63, 2**64, -(2**63) - 1, -(10**40), 0, float("inf"), "\ud800", "\0", b"\0\xff", {(1, 2): ((),)}, {frozenset({1}), frozenset()}],
)
def test_what_msgpack_does_not_know_comes_back_the_same(there_and_back: Any, value: Any) -> None:
    assert same(there_and_back(value), value)


@either_way
@pytest.mark.parametrize(
    ("value", "plainly"),
    [
        (torch.Size([2, 3]), (2, 3)),
        (collections.OrderedDict(b=1, a=2), {"b": 1, "a": 2}),
        (collections.namedtuple("Pair", "one other")(1, 2), (1, 2)),
        (bytearray(b"ab"), b"ab"),
    ],
    ids=["size", "ordered", "named", "bytearray"],
)
def test_kinds_of_containers_become_plain_ones(there_and_back: Any, value: Any, plainly: Any) -> None:
    assert same(there_and_back(value), plainly)


@either_way
def test_a_float_of_numpys_is_a_float(there_and_back: Any) -> None:
    back = there_and_back([numpy.float64(0.1)])
    assert back == [0.1]
    assert type(back[0]) is float


@either_way
@given(st.lists(st.tuples(st.sampled_from(list(DTYPES.values())), shapes), min_size=1, max_size=4), st.integers(0, 99))
@settings(max_examples=100, deadline=None)
def test_tensors_come_back_to_the_bit(there_and_back: Any, kinds: list[tuple[torch.dtype, list[int]]], seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    tensors = [(torch.randn(shape, generator=generator) * 50).to(dtype) for dtype, shape in kinds]
    for ours, theirs in zip(tensors, there_and_back(tensors), strict=True):
        assert ours.dtype == theirs.dtype
        assert ours.shape == theirs.shape
        assert torch.equal(ours, theirs)
        assert theirs.is_contiguous()


@either_way
def test_tensors_share_no_memory(there_and_back: Any) -> None:
    ours = torch.zeros(3)
    one, other = there_and_back([ours, ours])
    one += 1
    assert [ours.sum(), other.sum()] == [0, 0]
    assert other.untyped_storage().nbytes() == 12


@either_way
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
def test_any_layout_is_carried(there_and_back: Any, tensor: torch.Tensor) -> None:
    torch.testing.assert_close(there_and_back(tensor), tensor, equal_nan=True)


def frame(head: Any, body: bytes = b"", head_size: int | None = None, body_size: int | None = None) -> io.BytesIO:
    raw = head if isinstance(head, bytes) else msgpack.packb(head)
    sizes = (len(raw) if head_size is None else head_size, len(body) if body_size is None else body_size)
    return io.BytesIO(struct.pack("<II", *sizes) + raw + body)


@pytest.mark.parametrize(
    "stream",
    [
        frame(b"", head_size=0xFFFFFFFF),
        frame([{}, b""], body_size=0xFFFFFFFF),
        frame(b"\xc1"),
        frame(b"\xdd\xff\xff\xff\xff"),
        frame([]),
        frame({}),
        frame([[], b""]),
        frame([{}, ""]),
        frame([{}, b"", b""]),
        frame(msgpack.packb([{}, b""]) + b"\0"),
        frame([{"a": msgpack.Timestamp(0)}, [b""]]),
        frame(b"\x91" * 100_000 + b"\x90"),
    ],
    ids=range(12),
)
def test_a_frame_that_is_not_legal_is_refused(stream: io.BytesIO) -> None:
    with pytest.raises(Malformed):
        receive(stream)


def tensor_of(*sizes: int, dtype: torch.dtype = torch.float64, raw: bytes | None = None) -> bytes:
    return msgpack.packb(msgpack.ExtType(list(DTYPES.values()).index(dtype), raw or struct.pack(f"<{len(sizes)}I", *sizes)))


def ext(code: int, content: Any) -> bytes:
    return msgpack.packb(msgpack.ExtType(code, content if isinstance(content, bytes) else msgpack.packb(content)))


@pytest.mark.parametrize(
    ("packed", "body"),
    [
        (b"", b""),
        (b"\xc1", b""),
        (b"\x81\x90\x01", b""),  # a list as a key
        (b"\xc0\xc0", b""),
        (b"\xd9\x02\xff\xff", b""),  # no text
        (b"\x91" * 600 + b"\x90", b""),
        (b"\x91" * 5000 + b"\x90", b""),
        (b"\x91" * 18 + b"\x90", b""),
        (tensor_of(2), b"\0" * 8),
        (tensor_of(2), b"\0" * 24),
        (b"\xc0", b"\0" * 8),
        (tensor_of(raw=b"\1\0\0"), b"\0" * 8),
        (tensor_of(*[1] * 40), b"\0" * 8),
        (tensor_of(1 << 20, 1 << 20, 1 << 20), b"\0" * 8),
        (tensor_of(1 << 26, 1 << 26, 1 << 26, 0), b""),
        (ext(31, None), b""),
        (ext(99, None), b""),
        (ext(TUPLE, 5), b""),
        (ext(TUPLE, b""), b""),
        (ext(SET, [[]]), b""),
        (ext(INTEGER, b"xy"), b""),
        (ext(INTEGER, b"9" * 5000), b""),  # Python would not print it
        (ext(SET, list(range(20_000))), b""),
        (msgpack.packb({i: i for i in range(20_000)}), b""),
        (ext(REFERENCE, ["kind"]), b""),
        (ext(REFERENCE, 7), b""),
    ],
    ids=range(26),
)
def test_a_value_that_is_not_legal_is_refused(packed: bytes, body: bytes) -> None:
    with pytest.raises(Malformed):
        opened(Received({}, packed, body), no_reference)


def test_a_reference_to_no_number_is_refused() -> None:
    with pytest.raises(Malformed):
        opened(Received({}, ext(REFERENCE, ["object", float("inf")]), b""), lambda kind, content: int(content))


def test_tuples_nested_beyond_python_are_refused() -> None:
    packed = b"\xc0"
    for _ in range(5000):
        packed = ext(TUPLE, packed)
    with pytest.raises(Malformed):
        opened(Received({}, packed, b""), no_reference)


@pytest.mark.parametrize("container", [list, tuple, lambda items: dict(enumerate(items))])
def test_what_is_nested_too_deep_is_not_sent(container: Any) -> None:
    value: Any = None
    for _ in range(17):
        value = container([value])
    over_the_wire(value)
    with pytest.raises(ValueError, match="nested more than 16 deep"):
        over_the_wire(container([value]))


@pytest.mark.parametrize(
    ("value", "why"),
    [
        (torch.zeros(9_000_000, dtype=torch.float64), "at most"),
        ("x" * (1 << 20), "at most"),
        (10**5000, "digits"),
        (set(range(20_000)), "a set has 20,000 entries"),
    ],
    ids=["tensor", "text", "number", "set"],
)
def test_what_is_too_large_is_not_sent(value: Any, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        over_the_wire(value)


def test_a_truncated_stream_ends() -> None:
    whole = frame([{}, tensor_of(1)], b"\0" * 8).getvalue()
    for length in range(len(whole)):
        assert receive(io.BytesIO(whole[:length])) is None


def test_bytes_that_are_no_booleans_become_some() -> None:
    assert opened(Received({}, tensor_of(3, dtype=torch.bool), b"\x00\x01\x07"), no_reference).tolist() == [False, True, True]


def test_control_characters_do_not_reach_the_terminal() -> None:
    assert harmless("a\x1b[2Jb\nc\td\x07") == "a·[2Jb\nc\td·"
