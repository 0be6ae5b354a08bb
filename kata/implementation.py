"""An implementation as a check sees it, wherever it lives.

A check runs in the judge. Each `impl.name(...)` is a question over a channel:
for the reference and the known mistakes the channel ends in this process, for
the learner's file in another one. Values come back as values; anything else,
a module or a cache, stays where it is and comes back as an `Object`.
"""

from __future__ import annotations

import functools
import inspect
import textwrap
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import torch
from torch import Tensor

from kata.loading import PARSING
from kata.wire import DTYPES, NAMES, Malformed, Message, Written, harmless, opened


class ImplementationRaised(Exception):
    """The implementation raised; `outcome` says what."""

    def __init__(self, types: tuple[str, ...], message: str, traceback: str):
        super().__init__(message)
        self.types, self.message, self.traceback = types, message, traceback

    @property
    def builtin(self) -> str:
        """The name of the nearest of Python's own exception classes."""
        builtins = [name for name in self.types if name.startswith("builtins.")]
        return (builtins or self.types)[0].removeprefix("builtins.")


def exception_from(raised: Any) -> ImplementationRaised:
    """The exception that a reply tells of.

    Raises:
        Malformed: it tells of none.
    """
    try:
        types = tuple(harmless(name, 200) for name in raised["types"])
        return ImplementationRaised(types or ("Exception",), harmless(raised["message"]), harmless(raised["traceback"]))
    except (KeyError, TypeError, IndexError) as error:
        raise Malformed("an exception came without its type and text") from error


class Channel(Protocol):
    """Carries one request to an implementation and its reply back."""

    last: Any  # what came back last
    begins: int | None  # the seed of a run that begins with the next request

    def exchange(self, message: Written, call_back: Callable[[Message], Written]) -> Message: ...


class Implementation:
    """`impl.attention(q, k, v)` asks the implementation's `attention`."""

    def __init__(self, channel: Channel):
        self._channel = channel

    def __getattr__(self, name: str) -> Function:
        return Function(self._channel, "name", name)


class Function:
    """Something in an implementation that can be called."""

    def __init__(self, channel: Channel, kind: str = "", content: Any = None):
        self._channel, self._target = channel, (kind, content)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return ask("call", self, args, kwargs)


class Method(Function):
    """A method of an object over there."""

    def __init__(self, channel: Channel, owner: int, name: str):
        super().__init__(channel, "method", [owner, name])
        self._name = name


class Object(Function):
    """An object over there: its attributes and methods are asked for when used."""

    def __init__(self, channel: Channel, key: int, type_name: str):
        super().__init__(channel, "object", key)
        self._type = type_name

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        value = ask("get", self, (), {}, name=name)
        if isinstance(value, Method):
            self.__dict__[name] = value  # methods stay what they are
        return value


def ask(operation: str, target: Function, args: tuple[Any, ...], kwargs: dict[str, Any], **extra: Any) -> Any:
    """Put one question to the implementation behind `target`.

    Raises:
        ImplementationRaised: it raised.
    """
    channel = target._channel
    callbacks: list[Callable[..., Any]] = []

    def wrap(value: Any) -> tuple[str, Any]:
        if isinstance(value, Function):
            return value._target
        if isinstance(value, torch.dtype):
            return "dtype", NAMES[value]
        if callable(value):
            callbacks.append(value)
            return "callback", len(callbacks) - 1
        raise TypeError(f"a check cannot pass on {value!r}")

    def unwrap(kind: str, content: Any) -> Any:
        if kind == "new":
            return Object(channel, int(content[0]), harmless(content[1], 200))
        if kind == "method":
            return Method(channel, int(content[0]), str(content[1]))
        if kind == "dtype":
            return DTYPES[content]
        raise Malformed(f"a value of an unknown kind: {str(kind)[:40]!r}")

    def call_back(request: Message) -> Written:
        try:
            function = callbacks[request.header["callback"]]
            values, named = opened(request, unwrap)
        except (IndexError, TypeError, ValueError) as error:
            raise Malformed("it called back what it was never given") from error
        try:
            return Written({}, function(*values, **named), wrap)
        except ImplementationRaised as error:
            return Written({"raised": f"{error.builtin}: {error.message}"})
        except Exception as error:
            return Written({"raised": f"{type(error).__name__}: {error}"})

    header = {"do": operation, "target": target._target, **extra}
    if channel.begins is not None:
        header["begins"], channel.begins = channel.begins, None
    reply = channel.exchange(Written(header, [list(args), kwargs], wrap), call_back)
    if "raised" in reply.header:
        raise exception_from(reply.header["raised"])
    channel.last = opened(reply, unwrap)
    return channel.last


# What checks use beside plain calls.


