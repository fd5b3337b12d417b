"""Messages that no pipe holds at once."""

from __future__ import annotations

import os
from typing import Any

from parallelkit.testing import Gate, Notes

from . import faults

BYTES = 16 << 20


def new(kind: str) -> Any:
    if kind == "pipe":
        return bytes(BYTES)
    import numpy as np

    return np.zeros(BYTES, np.uint8)


def make(kind: str, notes: Notes) -> Any:
    """Say that a result is on its way."""
    made = new(kind)
    notes.add("made")
    return made


def make_at(place: int, kind: str, notes: Notes, runs: str, item: int) -> Any:
    faults.note(runs, item)
    return make(kind, notes) if item == place else item


def wait_at(gate: Gate, notes: Notes, item: Any) -> Any:
    """Say who waits, and wait."""
    notes.add(os.getpid())
    return gate.pass_through(item)


def size_of(notes: Notes, item: Any) -> int:
    notes.add("measured")
    return len(item)


def with_size_of(notes: Notes, large: Any, item: int) -> int:
    return size_of(notes, large)
