"""Oracles of rag: what proves the reference right, independently of it."""

from __future__ import annotations

import torch
from rooms import solution

rag = solution("rag")


def test_rag_equals_an_independent_computation() -> None:
    x = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(rag.rag(x), x)
