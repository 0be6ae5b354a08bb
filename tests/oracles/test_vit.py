"""Oracles of vit: what proves the reference right, independently of it."""

from __future__ import annotations

import torch
from rooms import solution

vit = solution("vit")


def test_vit_equals_an_independent_computation() -> None:
    x = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(vit.vit(x), x)
