"""What is asked after a fault: is the executor usable, what ran, what is the cause of an error."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from parallelkit import Executor, RemoteError
from parallelkit.testing import Gate
from programs.watching import METHODS, PATIENCE

FORK_WARNING = "ignore:This process .* is multi-threaded, use of fork:DeprecationWarning"
"""From 3.12 on; the workers of these tests survive it."""


def on_each_method(
    cells: Iterable[Any], daily: Callable[..., bool] = lambda *cell: False
) -> list[tuple[Any, ...]]:
    """The cells of a table on each start method, as `method, *cell`: all of them on the quickest.

    On the others only those are run by default that `daily` says, the rest with the slow tests.
    """
    return [
        pytest.param(method, *cell, marks=() if method == METHODS[0] or daily(*cell) else (pytest.mark.slow,))
        for method in METHODS
        for cell in cells
    ]


quickest_daily = pytest.mark.parametrize("method", on_each_method([()]))
"""For a test on each start method: by default only on the quickest."""


EVERYWHERE = ["thread", "asyncio", *METHODS]
"""Kinds of workers: processes by their start method."""


def new_executor(method: str, max_workers: int = 2, **options: Any) -> Executor:
    """An executor on workers of one kind of `EVERYWHERE`."""
    if method in METHODS:
        return Executor("process", max_workers, method, **options)
    return Executor(method, max_workers, **options)


@cache
def start_services(method: str) -> None:
    """Have multiprocessing start what it starts once for all, and leaves: its fork server, its tracker."""
    with Executor("process", 1, method) as executor:
        executor.submit(abs, -1).result()


def check_usable(executor: Executor) -> None:
    """The same executor works as if nothing had been."""
    results = list(executor.map(abs, range(-5, 0), timeout=PATIENCE))
    assert results == [5, 4, 3, 2, 1], "the executor is not usable"
    assert executor.submit(abs, -7).result(PATIENCE) == 7


def lines(path: str) -> list[str]:
    return Path(path).read_text().split()


def counted(path: str) -> Counter[int]:
    """How often each number is in the file that `faults.note` has written."""
    return Counter(map(int, lines(path)))


def failed(results: list[Any]) -> list[int]:
    """The positions of what is an exception."""
    return [position for position, result in enumerate(results) if isinstance(result, Exception)]


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """The error, its cause, the cause of that, and so on."""
    while error is not None:
        yield error
        error = error.__cause__


def is_caused_by(error: BaseException, name: str) -> bool:
    """Whether something of that class is among the causes, be it by a stand-in that says so."""
    return any(
        type(cause).__name__ == name or (isinstance(cause, RemoteError) and cause.type_name == name)
        for cause in causes(error)
    )


@contextmanager
def nobody_reads(executor: Executor, folder: Path) -> Iterator[Callable[[], None]]:
    """The thread that reads answers is held in a callback, from the moment that the given function is called.

    Until then the only worker waits in an item, so that what is asked of it meanwhile comes right after.
    """
    gate = Gate(folder, "first gate")
    held, leave = threading.Event(), threading.Event()

    def hold(future: Future[Any]) -> None:
        held.set()
        leave.wait(PATIENCE)

    def begin() -> None:
        gate.open()
        assert held.wait(PATIENCE)

    first = executor.submit(gate.pass_through, "first")
    first.add_done_callback(hold)
    try:
        yield begin
    finally:
        leave.set()
    assert first.result() == "first"
