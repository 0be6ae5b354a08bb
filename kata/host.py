"""Answers a check's questions beside the implementation.

The same code serves the reference inside the judge and the learner's file
inside a runner. It holds the objects that do not cross, calls what it is asked
to call, and knows no answer.
"""

from __future__ import annotations

import contextlib
import difflib
import functools
import inspect
import math
import os
import random
import secrets
import shutil
import tempfile
import traceback
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

import numpy.random  # here already: numpy loads it when it is first asked for, which would be in every runner anew
import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from kata import training, weights
from kata.costs import CostMode, StepCounter
from kata.wire import DTYPES, NAMES, Message, Unwrap, Written

MAX_TEXT = 2000  # characters of an exception's text or traceback
MAX_NAME = 200  # characters of an exception's name

CallBack = Callable[[Written], Message]


class Missing(Exception):
    """The implementation has no such name."""


class Host:
    """One implementation and the objects made from it."""

    def __init__(self, namespace: ModuleType, guard: Callable[[], Any] = contextlib.nullcontext, folder: str | None = None):
        self.namespace, self.guard, self.folder = namespace, guard, folder
        self.objects: dict[int, Any] = {}
        self.keys: dict[int, int] = {}  # id of an object: its key
        self.given: dict[str, Any] = {}  # by source: what the grader wants to live here

    def answer(self, message: Message, call_back: CallBack) -> Written:
        """The reply to one request; never raises."""
        header = message.header
        unwrap = self.unwrapper(call_back)
        try:
            if "begins" in header:
                self.begin(header["begins"])
            if header["do"] == "get":
                result = self.get(header["target"], header["name"])
            elif header["do"] == "folder":
                result = self.own_folder()
            else:
                target = unwrap(*header["target"])
                args, kwargs = message.open(unwrap)
                operation = getattr(self, header["do"])
                extra = {"seed": header["seed"]} if "seed" in header else {}
                result = operation(target, args, kwargs, **extra)
            return Written({}, result, self.wrap)
        except BaseException as error:  # whatever a learner raises is an answer, SystemExit too
            return Written({"raised": self.describe(error, header)})

    def begin(self, seed: int) -> None:
        """A run begins: nothing is left of the one before, and global randomness is the same wherever it happens."""
        self.objects.clear()
        self.keys.clear()
        self.given.clear()
        if self.folder:
            empty(Path(self.folder))
        random.seed(seed)
        numpy.random.seed(seed % 2**32)
        torch.default_generator.manual_seed(seed)
        torch.set_grad_enabled(True)

    # What a check may ask for.

    def own_folder(self) -> str:
        """The folder that it was given, or one made now; a runner that was given none may make none."""
        if self.folder is None:
            self.folder = tempfile.mkdtemp(prefix="kata-")
            weakref.finalize(self, shutil.rmtree, self.folder, ignore_errors=True)
        return self.folder

    def call(self, target: Callable[..., Any], args: list[Any], kwargs: dict[str, Any]) -> Any:
        with self.guard():
            return target(*args, **kwargs)

    def get(self, target: tuple[str, int], name: str) -> Any:
        _, key = target
        with self.guard():
            value = getattr(self.objects[key], name)
        return Reference("method", [key, name]) if inspect.isroutine(value) else value

    def held(self, target: Callable[..., Any], args: list[Any], kwargs: dict[str, Any]) -> Any:
        return tree_map(lambda leaf: Reference(*self.keep(leaf)), self.call(target, args, kwargs))

    def inputs_after(self, target: Callable[..., Any], args: list[Any], kwargs: dict[str, Any]) -> Any:
        self.call(target, args, kwargs)
        return args

    def cost(self, target: Callable[..., Any], args: list[Any], kwargs: dict[str, Any]) -> dict[str, int]:
        with CostMode() as mode:
            self.call(target, args, kwargs)
        return {"flops": mode.flops, "largest_tensor": mode.largest}

    def steps(self, target: Callable[..., Any], args: list[Any], kwargs: dict[str, Any]) -> int:
        with StepCounter() as counter:
            self.call(target, args, kwargs)
        return counter.steps

    def gradients(self, target: Callable[..., Any], args: list[Any], kwargs: dict[str, Any], seed: int) -> Any:
        leaves = [leaf.requires_grad_() for leaf in tree_leaves([args, kwargs]) if differentiable(leaf)]
        named = target.named_parameters() if isinstance(target, torch.nn.Module) else ()
        trainable = {name: weight for name, weight in named if weight.requires_grad}  # a table of positions may be frozen
        sources = [*leaves, *trainable.values()]
        outputs = [leaf for leaf in tree_leaves(self.call(target, args, kwargs)) if differentiable(leaf)]
        generator = torch.Generator().manual_seed(seed)
        total = torch.zeros((), dtype=torch.float64)  # one number: grad_outputs would import sympy, half a second
        for out in outputs:
            upstream = torch.randn(out.shape, generator=generator, dtype=torch.float64)
            total = total + (out * upstream).sum()
        found: Sequence[Tensor | None] = [None] * len(sources)
        if total.requires_grad and sources:
            found = torch.autograd.grad(total, sources, allow_unused=True)
        filled = [torch.zeros_like(s) if g is None else g for s, g in zip(sources, found, strict=True)]
        return {
            "inputs": filled[: len(leaves)],
            "parameters": dict(zip(trainable, filled[len(leaves) :], strict=True)),
        }

    def parameters(self, target: Any, args: list[Any], kwargs: dict[str, Any]) -> list[tuple[str, list[int], int]]:
        named = module(target).named_parameters(remove_duplicate=False)
        return [(name, list(p.shape), id(p)) for name, p in named]

    def set_weights(self, target: Any, args: list[Any], kwargs: dict[str, Any]) -> None:
        weights.set_weights(module(target), *args)

    def initialize(self, target: Any, args: list[Any], kwargs: dict[str, Any]) -> None:
        weights.initialize(module(target), *args)

    def train(self, target: torch.nn.Module, args: list[Any], kwargs: dict[str, Any], seed: int) -> list[float]:
        with torch.enable_grad():
            return training.train(target, *args, watch=self.call, seed=seed)

    # References.

    def keep(self, value: Any) -> tuple[str, Any]:
        if id(value) not in self.keys:
            self.keys[id(value)] = len(self.objects)
            self.objects[len(self.objects)] = value
        return "new", [self.keys[id(value)], type(value).__name__]

    def wrap(self, value: Any) -> tuple[str, Any]:
        if isinstance(value, Reference):
            return value.kind, value.content
        if isinstance(value, torch.dtype) and value in NAMES:
            return "dtype", NAMES[value]
        return self.keep(value)

    def unwrapper(self, call_back: CallBack) -> Unwrap:
        def unwrap(kind: str, content: Any) -> Any:
            if kind == "name":
                return self.look_up(content)
            if kind == "object":
                return self.objects[content]
            if kind == "method":
                return getattr(self.objects[content[0]], content[1])
            if kind == "nn":
                return getattr(torch.nn, content)
            if kind == "given":
                return self.define(*content)
            if kind == "dtype":
                return DTYPES[content]
            return self.callback(content, call_back)

        return unwrap

    def define(self, source: str, name: str) -> Any:
        """A function or class of the grader, the same one until the run ends."""
        if source not in self.given:
            scope = {"torch": torch, "nn": torch.nn, "F": torch.nn.functional, "math": math, "__name__": "given"}
            exec(compiled(source), scope)
            self.given[source] = scope[name]
        return self.given[source]

    def callback(self, key: int, call_back: CallBack) -> Callable[..., Any]:
        """A function of the check, to be called by the implementation."""

        def function(*args: Any, **kwargs: Any) -> Any:
            reply = call_back(Written({"callback": key}, [list(args), kwargs], self.wrap))
            if "raised" in reply.header:
                raise RuntimeError(f"the function you called could not use these arguments: {reply.header['raised']}")
            return reply.open(self.unwrapper(call_back))

        return function

    def look_up(self, name: str) -> Any:
        try:
            return getattr(self.namespace, name)
        except AttributeError:
            file = self.namespace.__name__
            own = [n for n, v in vars(self.namespace).items() if getattr(v, "__module__", None) == file]
            near = difflib.get_close_matches(name, own, n=1, cutoff=0.5)
            hint = f"; is `{near[0]}` meant to be it?" if near else ""
            raise Missing(f"there is no `{name}` in the file{hint}") from None

    def describe(self, error: BaseException, header: dict[str, Any]) -> dict[str, Any]:
        """Type, text and the traceback from the implementation's first line on."""
        frames = traceback.extract_tb(error.__traceback__)
        path = self.namespace.__file__
        own = next((i for i, frame in enumerate(frames) if frame.filename == path), None)
        text = text_of(error)
        kind, called = header.get("target", ("", ""))
        if own is None and isinstance(error, TypeError) and kind == "name":
            text = f"`{called}` cannot be called as the contract says: {text}"
        ours = str(Path(__file__).parent)
        shown = [] if own is None else [frame for frame in frames[own:] if not frame.filename.startswith(ours)]
        types = [f"{cls.__module__}.{cls.__qualname__}"[:MAX_NAME] for cls in type(error).__mro__]
        return {"types": types[:10], "message": text[:MAX_TEXT], "traceback": "".join(traceback.format_list(shown))[-MAX_TEXT:]}


