"""Messages between a judge and a runner: a JSON header and raw tensor bytes.

Nothing that crosses can execute: there is no pickle here. What comes from a
runner was written by code that nobody trusts, so a frame is checked for size,
dtype and shape before anything is allocated for it.

A value becomes a tree that JSON can carry and a list of tensors beside it.
Things that are neither data nor containers stay where they are; `wrap` and
`unwrap` turn them into references and back.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Callable
from typing import Any, BinaryIO

import torch
from torch import Tensor

MAX_HEADER = 1 << 20  # bytes
MAX_BODY = 64 << 20  # bytes
MAX_DEPTH = 16
FRAME = struct.Struct("<II")  # bytes of the header, bytes of the body

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

Tree = Any
Message = tuple[dict[str, Any], list[Tensor]]


class Malformed(Exception):
    """What came is not a message; the text says why."""


def harmless(text: Any, limit: int = 4000) -> str:
    """A text that somebody wrote, without the control characters that steer a terminal."""
    return "".join(c if c.isprintable() or c in "\n\t" else "·" for c in str(text)[:limit])


def plain(tensor: Tensor) -> bool:
    """Whether the tensor's values can be carried as raw bytes."""
    return tensor.layout is torch.strided and tensor.device.type == "cpu" and tensor.dtype in NAMES


def pack(value: Any, tensors: list[Tensor], wrap: Callable[[Any], Tree], depth: int = 0) -> Tree:
    """A tree for JSON; tensors are appended, detached and copied, to `tensors`."""
    if value is None or type(value) in (bool, int, float, str):
        return value
    if isinstance(value, float):  # NumPy's float64 is one
        return float(value)
    if depth > MAX_DEPTH:
        raise ValueError(f"a value is nested more than {MAX_DEPTH} deep")
    if isinstance(value, Tensor) and plain(value):
        alone = value.detach() if type(value) is Tensor else value.detach().as_subclass(Tensor)
        tensors.append(alone.clone(memory_format=torch.contiguous_format))
        return {"tensor": len(tensors) - 1}
    if isinstance(value, (bytes, bytearray)):
        return {"bytes": value.hex()}
    if isinstance(value, (set, frozenset)):
        return {"set": [pack(item, tensors, wrap, depth + 1) for item in value]}
    if isinstance(value, (list, tuple)):
        kind = "list" if isinstance(value, list) else "tuple"
        return {kind: [pack(item, tensors, wrap, depth + 1) for item in value]}
    if isinstance(value, dict):
        pairs = [[pack(k, tensors, wrap, depth + 1), pack(v, tensors, wrap, depth + 1)] for k, v in value.items()]
        return {"dict": pairs}
    return wrap(value)


def unpack(tree: Tree, tensors: list[Tensor], unwrap: Callable[[dict[str, Any]], Any]) -> Any:
    """The value that `pack` made the tree from."""
    if tree is None or isinstance(tree, (bool, int, float, str)):
        return tree
    if not isinstance(tree, dict) or not tree:
        raise Malformed("a value in the answer has no known kind")
    kind, content = next(iter(tree.items()))
    try:
        if kind == "tensor":
            return tensors[content]
        if kind == "list":
            return [unpack(item, tensors, unwrap) for item in content]
        if kind == "tuple":
            return tuple(unpack(item, tensors, unwrap) for item in content)
        if kind == "bytes":
            return bytes.fromhex(content)
        if kind == "set":
            return {unpack(item, tensors, unwrap) for item in content}
        if kind == "dict":
            return {unpack(k, tensors, unwrap): unpack(v, tensors, unwrap) for k, v in content}
        return unwrap(tree)
    except (TypeError, ValueError, IndexError, KeyError, OverflowError, RecursionError) as error:
        raise Malformed(f"a part of the answer does not hold what it should ({type(error).__name__})") from error


def send(stream: BinaryIO, message: Message) -> None:
    """Write one message."""
    header, tensors = message
    layout = [[NAMES[tensor.dtype], list(tensor.shape)] for tensor in tensors]
    head = json.dumps([header, layout]).encode()
    body = b"".join(raw_bytes(tensor) for tensor in tensors)
    if len(head) > MAX_HEADER or len(body) > MAX_BODY:
        raise ValueError(f"the values take {len(head) + len(body):,} bytes; at most {MAX_BODY:,} can be passed on")
    stream.write(FRAME.pack(len(head), len(body)) + head + body)
    stream.flush()


def receive(stream: BinaryIO) -> Message | None:
    """Read one message; None at the end of the stream.

    Raises:
        Malformed: the sizes, the header or the tensors' layout are not legal.
    """
    frame = stream.read(FRAME.size)
    if len(frame) < FRAME.size:
        return None
    head_size, body_size = FRAME.unpack(frame)
    if head_size > MAX_HEADER or body_size > MAX_BODY:
        raise Malformed(f"it announced {head_size + body_size:,} bytes")
    head = stream.read(head_size)
    if len(head) < head_size:
        return None
    header, layout = parse_head(head)
    if sum(count * dtype.itemsize for dtype, _, count in layout) != body_size:
        raise Malformed("the tensors' sizes do not add up")
    body = bytearray(stream.read(body_size))
    if len(body) < body_size:
        return None
    tensors, offset = [], 0
    for dtype, shape, count in layout:
        tensors.append(from_bytes(body, offset, dtype, shape, count))
        offset += count * dtype.itemsize
    return header, tensors


def parse_head(head: bytes) -> tuple[dict[str, Any], list[tuple[torch.dtype, list[int], int]]]:
    """Header and layout, (dtype, shape, number of elements) a tensor, all of them legal."""
    try:
        header, raw_layout = json.loads(head)
        layout = []
        for name, shape in raw_layout:
            if not all(type(size) is int and 0 <= size <= MAX_BODY for size in shape) or len(shape) > 32:
                raise ValueError("a shape is not legal")
            if math.prod(size or 1 for size in shape) > MAX_BODY:  # not even beside an axis of size 0 can PyTorch make it
                raise ValueError("a shape is too large")
            layout.append((DTYPES[name], shape, math.prod(shape)))
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise Malformed(f"its header cannot be read: {type(error).__name__}") from error
    if not isinstance(header, dict):
        raise Malformed("its header is no object")
    return header, layout


def raw_bytes(tensor: Tensor) -> bytes:
    """Of a tensor that `pack` made: it is contiguous, and no view."""
    return (tensor.view(torch.int16) if tensor.dtype is torch.bfloat16 else tensor).numpy().tobytes()


def from_bytes(body: bytearray, offset: int, dtype: torch.dtype, shape: list[int], count: int) -> Tensor:
    if count == 0:
        return torch.empty(shape, dtype=dtype)
    if dtype is torch.bool:  # any byte but 0 and 1 would be no boolean
        return torch.frombuffer(body, dtype=torch.uint8, count=count, offset=offset).ne(0).reshape(shape)
    if offset % dtype.itemsize:
        body, offset = body[offset : offset + count * dtype.itemsize], 0
    return torch.frombuffer(body, dtype=dtype, count=count, offset=offset).view(shape).clone()
