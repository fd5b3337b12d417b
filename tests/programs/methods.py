"""The ways to start a process, as parameters of tests."""

from __future__ import annotations

import pytest

from .watching import METHODS

__all__ = ["SPAWN_IS_SLOW"]

SPAWN_IS_SLOW = [
    pytest.param(method, marks=(pytest.mark.slow,) if method == "spawn" and len(METHODS) > 1 else ())
    for method in METHODS
]
"""A third of the time of all tests was that of spawn, where each worker starts an interpreter. CI runs it."""
