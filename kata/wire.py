"""Messages between a judge and a runner: msgpack, and the raw bytes of tensors beside it.

Nothing that crosses can execute: there is no pickle here. What comes from a
runner was written by code that nobody trusts, so a frame is checked for size,
dtype and shape before anything is allocated for it.

Objects that are neither data nor containers stay where they are; `wrap` and
`unwrap` turn them into references, (kind, content), and back.
"""

from __future__ import annotations

import functools
import math
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, BinaryIO, Protocol

import numpy
import torch
from msgpack import ExtType, packb, unpackb
from torch import Tensor

MAX_HEAD = 1 << 20  # bytes
MAX_BODY = 64 << 20  # bytes
MAX_DEPTH = 16
MAX_ENTRIES = 10_000  # of a dict or a set: keys with one hash are compared each with each
MAX_AXES = 32
FRAME = struct.Struct("<II")  # bytes of the head, bytes of the body

DTYPES = {
    str(dtype).removeprefix("torch."): dtype
    for dtype in (
        torch.float64,
        torch.float32,
        torch.float16,
        torch.bfloat16,
        torch.int64,
        torch.int32,
        torch.int16,
        torch.int8,
        torch.uint8,
        torch.bool,
    )
}
NAMES = {dtype: name for name, dtype in DTYPES.items()}

# What msgpack does not know, by the code of its extension: first a tensor of each dtype, with its sizes.
BY_CODE = tuple((dtype, numpy.dtype({"bfloat16": "int16", "bool": "uint8"}.get(name, name))) for name, dtype in DTYPES.items())
CODES = {dtype: code for code, (dtype, _) in enumerate(BY_CODE)}
TUPLE, SET, FROZENSET, INTEGER, REFERENCE = range(32, 37)
PACKING = {"unicode_errors": "surrogatepass", "buf_size": 1024}  # at first: by default it takes 256 KiB, for every value
COLLECTIONS = {TUPLE: tuple, SET: set, FROZENSET: frozenset}

Wrap = Callable[[Any], tuple[str, Any]]
Unwrap = Callable[[str, Any], Any]


class Malformed(Exception):
    """What came is not a message; the text says why."""


class Message(Protocol):
    """A header of plain data, and a value."""

    header: dict[str, Any]

    def open(self, unwrap: Unwrap) -> Any:
        """The value, as whoever gets it has it: its tensors share no memory with anything."""
        ...


def harmless(text: Any, limit: int = 4000) -> str:
    """A text that somebody wrote, without the control characters that steer a terminal."""
    return "".join(c if c.isprintable() or c in "\n\t" else "·" for c in str(text)[:limit])


def plain(tensor: Tensor) -> bool:
    """Whether the tensor's values can be carried as raw bytes."""
    return tensor.layout is torch.strided and tensor.is_cpu and tensor.dtype in NAMES


def nothing(value: Any) -> tuple[str, Any]:
    raise TypeError(f"{value!r} is no data")


@dataclass
class Written:
    """A message of this process, to be opened here or sent."""

    header: dict[str, Any]
    value: Any = None
    wrap: Wrap = nothing

    def open(self, unwrap: Unwrap) -> Any:
        return carried(self.value, lambda thing: unwrap(*self.wrap(thing)))


def carried(value: Any, across: Callable[[Any], Any]) -> Any:
    """What comes of a value that is packed and unpacked, without doing so."""
    kind = type(value)
    if value is None or kind in (bool, int, float, str, bytes):
        return value
    if isinstance(value, Tensor) and plain(value):
        return bare(value).clone(memory_format=torch.contiguous_format)
    if isinstance(value, list):
        return [carried(item, across) for item in value]
    if isinstance(value, tuple):
        return tuple([carried(item, across) for item in value])
    if isinstance(value, dict):
        return {carried(name, across): carried(item, across) for name, item in value.items()}
    if isinstance(value, (set, frozenset)):
        return (set if isinstance(value, set) else frozenset)(carried(item, across) for item in value)
    if isinstance(value, float):  # NumPy's float64 is one
        return float(value)
    return bytes(value) if kind is bytearray else across(value)


def bare(tensor: Tensor) -> Tensor:
    """Without its history, and without what a subclass makes of it."""
    if type(tensor) is Tensor:
        return tensor.detach() if tensor.requires_grad else tensor
    return tensor.detach().as_subclass(Tensor)


@dataclass
class Packing:
    wrap: Wrap
    tensors: list[bytes] = field(default_factory=list)

    def pack(self, value: Any) -> bytes:
        return bytes(packb(value, default=self.other, strict_types=True, **PACKING))

    def other(self, value: Any) -> Any:
        """Something that msgpack knows, for what it does not."""
        if isinstance(value, Tensor) and plain(value):
            alone = bare(value)
            self.tensors.append(raw_bytes(alone))
            return described(alone.dtype, alone.shape)
        if isinstance(value, float):
            return float(value)
        if type(value) is int:  # of more than 64 bits; Python refuses those that it would not print
            return ExtType(INTEGER, str(value).encode())
        for code, collection in COLLECTIONS.items():
            if isinstance(value, collection):
                return ExtType(code, self.pack(list(value)))
        for container in (list, dict):
            if isinstance(value, container):
                return container(value)
        return ExtType(REFERENCE, self.pack(list(self.wrap(value))))


def raw_bytes(tensor: Tensor) -> bytes:
    if tensor.is_neg():
        tensor = tensor.resolve_neg()
    return (tensor.view(torch.int16) if tensor.dtype is torch.bfloat16 else tensor).numpy().tobytes()


@functools.lru_cache(4096)
def described(dtype: torch.dtype, shape: tuple[int, ...]) -> ExtType:
    return ExtType(CODES[dtype], struct.pack(f"<{len(shape)}I", *shape))


