"""How the lessons draw: one look for all, readable in grey; needs matplotlib."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import torch
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator
from torch import Tensor

LOOK = {
    "figure.dpi": 90,
    "figure.figsize": (7.0, 3.0),
    "figure.constrained_layout.use": True,
    "image.cmap": "Greys",
    "axes.prop_cycle": plt.cycler(color=["black", "0.45", "0.65"]) * plt.cycler(linestyle=["-", "--", ":"]),
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": "medium",
    "legend.frameon": False,
}
NUMBERED = 100  # cells that still have room for their numbers


def look() -> None:
    """Draw from now on as all lessons do."""
    plt.rcParams.update(LOOK)


def heat_map(
    ax: Axes,
    values: Tensor,
    title: str = "",
    rows: Sequence[Any] | str = (),
    columns: Sequence[Any] | str = (),
    numbers: str | None = "{:.2f}",
    limits: tuple[float, float] | None = None,
) -> None:
    """A matrix as shades of grey, dark where it is large, with its numbers where there is room.

    Args:
        values: (rows, columns), numbers or booleans (black where True).
        rows, columns: labels of each, or one for the whole axis.
        numbers: how a number is written; None for none.
        limits: what is white and what is black; least and largest by default.
    """
    shown = values.detach().to(torch.float64)
    finite = shown[shown.isfinite()]
    low, high = limits or ((0.0, 1.0) if values.dtype == torch.bool else (float(finite.min()), float(finite.max())))
    ax.imshow(shown.nan_to_num(nan=low, neginf=low, posinf=high), vmin=low, vmax=high, aspect="equal", interpolation="nearest")
    ax.set_title(title)
    sides = ((columns, ax.xaxis, ax.set_xticks, ax.set_xlabel), (rows, ax.yaxis, ax.set_yticks, ax.set_ylabel))
    for labels, axis, ticks, label in sides:
        if isinstance(labels, str):
            label(labels)
            axis.set_major_locator(MaxNLocator(integer=True))
        elif labels:
            ticks(range(len(labels)), [str(each) for each in labels])
            ax.tick_params(length=0)
    if values.dtype != torch.bool and numbers and values.numel() <= NUMBERED:
        middle = (low + high) / 2
        for i, row in enumerate(shown.tolist()):
            for j, value in enumerate(row):
                text = numbers.format(value).replace("-0.00", "0.00")
                ax.text(j, i, text, ha="center", va="center", color="white" if value > middle else "black", size=8)
