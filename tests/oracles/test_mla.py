"""Oracles of mla: what proves the reference right, independently of it."""

from __future__ import annotations

import torch
from rooms import solution

mla = solution("mla")


def test_mla_equals_an_independent_computation() -> None:
    x = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(mla.mla(x), x)
