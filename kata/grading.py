"""What a grader imports."""

from kata.checks import check
from kata.compare import at_most, close
from kata.dropping import fates, parts_kept
from kata.implementation import (
    beside,
    built_in,
    cost,
    failure,
    folder,
    gradients,
    held,
    initialized,
    inputs_after,
    parameters,
    steps,
    trained,
    with_weights,
)
from kata.inputs import booleans, choice, count, distinct, index, indices, normal, seed, size, text

__all__ = [
    "at_most",
    "beside",
    "booleans",
    "built_in",
    "check",
    "choice",
    "close",
    "cost",
    "count",
    "distinct",
    "failure",
    "fates",
    "folder",
    "gradients",
    "held",
    "index",
    "indices",
    "initialized",
    "inputs_after",
    "normal",
    "parameters",
    "parts_kept",
    "seed",
    "size",
    "steps",
    "text",
    "trained",
    "with_weights",
]