def built_in(impl: Implementation, name: str, *args: Any, **kwargs: Any) -> Function:
    """One of PyTorch's own modules, made beside the implementation, to be passed to it: `built_in(impl, "Linear", 4, 4)`."""
    return ask("call", Function(impl._channel, "nn", name), args, kwargs)


def beside(impl: Implementation, given: Callable[..., Any]) -> Function:
    """A function or class of the grader, made anew beside the implementation: to be called there, or passed to it.

    For what must live where the answer lives: toy models, losses that carry a
    gradient, generators. It must be whole in itself; `torch`, `nn`, `F` and
    `math` are there, other modules it imports inside.
    """
    return Function(impl._channel, "given", [source_of(given), given.__name__])


@functools.lru_cache(1024)
def source_of(given: Callable[..., Any]) -> str:
    with PARSING:  # which the source of a class needs
        return textwrap.dedent(inspect.getsource(given))


def folder(impl: Implementation) -> str:
    """A folder beside the implementation, empty when a check's run begins; for topics that say `files = true` in the curriculum."""
    return ask("folder", Function(impl._channel), (), {})


def gradients(function: Function, *args: Any, seed: int = 0, **kwargs: Any) -> dict[str, Any]:
    """Gradients under a random upstream gradient.

    Returns:
        {"inputs": a gradient for each floating-point tensor among the
        arguments, "parameters": {name: gradient} if the function is a
        module}; zeros where none flows.
    """
    return ask("gradients", function, args, kwargs, seed=seed)


def cost(function: Function, *args: Any, **kwargs: Any) -> dict[str, int]:
    """What one call costs: {"flops": ..., "largest_tensor": numbers in it}; compare with `at_most`."""
    return ask("cost", function, args, kwargs)


def steps(function: Function, *args: Any, **kwargs: Any) -> int:
    """What one call costs in plain Python: the lines and calls that it executes, the same each time.

    Compare how the count grows with the input, not the count: styles differ.
    """
    return ask("steps", function, args, kwargs)


def inputs_after(function: Function, *args: Any, **kwargs: Any) -> list[Any]:
    """The arguments as they are after the call: unchanged, if all is well."""
    return ask("inputs_after", function, args, kwargs)


def held(function: Function, *args: Any, **kwargs: Any) -> Any:
    """The result as objects that stay over there, to ask for their storage or their graph."""
    return ask("held", function, args, kwargs)


def failure(function: Function, *args: Any, **kwargs: Any) -> tuple[str, str]:
    """The exception that a call ends in: its nearest built-in class and its text."""
    try:
        function(*args, **kwargs)
    except ImplementationRaised as error:
        if error.builtin == "NotImplementedError":
            raise
        return error.builtin, error.message
    return "nothing was raised", ""


class Parameters(dict[str, list[int]]):
    """Shapes by name; `same` says of each name which tensor it is."""

    def __init__(self, found: list[tuple[str, list[int], int]]):
        super().__init__((name, shape) for name, shape, _ in found)
        self.same = {name: int(tensor) for name, _, tensor in found}  # whoever answers may have written anything


def parameters(module: Function) -> Parameters:
    """Names and shapes of a module's parameters, tied ones under each of their names.

    Compared with the reference's, a parameter may have further names beside those asked for.
    """
    return Parameters(ask("parameters", module, (), {}))


def with_weights(
    module: Function,
    seed: int,
    dtype: torch.dtype = torch.float64,
    constant: Mapping[str, float] | None = None,
    times: Mapping[str, float] | None = None,
) -> Function:
    """The module in this dtype, each parameter drawn from the seed, its name and its shape.

    Args:
        constant: numbers that fill parameters instead, by a part of their names.
        times: factors for what others are filled with, by their names.
    """
    ask("set_weights", module, (seed, dtype, dict(constant or {}), dict(times or {})), {})
    return module


def initialized(module: Function, seed: int) -> Function:
    """The module in float32 as before training: matrices N(0, 1 / fan-in) from the seed, biases zero, other vectors one."""
    ask("initialize", module, (seed,), {})
    return module


def trained(
    module: Function,
    data: list[Tensor],
    picks: Tensor,
    lr: float,
    ignore_index: int = -100,
    report: Callable[[int, float], Any] | None = None,
    seed: int = 0,
) -> list[float]:
    """Train a module in place by Adam on cross-entropy, and put it into evaluation mode.

    Args:
        data: inputs, (N, ...) each, and last the targets, (N, L).
        picks: which rows make the batch of each step, (steps, B).
        report: called now and then with the step and its loss.

    Returns:
        The loss of each step, as the other side tells it; what the module has
        learnt is to be measured by asking it.
    """
    return ask("train", module, (data, picks, lr, ignore_index, report), {}, seed=seed)
