"""Functions that end their worker at some items, and say what they ran."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any

from parallelkit.testing import Gate, Notes

from . import faults


def double_or_die_at(places: tuple[int, ...], runs: str, item: int) -> int:
    """Twice the item, but each one of those places ends the worker."""
    faults.note(runs, item)
    if item in places:
        faults.die_by_signal()
    return 2 * item


def double_or_die_once(place: int, marker: str, runs: str, item: int) -> int:
    """Twice the item; the one at that place ends the worker, unless it did so before."""
    faults.note(runs, item)
    if item == place:
        try:
            os.close(os.open(marker, os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            return 2 * item
        faults.die_by_signal()
    return 2 * item


def cheap_or_die(place: int, item: int) -> int:
    """The item, at once, but the one at that place ends the worker."""
    if item == place:
        faults.die_by_signal()
    return item


def short_or_die(place: int, item: int) -> int:
    """The item, after some 10 µs, but the one at that place ends the worker."""
    sum(range(1000))
    return cheap_or_die(place, item)


def wait_at_place(place: int, gate: Gate, notes: Notes, runs: str, item: int) -> int:
    """The item; the one at that place says in which process it is, and waits."""
    faults.note(runs, item)
    if item == place:
        notes.add(os.getpid())
        gate.pass_through()
    return item


def as_pairs(function: Callable[[int], Any], item: int) -> Iterator[tuple[int, Any]]:
    """One pair: whether the item is odd, and what the function says of it."""
    yield item % 2, function(item)


def pairs_or_die(place: int, runs: str, item: int) -> Iterator[tuple[int, int]]:
    yield item % 2, faults.double_or_die(faults.die_by_signal, place, runs, item)
