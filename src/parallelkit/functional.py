"""The helpers: one function call, on workers that are kept warm between calls."""

from __future__ import annotations

import os
import threading
from collections.abc import Awaitable, Callable, Iterable, Iterator
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, Any, Literal, TypeVar, overload

from ._alarm import Alarm, call_at
from ._options import CallOptions, MapOptions, check_options
from ._worker import current_worker
from .executor import _MISSING, Executor

if TYPE_CHECKING:
    from typing import Unpack

__all__ = ["pimap", "pmap", "pmap_reduce", "preduce"]

IDLE_SECONDS = 60.0
"""Workers that no call has used for so long are let go; starting them again takes a fraction of a second."""

T = TypeVar("T")
R = TypeVar("R")
K = TypeVar("K")
V = TypeVar("V")


@overload
def pmap(
    function: Callable[[T], Awaitable[R]],
    iterable: Iterable[T],
    /,
    *,
    backend: str | None = ...,
    max_workers: int | None = ...,
    return_exceptions: Literal[False] = ...,
    **options: Unpack[CallOptions],
) -> list[R]: ...
@overload
def pmap(
    function: Callable[[T], R],
    iterable: Iterable[T],
    /,
    *,
    backend: str | None = ...,
    max_workers: int | None = ...,
    return_exceptions: Literal[False] = ...,
    **options: Unpack[CallOptions],
) -> list[R]: ...
@overload
def pmap(
    function: Callable[..., R],
    /,
    *iterables: Iterable[Any],
    backend: str | None = ...,
    max_workers: int | None = ...,
    return_exceptions: Literal[False] = ...,
    **options: Unpack[CallOptions],
) -> list[R]: ...
@overload
def pmap(
    function: Callable[..., R],
    /,
    *iterables: Iterable[Any],
    backend: str | None = ...,
    max_workers: int | None = ...,
    return_exceptions: bool,
    **options: Unpack[CallOptions],
) -> list[R | Exception]: ...
def pmap(
    function: Callable[..., Any],
    /,
    *iterables: Iterable[Any],
    backend: str | None = None,
    max_workers: int | None = None,
    return_exceptions: bool = False,
    **options: Unpack[CallOptions],
) -> list[Any]:
    """Call `function` with the items of the iterables, on several workers: `list(map(...))`, in parallel.

    Args:
        function: any callable: a lambda, a closure, a method, an `async def`. It need not be importable.
        iterables: as for `map`: the shortest ends the call.
        backend: "process" (the default), "thread", "asyncio", "serial", or an installed one. In a worker the
            default is "serial": its cores are busy already.
        max_workers: None for what suits the backend.
        return_exceptions: put an item's exception in its place; else the first that is seen is raised,
            at once, with the traceback of the worker and a note that names the item.
        options: see `CallOptions`: chunksize, buffersize, timeout, task_timeout, retries, retry_on.

    Returns:
        The results, in the order of the input.

    >>> pmap(abs, [-1, 2, -3], backend="thread")
    [1, 2, 3]
    """
    check_options(options, CallOptions, "pmap")
    with _warm(backend, max_workers) as executor:
        return executor._map_to_list(function, iterables, return_exceptions, **options)


def pimap(
    function: Callable[..., Any],
    /,
    *iterables: Iterable[Any],
    backend: str | None = None,
    max_workers: int | None = None,
    ordered: bool = True,
    **options: Unpack[MapOptions],
) -> Iterator[Any]:
    """As `pmap`, but the results stream: an iterator, over inputs that may be endless, in bounded memory.

    The input is read a few chunks ahead of the results that were taken, in the thread that takes them. To
    leave the loop, or to drop the iterator, ends the work.

    Args:
        ordered: results in the order of the input; with False as they come.
        options: see `MapOptions`; `buffersize` bounds how many items are ahead of the results taken.

    >>> from itertools import count, islice
    >>> list(islice(pimap(abs, count(-3), backend="thread"), 5))
    [3, 2, 1, 0, 1]
    """
    check_options(options, MapOptions, "pimap")
    lease = _warm(backend, max_workers)
    executor = lease.__enter__()
    try:
        return executor._map_to_stream(function, iterables, lease.release, ordered=ordered, **options)
    except BaseException:
        lease.release()
        raise


