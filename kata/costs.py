"""What a computation costs, counted instead of timed.

Where tensors do the work, operations on them are counted; where plain Python
does it, the lines that it executes.

`torch.utils.flop_counter` holds the formulas of matrix products. It has none
for fused attention on a CPU, for matrix-vector products, and for a product
written as multiply and sum; those are added here. The count is a deterrent, not a lock:
NumPy and threads hide from it.
"""

from __future__ import annotations

import math
import sys
from types import FrameType
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

aten = torch.ops.aten


class CostMode(TorchDispatchMode):  # type: ignore[misc]  # PyTorch is skipped when types are checked
    """Counts floating-point operations of products and the numbers in the largest tensor made."""

    def __init__(self) -> None:
        super().__init__()
        self.flops = 0
        self.largest = 0

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # True imports torch._dynamo on first use, a second and more

    def __enter__(self) -> CostMode:
        # Subclasses such as that of causal_lower_right cannot be made under a mode: they are made outside of it.
        self.patched = [cls for cls in Tensor.__subclasses__() if "__new__" not in vars(cls)]
        for cls in self.patched:
            cls.__new__ = staticmethod(make_unseen)
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        for cls in self.patched:
            del cls.__new__

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        self.flops += flops(func._overloadpacket, args, kwargs or {}, out)
        if not func.is_view:
            made = [leaf.numel() for leaf in tree_leaves(out) if isinstance(leaf, Tensor)]
            self.largest = max([self.largest, *made])
        return out


def make_unseen(cls: Any, *args: Any, **kwargs: Any) -> Any:
    with _disable_current_modes():
        return Tensor.__new__(cls, *args, **kwargs)


def flops(operator: Any, args: Any, kwargs: Any, out: Any) -> int:
    """Floating-point operations of one call: two for each multiply-and-add."""
    if operator in flop_registry:
        return int(flop_registry[operator](*args, **kwargs, out_val=out))
    if operator is aten._scaled_dot_product_flash_attention_for_cpu:
        query, key, value = args[:3]
        *batch, L, D = query.shape
        return 2 * math.prod(batch) * L * key.shape[-2] * (D + value.shape[-1])
    if operator in (aten.mv, aten.dot, aten.vdot):
        return 2 * args[0].numel()
    if operator is aten.addmv:
        return 2 * args[1].numel()
    if operator in (aten.mul, aten.mul_):
        sizes = [arg.numel() for arg in args if isinstance(arg, Tensor)]
        if len(sizes) == 2 and out.numel() > max(sizes):  # an outer product: a sum follows
            return 2 * out.numel()
    return 0


class StepCounter:
    """Counts the lines and calls that Python executes inside the block.

    The count is the same for the same work, whatever the machine is doing.
    What C does, such as sorting or slicing, counts as part of its line.
    """

    def __init__(self) -> None:
        self.steps = 0

    def __enter__(self) -> StepCounter:
        self.before = sys.gettrace()  # of a debugger, or of who measures coverage
        sys.settrace(self.trace)
        return self

    def __exit__(self, *error: object) -> None:
        sys.settrace(self.before)

    def trace(self, frame: FrameType, event: str, arg: Any) -> Any:
        if event in ("call", "line"):
            self.steps += 1
        return self.trace
