"""`Executor`: a `concurrent.futures.Executor` over any backend, with maps that stream and reduces."""

from __future__ import annotations

import concurrent.futures
import math
import os
import signal
import sys
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from ._alarm import call_at
from ._calls import MapCall, Task, TaskFuture
from ._core.fold import Fold
from ._core.keyed import KeyedCombine, KeyedMap
from ._driver import Driver
from ._lifetime import end_all
from ._opening import open_map, open_tasks
from ._options import (
    CallOptions,
    MapOptions,
    RetryOn,
    check_callable,
    check_count,
    check_options,
    check_seconds,
    finite,
)
from ._reading import raise_first, released, results, unread, values
from ._work import Work, harmless
from .backends import Backend, new_backend
from .backends.base import Stats
from .errors import WorkerDied

if TYPE_CHECKING:
    from multiprocessing.context import BaseContext
    from typing import Unpack

__all__ = ["CallOptions", "Executor", "MapOptions"]

T = TypeVar("T")
R = TypeVar("R")
K = TypeVar("K")
V = TypeVar("V")

_MISSING: Any = object()


class Executor(concurrent.futures.Executor):
    """Runs functions on workers: threads, processes, coroutines.

    A drop-in for `concurrent.futures.ProcessPoolExecutor` and `ThreadPoolExecutor`; the parameters
    are spelled as theirs.

    Args:
        backend: "process", "thread", "asyncio", "serial", the name of an installed backend, or a `Backend`.
        max_workers: the number of workers, at least 1; None for what suits the backend: `cpu_count()`
            processes, `cpu_count() + 4` threads (at most 32), 100 coroutines.
        mp_context: process only: a multiprocessing context, or "fork", "forkserver", "spawn". None for
            forkserver where there is one, else spawn.
        initializer, initargs: called in each worker before its first item.
        finalizer: called in each worker, without arguments, when it leaves in good order.
        max_tasks_per_child: process only: a worker is replaced after this many items, between two of them.
        max_memory_per_child: process only: a worker that has more in memory (its resident set without what
            it shares with others, in bytes) is replaced, between two items.
        thread_name_prefix: thread and asyncio only.

    Raises:
        ValueError: there is no such backend, or a number is out of its range.
        TypeError: an argument is of the wrong type, or not for this backend.

    >>> with Executor("thread", max_workers=2) as executor:
    ...     future = executor.submit(pow, 2, 10)
    ...     list(executor.map(abs, [-1, -2, 3])), future.result()
    ([1, 2, 3], 1024)
    """

    def __init__(
        self,
        backend: str | Backend = "process",
        max_workers: int | None = None,
        mp_context: BaseContext | str | None = None,
        initializer: Callable[..., object] | None = None,
        initargs: tuple[Any, ...] = (),
        *,
        finalizer: Callable[[], object] | None = None,
        max_tasks_per_child: int | None = None,
        max_memory_per_child: int | None = None,
        thread_name_prefix: str = "",
    ):
        check_count("max_workers", max_workers)
        check_count("max_tasks_per_child", max_tasks_per_child)
        check_count("max_memory_per_child", max_memory_per_child)
        for name, function in (("initializer", initializer), ("finalizer", finalizer)):
            if function is not None and not callable(function):
                raise TypeError(f"{name} must be a function, not {function!r}")
        if not isinstance(initargs, tuple | list):
            raise TypeError(f"initargs must be a tuple of arguments, not {initargs!r}")
        options = {
            "mp_context": mp_context,
            "initializer": partial(initializer, *initargs) if initializer is not None else None,
            "finalizer": finalizer,
            "max_tasks_per_child": max_tasks_per_child,
            "max_memory_per_child": max_memory_per_child,
            "thread_name_prefix": thread_name_prefix or None,
        }
        if isinstance(backend, Backend):
            for name, value in {"max_workers": max_workers, **options}.items():
                if value is not None:
                    raise TypeError(f"a backend that is made already takes no {name}; make it with that")
        self._name = backend if isinstance(backend, str) else type(backend).__name__
        self._driver = driver = Driver(
            backend if isinstance(backend, Backend) else new_backend(backend, max_workers, options)
        )
        self._backend = driver.backend
        _finish_in_time()
        self._open = partial(open_map, driver, self._name)
        self._tasks = open_tasks(driver)
        # When the last reference goes: what was asked for is done, then the workers leave.
        weakref.finalize(self, driver.close).atexit = False

    def __repr__(self) -> str:
        state = ", shut down" if self._driver.closing else ""
        return f"<parallelkit.Executor {self._name!r}, {self._driver.workers} workers{state}>"

    # One call of a function

    def submit(self, fn: Callable[..., R], /, *args: Any, **kwargs: Any) -> concurrent.futures.Future[R]:
        """Call `fn(*args, **kwargs)` on a worker.

        Returns:
            A `concurrent.futures.Future`. Of an `async def`, the future of what its coroutine returns.

        Raises:
            RuntimeError: the executor is shut down.
        """
        check_callable(fn)
        future = TaskFuture(self._backend)
        self._tasks.submit(Task(Work(fn, "call"), args, kwargs, future))
        return future

    # Many items

    def map(
        self,
        fn: Callable[..., Any],
        /,
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int | None = None,
        buffersize: int | None = None,
        task_timeout: float | None = None,
        ordered: bool = True,
        return_exceptions: bool = False,
        retries: int = 0,
        retry_on: RetryOn = Exception,
    ) -> Iterator[Any]:
        """Call `fn` with the items of the iterables, as the built-in `map` does, and stream the results.

        The work begins at once. Iterables are read a few chunks ahead of the results that were taken, in the
        thread that takes them, so they may be endless; of lists, ranges and the like more may be run ahead.
        Results that nobody reads are still computed, when the executor shuts down; leaving a loop over the
        results ends the work.

        Args:
            timeout, chunksize, buffersize, task_timeout, retries, retry_on: see `CallOptions`.
            ordered: results in the order of the input; else as they come.
            return_exceptions: yield an item's exception in its place; else the first one, in the order of
                the results, is raised and ends the call.

        Raises:
            RuntimeError: the executor is shut down.
        """
        call = self._open(
            fn,
            iterables,
            ordered=ordered,
            timeout=timeout,
            chunksize=chunksize,
            buffersize=buffersize,
            task_timeout=task_timeout,
            retries=retries,
            retry_on=retry_on,
        )
        return self._read(call, return_exceptions)

    def starmap(
        self,
        fn: Callable[..., R],
        iterable: Iterable[Iterable[Any]],
        *,
        ordered: bool = True,
        return_exceptions: bool = False,
        **options: Unpack[CallOptions],
    ) -> Iterator[R]:
        """As `map`, with each item unpacked into the arguments of `fn`, as in `itertools.starmap`."""
        check_options(options, CallOptions, "starmap")
        call = self._open(fn, (iterable,), style="starmap", ordered=ordered, **options)
        return self._read(call, return_exceptions)

    def reduce(
        self,
        combine: Callable[[Any, Any], Any],
        iterable: Iterable[Any],
        *,
        map: Callable[[Any], Any] | None = None,
        initial: Any = _MISSING,
        **options: Unpack[CallOptions],
    ) -> Any:
        """Combine all items (with `map`, what it returns for each) into one value, on the workers.

        The value is a function of the input: the order of combinations depends on the input's length
        alone, so it is the same to the last bit on every backend, with any number of workers.

        Args:
            combine: associative: `combine(combine(a, b), c)` equals `combine(a, combine(b, c))`, up to
                rounding. It need not be commutative, and may change and return its left argument where
                `map` makes new values.
            initial: enters once, on the left, as in `functools.reduce`.

        Raises:
            TypeError: there are no items and no `initial`.
        """
        check_options(options, CallOptions, "reduce")
        check_callable(combine)
        if map is not None:
            check_callable(map)
        call = self._open(map, (iterable,), combine=combine, ordered=False, whole=True, **options)
        combine = harmless(combine)  # the last partial results are combined here
        fold = Fold(combine)
        for outcomes in call.outcomes():
            raise_first(outcomes)
            fold.add(outcomes.values)
        if not call.scheduler.length:
            if initial is _MISSING:
                raise TypeError("reduce() of empty iterable with no initial value; pass initial=")
            return initial
        value = fold.result(call.scheduler.length)
        return value if initial is _MISSING else combine(initial, value)

    def map_reduce(
        self,
        mapper: Callable[[T], Iterable[tuple[K, V]]],
        combine: Callable[[V, V], V],
        iterable: Iterable[T],
        **options: Unpack[CallOptions],
    ) -> dict[K, V]:
        """Group and combine: `mapper` gives (key, value) pairs for each item, values of a key are combined.

        They are combined on the workers first, so that what travels is as small as the result. The laws of
        `reduce` hold for each key; keys are in the order of their first appearance in the input.

        Args:
            mapper: an ordinary function or a generator function.
            combine: associative; see `reduce`.
        """
        check_options(options, CallOptions, "map_reduce")
        check_callable(mapper)
        check_callable(combine)
        merged: dict[K, V] = self.reduce(
            KeyedCombine(combine), iterable, map=KeyedMap(mapper, combine), initial={}, **options
        )
        return merged

    def stats(self) -> Stats:
        """What travelled to worker processes and back, in bytes, since this executor was made.

        With threads and coroutines nothing travels, and all of it is zero.

        Returns:
            `Stats`, a named tuple: `sent_through_pipes`, `received_through_pipes`, `sent_through_memory`,
            `received_through_memory`, and `copies`, the number of large buffers that were copied.
        """
        return self._backend.stats()

    # The end

    def shutdown(
        self, wait: bool = True, *, cancel_futures: bool = False, timeout: float | None = None
    ) -> None:
        """Take no new calls; let the workers go when all that was asked for is done.

        Args:
            wait: return when the workers are gone; else at once, and the work goes on. In an item, or in a
                callback, which would wait for itself, it does not wait.
            cancel_futures: of what was asked for, do only what is with a worker already.
            timeout: seconds; what is not done then fails with WorkerDied, and the workers are ended, in the
                middle of what they run. None for as long as it takes.
        """
        check_seconds("timeout", timeout)
        alarm = None
        if (seconds := finite(timeout)) is not None:
            why = f"the executor was shut down, and this was not done within timeout={timeout} s"
            alarm = call_at(monotonic() + seconds, partial(self._driver.close, kill=WorkerDied(why)))
        if wait and not cancel_futures:
            for call in self._driver.calls:
                call.close_input()
        self._driver.close(cancel=cancel_futures)
        if wait:
            gone = self._driver.join()
            if gone and alarm is not None:
                alarm.cancel()

    def terminate_workers(self) -> None:
        """End all workers now, in the middle of what they run; all that is not done fails with WorkerDied."""
        self._kill("the workers were terminated by terminate_workers()")

    def kill_workers(self) -> None:
        """End all workers now, without asking them; all that is not done fails with WorkerDied."""
        self._kill("the workers were killed by kill_workers()")

    def __exit__(self, exc_type: type[BaseException] | None, *rest: object) -> Literal[False]:
        if exc_type is not None and not issubclass(exc_type, Exception):
            # Ctrl-C, or sys.exit(): who wants to leave now does not wait for the work.
            self._kill("the program was interrupted")
            self._driver.join()
        else:
            self.shutdown(wait=True)
        return False

    def _kill(self, why: str) -> None:
        self._driver.close(kill=WorkerDied(why))

    # Maps for the helpers

    def _map_to_list(
        self,
        function: Callable[..., Any],
        iterables: tuple[Iterable[Any], ...],
        return_exceptions: bool,
        **options: Unpack[CallOptions],
    ) -> list[Any]:
        """All results at once: they are put in order when all have come, so nothing waits for its turn."""
        whole: Any = {"ordered": False, "window": math.inf, "daemon": True, "whole": True, "gathers": True}
        call = self._open(function, iterables, **whole, **options)
        pieces = []
        for outcomes in call.outcomes():
            if not return_exceptions:
                raise_first(outcomes)
            pieces.append(outcomes)
        pieces.sort(key=lambda outcomes: outcomes.start)
        gathered: list[Any] = []
        for outcomes in pieces:
            gathered += values(outcomes)
        return gathered

    def _map_to_stream(
        self,
        function: Callable[..., Any],
        iterables: tuple[Iterable[Any], ...],
        release: Callable[[], object],
        *,
        return_exceptions: bool = False,
        **options: Any,
    ) -> Iterator[Any]:
        """Results as they are read; `release` is called when nobody will read any more."""
        # The stream in no variable of this frame: what the input raises now has this frame in its traceback.
        return self._released(
            self._open(function, iterables, daemon=True, **options), release, return_exceptions
        )

    def _released(
        self, call: MapCall, release: Callable[[], object], return_exceptions: bool
    ) -> Iterator[Any]:
        stream = released(results(call, return_exceptions), release)
        weakref.finalize(stream, unread, weakref.ref(call), release).atexit = False
        return stream

    @property
    def usable(self) -> bool:
        """Whether a call can be made: it is not shut down, its workers can start, it is of this process."""
        return self._driver.usable

    def _read(self, call: MapCall, return_exceptions: bool) -> Iterator[Any]:
        stream = results(call, return_exceptions)
        weakref.finalize(stream, unread, weakref.ref(call)).atexit = False
        return stream


