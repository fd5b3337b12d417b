"""Functions that do not end at some items, and say what they ran."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Callable
from typing import Any

from parallelkit.testing import Gate, Notes

from . import faults


def sleep() -> None:
    time.sleep(1000)


def loop_in_python() -> None:
    while True:
        pass


def compute_in_c() -> None:
    sum(range(10**13))  # never lets go of the GIL, never looks for signals


def ignore_signals() -> None:
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGALRM):
        signal.signal(number, signal.SIG_IGN)
    time.sleep(1000)


ENDLESS: dict[str, Callable[[], None]] = {
    function.__name__: function for function in (sleep, loop_in_python, compute_in_c, ignore_signals)
}
"""Only a process can be ended in one of these."""


def stay_in(name: str, place: int, runs: str, item: int) -> int:
    faults.note(runs, item)
    if item == place:
        ENDLESS[name]()
    return item


def wait_for(gate: Gate) -> None:
    """Wait until the gate is open, for ever if nobody opens it."""
    while True:
        try:
            gate.pass_through()
            return
        except TimeoutError:
            pass


def wait_at(places: tuple[int, ...], gate: Gate, runs: str, item: int) -> int:
    """The item; those at these places wait at the gate, which a thread that was abandoned can leave by."""
    faults.note(runs, item)
    if item in places:
        wait_for(gate)
    return item


def wait_at_once(place: int, gate: Gate, marker: str, runs: str, item: int) -> int:
    """As `wait_at`, but not if it has waited before."""
    faults.note(runs, item)
    if item == place:
        try:
            os.close(os.open(marker, os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            return item
        wait_for(gate)
    return item


def wait_and_tell(gate: Gate, notes: Notes, item: Any) -> Any:
    """Say in which process it waits, and wait."""
    notes.add(os.getpid())
    wait_for(gate)
    return item


async def await_at(places: tuple[int, ...], ended: str, runs: str, item: int) -> int:
    """The item; those at these places are awaited for ever, and say so when they are cancelled."""
    faults.note(runs, item)
    if item in places:
        try:
            await asyncio.sleep(1000)
        except asyncio.CancelledError:
            faults.note(ended, item)
            raise
    return item


def meet(notes: Notes, item: int) -> int:
    """Wait for another item that is run at the same time, by another worker."""
    notes.add(os.getpid())
    notes.wait_for(2)
    return item


def wait_from(place: int, gate: Gate, runs: str, item: int) -> int:
    """The item; all from that place on wait at the gate."""
    faults.note(runs, item)
    if item >= place:
        wait_for(gate)
    return item


def fail_or_wait_from(place: int, gate: Gate, runs: str, item: int) -> int:
    """As `wait_from`, but the one at that place fails."""
    faults.note(runs, item)
    if item == place:
        raise LookupError(item)
    if item > place:
        wait_for(gate)
    return item