def preduce(
    combine: Callable[[Any, Any], Any],
    iterable: Iterable[Any],
    /,
    *,
    map: Callable[[Any], Any] | None = None,
    initial: Any = _MISSING,
    backend: str | None = None,
    max_workers: int | None = None,
    **options: Unpack[CallOptions],
) -> Any:
    """Combine all items (with `map`, what it returns for each) into one value, on several workers.

    The value is a function of the input: the same to the last bit whatever the backend, the number of
    workers and the timing, also for floats. See `Executor.reduce`.

    Args:
        combine: associative, of two values; it need not be commutative.
        initial: enters once, on the left.
        options: see `CallOptions`.

    Raises:
        TypeError: there are no items and no `initial`.

    >>> import operator
    >>> preduce(operator.add, range(5), map=float, backend="thread")
    10.0
    """
    check_options(options, CallOptions, "preduce")
    with _warm(backend, max_workers) as executor:
        return executor.reduce(combine, iterable, map=map, initial=initial, **options)


def pmap_reduce(
    mapper: Callable[[T], Iterable[tuple[K, V]]],
    combine: Callable[[V, V], V],
    iterable: Iterable[T],
    /,
    *,
    backend: str | None = None,
    max_workers: int | None = None,
    **options: Unpack[CallOptions],
) -> dict[K, V]:
    """Group and combine: `mapper` gives (key, value) pairs for each item, the values of a key are combined.

    Args:
        mapper: a function that returns pairs, or a generator function that yields them.
        combine: associative, of two values of one key.
        options: see `CallOptions`.

    Returns:
        {key: combined value}, keys in the order of their first appearance in the input.

    >>> import operator
    >>> pmap_reduce(
    ...     lambda word: [(letter, 1) for letter in word], operator.add, ["ab", "b"], backend="thread"
    ... )
    {'a': 1, 'b': 2}
    """
    check_options(options, CallOptions, "pmap_reduce")
    with _warm(backend, max_workers) as executor:
        return executor.map_reduce(mapper, combine, iterable, **options)


class _Warm:
    """An executor that stays open between calls, and is closed when no call has used it for a while."""

    def __init__(self, backend: str, max_workers: int | None):
        self.executor = Executor(backend, max_workers)
        self._users = 0
        self._idle_since = 0.0
        # One at a time: to set one for each call would wake the clock's thread.
        self._alarm: Alarm | None = None

    def use(self) -> None:
        self._users += 1

    def unuse(self, close: Callable[[], object]) -> None:
        self._users -= 1
        self._idle_since = monotonic()
        if self._alarm is None:
            self._alarm = call_at(self._idle_since + IDLE_SECONDS, close)

    def is_due(self, close: Callable[[], object]) -> bool:
        """The alarm has rung: has no call used it for so long? Else the alarm is set again in time."""
        self._alarm = None
        if self._users:
            return False  # who leaves it sets it
        idle_until = self._idle_since + IDLE_SECONDS
        if monotonic() < idle_until:
            self._alarm = call_at(idle_until, close)
            return False
        return True


class _Lease:
    """The use of a warm executor, until it is released; more than once does no harm."""

    def __init__(self, key: tuple[str, int | None]):
        self._key = key
        self._warm: _Warm | None = None

    def __enter__(self) -> Executor:
        if self._key[0] == "serial":
            # Nothing to keep warm; and a call within an item of another must not wait for it to end.
            return Executor(*self._key)
        with _lock:
            warm = _executors.get(self._key)
            if warm is None or not warm.executor.usable:
                warm = _executors[self._key] = _Warm(*self._key)
            warm.use()
            self._warm = warm
            return warm.executor

    def __exit__(self, *exc_info: object) -> None:
        self.release()

    def release(self) -> None:
        with _lock:
            warm, self._warm = self._warm, None
            if warm is not None:
                warm.unuse(partial(_close_idle, self._key, warm))


def _warm(backend: str | None, max_workers: int | None) -> _Lease:
    if backend is None:
        backend = "process" if current_worker() is None else "serial"
    if not isinstance(backend, str):
        raise TypeError(f"backend must be a name such as 'process' or 'thread', not {backend!r}")
    return _Lease((backend, max_workers))


def _close_idle(key: tuple[str, int | None], warm: _Warm) -> None:
    with _lock:
        if _executors.get(key) is not warm or not warm.is_due(partial(_close_idle, key, warm)):
            return
        del _executors[key]
    warm.executor.shutdown(wait=False)


_executors: dict[tuple[str, int | None], _Warm] = {}
_lock = threading.RLock()  # a dropped iterator releases its lease from within a garbage collection


def _start_afresh() -> None:
    """A forked child must not use the executors of its parent; nor may it end their workers."""
    global _lock
    _lock = threading.RLock()
    _executors.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_start_afresh)