def _finish_all() -> None:
    """At interpreter exit: what was asked for is done, as with concurrent.futures."""
    drivers = [driver for driver in end_all() if isinstance(driver, Driver) and not driver.daemon]
    # As on leaving `with Executor()` by Ctrl-C: who has had enough does not wait for the work.
    if getattr(sys, "last_type", None) is KeyboardInterrupt and not hasattr(sys, "ps1"):
        _kill_all(drivers)
    try:
        for driver in drivers:
            for call in driver.calls:
                call.close_input(leaving=True)
            driver.close()
        for driver in drivers:
            driver.join()
    except BaseException:  # Ctrl-C while the program waits here; who comes next would wait for the workers
        _kill_all(drivers)
        for driver in drivers:
            driver.join()
        raise


def _kill_all(drivers: list[Driver]) -> None:
    _ignore_ctrl_c()  # another one would leave workers alive half-way, for which multiprocessing then waits
    for driver in drivers:
        driver.close(kill=WorkerDied("the program was interrupted"))


def _ignore_ctrl_c() -> None:
    """From now to the end of the interpreter, which ends by the one that has come."""
    while threading.current_thread() is threading.main_thread():
        try:
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            return
        except KeyboardInterrupt:
            continue


def _finish_in_time() -> None:
    """A child process of multiprocessing joins its own children before it ends its threads: be earlier."""
    global _finisher
    if _finisher != os.getpid() and "multiprocessing.util" in sys.modules:
        _finisher = os.getpid()
        sys.modules["multiprocessing.util"].Finalize(None, _finish_all, exitpriority=100)


_finisher: int | None = None
# Before the interpreter joins threads, since workers may still run: the hook that concurrent.futures uses.
threading._register_atexit(_finish_all)  # type: ignore[attr-defined]
