"""Watches a running answer for calls that are off limits.

Two nets, because one has holes: replaced functions and classes of PyTorch tell
a call by the name that the learner used, and replaced kernels catch the
operator underneath, however it was reached. Both cost a call that is allowed
nothing; a `TorchFunctionMode`, which would see every call, makes all of them
two to three times as slow.
"""

from __future__ import annotations

import contextlib
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from types import FrameType
from typing import Any

import torch


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
    """Enter it around each call into the answer. It changes PyTorch for the whole process.

    Args:
        rules: (name, why) pairs; a name is dotted, or an operator as "aten::_softmax".
        path: the learner's file, whose lines the message quotes.
    """

    def __init__(self, rules: Sequence[tuple[str, str]], path: str):
        self.path = path
        self.watching = False
        self.broken: str | None = None
        self.library = torch.library.Library("aten", "IMPL")
        for name, why in rules:
            if name.startswith("aten::"):
                self.replace_kernel(name, why)
            else:
                self.replace(name, why)

    @contextlib.contextmanager
    def __call__(self) -> Iterator[None]:
        self.broken = None
        self.watching = True
        try:
            yield
        finally:
            self.watching = False
            if self.broken:  # even if the answer caught the exception
                raise OffLimits(self.broken)

    def replace(self, name: str, why: str) -> None:
        """Refuse calls of a function, and making objects of a class; a module is left to the scan."""
        owner, _, attribute = name.rpartition(".")
        value = resolve(name)
        if isinstance(value, type):
            # Both checkers forbid this for good reasons; here the class itself is to be changed, subclasses too.
            setattr(value, "__init__", self.refusing(None, name, why))  # noqa: B010
        elif callable(value):
            needed = name.startswith(("torch.autograd.", "torch.Tensor.backward"))  # by the checks' own gradients
            setattr(resolve(owner), attribute, self.refusing(value if needed else None, name, why))

    def refusing(self, original: Callable[..., Any] | None, name: str, why: str) -> Callable[..., Any]:
        def function(*args: Any, **kwargs: Any) -> Any:
            if self.watching or original is None:  # what is not held cannot be dug out
                self.refuse(name, why)
            else:
                return original(*args, **kwargs)

        return function

    def replace_kernel(self, name: str, why: str) -> None:
        def refuse(*args: Any, **kwargs: Any) -> Any:
            self.refuse(name, why)

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that a kernel is replaced is the point
            self.library.impl(name.removeprefix("aten::"), refuse, "CPU")

    def refuse(self, name: str, why: str) -> None:
        frame: FrameType | None = sys._getframe()
        while frame is not None and frame.f_code.co_filename != self.path:
            frame = frame.f_back
        where = f" (line {frame.f_lineno})" if frame else ""
        self.broken = f"`{name}` is off limits{where}: {why}"
        raise OffLimits(self.broken)