def text_of(error: BaseException) -> str:
    try:
        return str(error)
    except BaseException as another:  # `__str__` is the learner's code too
        return f"its own text cannot be made, for __str__ raises {type(another).__name__}"


@functools.lru_cache(1024)
def compiled(source: str) -> CodeType:
    return compile(source, "<the grader>", "exec", dont_inherit=True)


def empty(folder: Path) -> None:
    """Remove all that lies in a folder, links themselves and not where they lead, however deep it is nested."""
    while entries := list(os.scandir(folder)):
        for entry in entries:
            if not entry.is_dir(follow_symlinks=False):
                os.unlink(entry)
                continue
            os.chmod(entry, 0o700)
            for inner in list(os.scandir(entry)):  # up here, so that paths stay short
                os.rename(inner, folder / secrets.token_hex(16))
            os.rmdir(entry)


def module(target: Any) -> torch.nn.Module:
    """The target, which must be a module."""
    if not isinstance(target, torch.nn.Module):
        raise TypeError(f"{type(target).__name__} must be a torch.nn.Module with parameters")
    return target


class Reference:
    """A result that is to stay here, as what names it over there."""

    def __init__(self, kind: str, content: Any):
        self.kind, self.content = kind, content


def differentiable(leaf: Any) -> bool:
    return isinstance(leaf, Tensor) and leaf.is_floating_point()


class Local:
    """A channel to an implementation that we trust, in this process."""

    def __init__(self, namespace: ModuleType):
        self.host = Host(namespace)
        self.last: Any = None
        self.begins: int | None = None

    def exchange(self, message: Message, call_back: CallBack) -> Message:
        return self.host.answer(message, call_back)