@functools.lru_cache(4096)
def sizes_in(data: bytes) -> tuple[tuple[int, ...], int]:
    """A shape and the number of elements.

    Raises:
        Malformed: there can be no such tensor.
    """
    shape = struct.unpack(f"<{len(data) // 4}I", data)
    if len(shape) > MAX_AXES or math.prod(size or 1 for size in shape) > MAX_BODY:  # not even beside an axis of size 0 can PyTorch make it
        raise Malformed("a tensor has no legal shape")
    return shape, math.prod(shape)


def limited(value: Any, depth: int = MAX_DEPTH) -> Any:
    """The value, if it keeps within the limits of containers.

    Raises:
        ValueError: it does not.
    """
    if isinstance(value, (list, tuple, dict, set, frozenset)):
        if depth < 0:
            raise ValueError(f"a value is nested more than {MAX_DEPTH} deep")
        if isinstance(value, (dict, set, frozenset)) and len(value) > MAX_ENTRIES:
            raise ValueError(f"a {type(value).__name__} has {len(value):,} entries; at most {MAX_ENTRIES:,} can be passed on")
        for item in value:
            limited(item, depth - 1)
        if isinstance(value, dict):
            for item in value.values():
                limited(item, depth - 1)
    return value


@dataclass
class Received:
    """A message that came over the wire, not looked into yet."""

    header: dict[str, Any]
    packed: bytes
    body: bytes  # the tensors of the value, one after the other

    def open(self, unwrap: Unwrap) -> Any:
        unpacking = Unpacking(unwrap, self.body)
        value = unpacking.unpack(self.packed)
        if unpacking.place != len(self.body):
            raise Malformed("the tensors' sizes do not add up")
        return value


def opened(message: Message, unwrap: Unwrap) -> Any:
    """The value of a message that anybody may have written.

    Raises:
        Malformed: something in it is not legal.
    """
    try:
        return limited(message.open(unwrap))
    except (TypeError, ValueError, LookupError, OverflowError, RecursionError, MemoryError, struct.error) as error:
        raise Malformed(f"a part of the answer does not hold what it should ({type(error).__name__})") from error


@dataclass
class Unpacking:
    unwrap: Unwrap
    body: bytes
    place: int = 0  # where in the body the next tensor begins
    depth: int = 0  # of tuples, sets and references, which C would follow to the end of the stack

    def unpack(self, packed: bytes) -> Any:
        self.depth += 1
        if self.depth > MAX_DEPTH + 2:
            raise Malformed(f"a value in the answer is nested more than {MAX_DEPTH} deep")
        value = unpackb(packed, ext_hook=self.other, strict_map_key=False, max_map_len=MAX_ENTRIES, unicode_errors="surrogatepass")
        self.depth -= 1
        return value

    def other(self, code: int, data: bytes) -> Any:
        if 0 <= code < len(BY_CODE):
            return self.tensor(*BY_CODE[code], *sizes_in(data))
        if code == INTEGER:
            return int(data)
        content = self.unpack(data)
        if code in COLLECTIONS:
            if code != TUPLE and len(content) > MAX_ENTRIES:
                raise Malformed("a set in the answer is too large")
            return COLLECTIONS[code](content)
        if code == REFERENCE:
            kind, what = content
            return self.unwrap(kind, what)
        raise Malformed("a value in the answer has no known kind")

    def tensor(self, dtype: torch.dtype, stored_as: numpy.dtype[Any], shape: tuple[int, ...], count: int) -> Tensor:
        """The next of the tensors."""
        if count == 0:
            return torch.empty(shape, dtype=dtype)
        if self.place + count * stored_as.itemsize > len(self.body):
            raise Malformed("the tensors' sizes do not add up")
        stored = numpy.ndarray(shape, stored_as, self.body, self.place)
        self.place += count * stored_as.itemsize
        if dtype is torch.bool:  # any byte but 0 and 1 would be no boolean
            return torch.from_numpy(numpy.asarray(stored != 0))
        tensor = torch.from_numpy(stored.copy())
        return tensor.view(dtype) if dtype is torch.bfloat16 else tensor


def send(stream: BinaryIO, message: Written) -> None:
    """Write one message.

    Raises:
        ValueError: its value is too large, or nested too deep.
    """
    packing = Packing(message.wrap)
    packed = packing.pack(limited(message.value))
    head, body = packb((message.header, packed), **PACKING), b"".join(packing.tensors)
    for part, what, most in ((body, "tensors", MAX_BODY), (head, "all but the tensors", MAX_HEAD)):
        if len(part) > most:
            raise ValueError(f"{what} of a value take {len(part):,} bytes; at most {most:,} can be passed on")
    stream.write(FRAME.pack(len(head), len(body)) + head + body)
    stream.flush()


def receive(stream: BinaryIO) -> Received | None:
    """Read one message; None at the end of the stream.

    Raises:
        Malformed: the sizes or the header are not legal.
    """
    frame = stream.read(FRAME.size)
    if len(frame) < FRAME.size:
        return None
    head_size, body_size = FRAME.unpack(frame)
    if head_size > MAX_HEAD or body_size > MAX_BODY:
        raise Malformed(f"it announced {head_size + body_size:,} bytes")
    head, body = stream.read(head_size), stream.read(body_size)
    if len(head) < head_size or len(body) < body_size:
        return None
    try:
        header, packed = unpackb(head, unicode_errors="surrogatepass")
    except (TypeError, ValueError, RecursionError) as error:
        raise Malformed(f"its header cannot be read: {type(error).__name__}") from error
    if not isinstance(header, dict) or not isinstance(packed, bytes):
        raise Malformed("its header is no object")
    return Received(header, packed, body)
