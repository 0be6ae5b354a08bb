"""Watches a running answer for calls that are off limits.

Two nets, because one has holes: a `TorchFunctionMode` sees a call by the name
that the learner used, and replaced kernels catch the operator underneath,
however it was reached.
"""

from __future__ import annotations

import contextlib
import sys
import warnings
from collections.abc import Iterator, Sequence
from types import FrameType
from typing import Any

import torch
from torch.overrides import TorchFunctionMode


class OffLimits(RuntimeError):
    """A call that this topic does not allow."""


def resolve(dotted: str) -> Any:
    """The object that a name such as "torch.nn.functional.softmax" stands for.

    Raises:
        AttributeError: there is none.
    """
    root, *rest = dotted.split(".")
    value: Any = {"torch": torch}.get(root)
    for name in rest:
        value = getattr(value, name)
    if value is None:
        raise AttributeError(dotted)
    return value


class Guard:
    """Enter it around each call into the answer.

    Args:
        rules: (name, why) pairs; a name is dotted, or an operator as "aten::_softmax".
        path: the learner's file, whose lines the message quotes.
    """

    def __init__(self, rules: Sequence[tuple[str, str]], path: str):
        self.path = path
        self.broken: str | None = None
        self.functions: dict[Any, tuple[str, str]] = {}
        kernels = [(name, why) for name, why in rules if name.startswith("aten::")]
        for name, why in rules:
            if not name.startswith("aten::"):
                value = resolve(name)
                if not isinstance(value, type) and callable(value):
                    self.functions[value] = (name, why)
        self.library = torch.library.Library("aten", "IMPL") if kernels else None
        for name, why in kernels:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # that a kernel is replaced is the point
                self.library.impl(name.removeprefix("aten::"), self.refusal(name, why), "CPU")  # type: ignore[union-attr]

    @contextlib.contextmanager
    def __call__(self) -> Iterator[None]:
        self.broken = None
        try:
            with Watch(self) if self.functions else contextlib.nullcontext():
                yield
        finally:
            if self.broken:  # even if the answer caught the exception
                raise OffLimits(self.broken)

    def refusal(self, name: str, why: str) -> Any:
        def refuse(*args: Any, **kwargs: Any) -> Any:
            self.refuse(name, why)

        return refuse

    def refuse(self, name: str, why: str) -> None:
        frame: FrameType | None = sys._getframe()
        while frame is not None and frame.f_code.co_filename != self.path:
            frame = frame.f_back
        where = f" (line {frame.f_lineno})" if frame else ""
        self.broken = f"`{name}` is off limits{where}: {why}"
        raise OffLimits(self.broken)


class Watch(TorchFunctionMode):  # type: ignore[misc]  # PyTorch is skipped when types are checked
    """Sees the functions that the answer calls, under their own names."""

    def __init__(self, guard: Guard):
        super().__init__()
        self.guard = guard

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        rule = self.guard.functions.get(func)
        if rule:
            self.guard.refuse(*rule)
        return func(*args, **(kwargs or {}))
