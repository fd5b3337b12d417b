"""How what a user asks for becomes a call: the checks, the work, the sizes of chunks, the window."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from time import monotonic
from typing import Any, Literal

from ._calls import MapCall, TaskCall
from ._core.chunks import Sliceable
from ._core.fold import LARGEST_LEAF
from ._core.splitters import CHUNK_SECONDS, EVENLY, SHARES, Adaptive, Fixed, Splitter
from ._driver import Driver
from ._options import RetryOn, check_callable, check_count, check_seconds, finite, retry_rule, source
from ._work import Work
from .backends import Backend

__all__ = ["READ_AHEAD_ITEMS", "open_map", "open_tasks", "splitter"]

FIRST_ITEMS = 64  # benchmarks/constants.py
"""Items in the first chunks of an input of known length, where tails can be taken back; else 1."""

FIRST_NUMBERS = 4096  # benchmarks/constants.py
"""Also where the length is not known, if items are numbers and all results are wanted at the end: to send
many costs nothing, and a worker gives back what it has no time for."""

PATIENCE_SECONDS = 0.25
"""After so long, a worker gives back the rest of a chunk, which was to take much less: others may wait, in
this call or in another on the same workers."""

GIVES_BACK = 2  # benchmarks/constants.py
"""With numbers, which cost nothing to be sent again, after so many times what chunks aim at."""

FOLD_SECONDS = 0.05
"""Chunks of a reduce aim at more run time than others: what they send back shrinks as they grow."""

STREAM_ITEMS = 32_768  # benchmarks/constants.py; `benchmarks/engine.py --rows 5` for the memory
"""Items of a stream that all workers together may be in: with those on their way, a few MiB of small ones."""

READ_AHEAD_ITEMS = 1024
"""Results of a list or another sized input that a stream computes before anybody reads them."""


def open_tasks(driver: Driver) -> TaskCall:
    """Where single calls of functions are submitted."""
    return TaskCall(driver, driver.new_scheduler(Fixed(1), window=math.inf, ordered=False))


def open_map(
    driver: Driver,
    backend_name: str,
    function: Callable[..., Any] | None,
    iterables: tuple[Iterable[Any], ...],
    *,
    style: Literal["map", "starmap"] = "map",
    combine: Callable[[Any, Any], Any] | None = None,
    ordered: bool = True,
    window: float | None = None,
    daemon: bool = False,
    whole: bool = False,
    gathers: bool = False,
    chunksize: int | None = None,
    buffersize: int | None = None,
    timeout: float | None = None,
    task_timeout: float | None = None,
    retries: int = 0,
    retry_on: RetryOn = Exception,
) -> MapCall:
    """Begin a map or a reduce; what the options mean: `CallOptions`, `MapCall`, `Scheduler`."""
    if function is not None or combine is None:
        check_callable(function)
    _check_numbers(chunksize, buffersize, retries, timeout, task_timeout)
    timeout, task_timeout = finite(timeout), finite(task_timeout)
    limit = None if timeout is None else (timeout, monotonic() + timeout)
    items, iterator = source(iterables)
    work = Work(function, "starmap" if len(iterables) > 1 else style, combine, bool(retries), task_timeout)
    backend = driver.backend
    _check_time_limit(work, backend, backend_name)
    rule = retry_rule(retry_on)
    cheap = whole and chunksize is None and not work.is_async and backend.depth > 1 and driver.usable
    if cheap:
        iterator, cheap = _begins_with_a_number(items, iterator)
    scheduler = driver.new_scheduler(
        splitter(
            backend,
            work,
            chunksize,
            sized=items is not None,
            cheap=cheap,
            most=STREAM_ITEMS if window is None else None,
        ),
        window=buffersize if buffersize is not None else window,
        least_window=READ_AHEAD_ITEMS if items is not None and backend.eager else 0,
        ordered=ordered,
        retries=retries,
        align=LARGEST_LEAF if combine is not None else 1,
    )
    return MapCall(
        driver,
        work,
        scheduler,
        items=items,
        source=iterator,
        limit=limit,
        daemon=daemon,
        whole=whole and not threading.current_thread().daemon,
        gathers=gathers and buffersize is None,
        worth_retrying=rule if retries else None,
    )


def _check_numbers(
    chunksize: int | None,
    buffersize: int | None,
    retries: int,
    timeout: float | None,
    task_timeout: float | None,
) -> None:
    check_count("chunksize", chunksize)
    check_count("buffersize", buffersize)
    check_count("retries", retries, least=0)
    check_seconds("timeout", timeout)
    check_seconds("task_timeout", task_timeout)


def _check_time_limit(work: Work, backend: Backend, backend_name: str) -> None:
    if work.task_timeout is not None and not (work.is_async or backend.can_abandon):
        raise ValueError(
            f"the {backend_name!r} backend cannot end a plain function that runs, so it has no "
            "task_timeout; pass an async function, or choose the backend 'process' or 'thread'"
        )


def splitter(
    backend: Backend,
    work: Work,
    chunksize: int | None,
    *,
    sized: bool,
    most: int | None,
    cheap: bool = False,
) -> Splitter:
    """How big the chunks of a call are; the work is told how long a worker may keep one.

    Args:
        chunksize: items, where the caller says so.
        sized: the input can be sliced.
        cheap: to send many items costs nothing, a worker may give them back, and nobody waits for the first.
        most: items that all workers together may be in; None for any number.
    """
    if chunksize is not None:
        return Fixed(chunksize)
    chunk_seconds = CHUNK_SECONDS if work.combine is None else FOLD_SECONDS
    if backend.eager:
        work.chunk_seconds = GIVES_BACK * chunk_seconds if cheap else PATIENCE_SECONDS
    first = FIRST_NUMBERS if cheap else FIRST_ITEMS if backend.can_give_back else 1
    shares = SHARES
    if backend.can_give_back:
        shares = EVENLY if backend.depth == 1 else 1
    least = backend.lanes if work.is_async else 1
    if work.combine is not None and sized:
        most = None  # what is read of it is a slice, and what comes back of it some nodes
    return Adaptive(
        max(first, least),
        chunk_seconds,
        least,
        most,
        shares,
        blind=max(first if sized or cheap else 1, least),
    )


def _begins_with_a_number(
    items: Sliceable | None, source: Iterator[Any] | None
) -> tuple[Iterator[Any] | None, bool]:
    """The same iterator, where there is one, and whether the first item of the input is a number."""
    if source is None:
        if isinstance(items, (list, tuple)):
            return None, bool(items) and type(items[0]) in _NUMBERS
        return None, type(items) is range
    try:
        first = [next(source)]
    except StopIteration:
        return source, False
    except BaseException as error:
        return _raising(error), False
    return chain(_popped(first), source), type(first[0]) in _NUMBERS


def _popped(items: list[Any]) -> Iterator[Any]:
    """The last item, of which nothing is kept."""
    yield items.pop()


def _raising(error: BaseException) -> Iterator[Any]:
    """What raises an error when it is read."""
    raise error
    yield


_NUMBERS = frozenset((int, float, complex, bool))
