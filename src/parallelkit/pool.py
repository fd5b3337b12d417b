"""The spelling of `multiprocessing.pool`, for programs that know that one: change the import, nothing else.

There is no logic of its own here. A pool is a driver with the backend "process" or "thread", as an `Executor`
is; a call is one `submit`, one map that ends in a future, or one stream.
"""

from __future__ import annotations

import math
import multiprocessing
import multiprocessing.pool
import sys
import threading
import warnings
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from multiprocessing import TimeoutError, util
from multiprocessing.context import BaseContext
from typing import Any, Literal, Self, TypeVar, cast

from ._calls import Task, TaskFuture
from ._core.chunks import sliceable
from ._driver import Driver
from ._opening import READ_AHEAD_ITEMS, open_tasks, splitter
from ._options import check_count
from ._pool_calls import GatherCall, StreamCall
from ._pool_inside import CallbackThread, TaskQueue, Workshop, callee, end, read
from ._pool_results import (
    ApplyResult,
    AsyncResult,
    IMapIterator,
    IMapUnorderedIterator,
    MapResult,
    theirs,
)
from ._work import Work
from .backends import new_backend
from .cpus import cpu_count
from .errors import ParallelError

__all__ = [
    "CLOSE",
    "INIT",
    "RUN",
    "TERMINATE",
    "ApplyResult",
    "AsyncResult",
    "IMapIterator",
    "IMapUnorderedIterator",
    "MapResult",
    "MaybeEncodingError",
    "Pool",
    "RemoteTraceback",
    "ThreadPool",
    "TimeoutError",
    "get_context",
]

INIT, RUN, CLOSE, TERMINATE = theirs.INIT, theirs.RUN, theirs.CLOSE, theirs.TERMINATE
MaybeEncodingError = theirs.MaybeEncodingError
RemoteTraceback = theirs.RemoteTraceback

LEAST_WINDOW = 128
"""Items of an iterator that an imap may have pulled and whose results are not taken: a slow one must not stop
the others too soon."""

IN_FLIGHT_ITEMS = 2048
"""Items of an imap that all workers together may be in, however cheap they are; a few times as many wait."""

CHUNKS_PER_WORKER = 4
"""A map without a chunksize counts as so many tasks for each worker, as in multiprocessing."""

S = TypeVar("S")
T = TypeVar("T")


class Pool(multiprocessing.pool.Pool):
    """A `multiprocessing.Pool` that does not hang, sends lambdas, and keeps all workers busy to the end.

    Args:
        processes: the number of workers, at least 1; None for `cpu_count()`.
        initializer, initargs: called in each worker when it starts.
        maxtasksperchild: a worker is replaced after so many tasks. One call of `apply` is a task, and so is a
            chunk of a map; without a chunksize, a map counts as 4 tasks for each worker.
        context: a context of multiprocessing, or the name of a start method; None for the one that
            `multiprocessing.get_context()` gives.

    Raises:
        ValueError: a number is out of its range.
        TypeError: the initializer is not a function.
        OSError: a process cannot be started.

    >>> with Pool(2) as pool:
    ...     pool.map(abs, [-1, 2, -3])
    [1, 2, 3]
    """

    _state = INIT  # for __del__, where __init__ raises

    def __init__(
        self,
        processes: int | None = None,
        initializer: Callable[..., object] | None = None,
        initargs: Iterable[Any] = (),
        maxtasksperchild: int | None = None,
        context: Any = None,
    ):
        self._ctx = multiprocessing.get_context(context) if isinstance(context, str | None) else context
        self._maxtasksperchild = maxtasksperchild
        self._open("process", processes, initializer, initargs)

    def _open(
        self,
        backend: Literal["process", "thread"],
        processes: int | None,
        initializer: Callable[..., object] | None,
        initargs: Iterable[Any],
    ) -> None:
        self._processes = cpu_count() if processes is None else processes
        if self._processes < 1:
            raise ValueError("Number of processes must be at least 1")
        check_count("processes", self._processes)
        limit: object = self._maxtasksperchild
        if limit is not None and not (isinstance(limit, int) and limit > 0):
            raise ValueError("maxtasksperchild must be a positive int or None")
        if not (initializer is None or callable(initializer)):
            raise TypeError("initializer must be a callable")
        if not hasattr(initargs, "__iter__"):
            raise TypeError(f"initargs must be a tuple of arguments, not {initargs!r}")
        self._initializer, self._initargs = initializer, initargs
        options: dict[str, Any] = {}
        if initializer is not None:
            options["initializer"] = partial(initializer, *initargs)
        if backend == "process":
            options |= {
                "mp_context": Workshop(self._ctx, self.Process),
                "max_tasks_per_child": limit,
                "inherit_main": True,
            }
        self._ending: list[Any] = []  # those that `terminate` told to go
        self._callbacks = CallbackThread()
        self._cache: dict[int, Any] = {}
        self._driver = driver = Driver(new_backend(backend, self._processes, options), daemon=True)
        try:
            driver.backend.populate()
        except BaseException:
            end(driver, self._callbacks)
            driver.join()
            raise
        self._tasks = open_tasks(driver)
        # When the pool is dropped, or the program ends.
        self._terminate = util.Finalize(self, end, args=(driver, self._callbacks), exitpriority=15)
        self._state = RUN

    def __del__(self, _warn: Callable[..., None] = warnings.warn, _running: str = RUN) -> None:
        if self._state == _running:
            _warn(f"unclosed running multiprocessing pool {self!r}", ResourceWarning, source=self)

    def __repr__(self) -> str:
        cls = type(self)
        return f"<{cls.__module__}.{cls.__qualname__} state={self._state} pool_size={len(self._pool)}>"

    def __reduce__(self) -> str:
        raise NotImplementedError("pool objects cannot be passed between processes or pickled")

    # One call of a function

    def apply(
        self,
        func: Callable[..., T],
        args: Iterable[Any] = (),
        kwds: Mapping[str, Any] = {},
    ) -> T:
        """What `func(*args, **kwds)` returns, or raises, on a worker."""
        return self.apply_async(func, args, kwds).get()

    def apply_async(
        self,
        func: Callable[..., T],
        args: Iterable[Any] = (),
        kwds: Mapping[str, Any] = {},
        callback: Callable[[T], object] | None = None,
        error_callback: Callable[[BaseException], object] | None = None,
    ) -> ApplyResult[T]:
        """As `apply`, without waiting: the result to come.

        Args:
            callback: called with the result, in a thread that runs the callbacks of this pool one by one.
            error_callback: called with the exception instead.

        Raises:
            ValueError: the pool is closed.
        """
        self._check_running()
        future = TaskFuture(self._driver.backend)
        work = Work(callee(func), "call")
        task = Task(work, cast("tuple[Any, ...]", args), cast("dict[str, Any]", kwds), future)
        try:
            self._begin(lambda: self._tasks.submit(task))
        except ParallelError as error:  # no worker can be had
            future.set_exception(error)
        return ApplyResult(self, future, callback, error_callback)

    # Many items, and the results as a list

    def map(self, func: Callable[[S], T], iterable: Iterable[S], chunksize: int | None = None) -> list[T]:
        """The results for all items, in their order.

        Args:
            chunksize: so many items run together, on one worker; None lets the core size chunks by time, and
                take back what a slow worker has not started.

        Raises:
            Exception: the first one, in the order of the input, when all have ended.
        """
        return self._map_async(func, iterable, "map", chunksize).get()

    def map_async(
        self,
        func: Callable[[S], T],
        iterable: Iterable[S],
        chunksize: int | None = None,
        callback: Callable[[list[T]], object] | None = None,
        error_callback: Callable[[BaseException], object] | None = None,
    ) -> MapResult[T]:
        """As `map`, without waiting. Callbacks: see `apply_async`; they are called once, with the list."""
        return self._map_async(func, iterable, "map", chunksize, callback, error_callback)

    def starmap(
        self, func: Callable[..., T], iterable: Iterable[Iterable[Any]], chunksize: int | None = None
    ) -> list[T]:
        """As `map`, with each item unpacked into the arguments of `func`."""
        return self._map_async(func, iterable, "starmap", chunksize).get()

    def starmap_async(
        self,
        func: Callable[..., T],
        iterable: Iterable[Iterable[Any]],
        chunksize: int | None = None,
        callback: Callable[[list[T]], object] | None = None,
        error_callback: Callable[[BaseException], object] | None = None,
    ) -> MapResult[T]:
        """As `starmap`, without waiting."""
        return self._map_async(func, iterable, "starmap", chunksize, callback, error_callback)

    def _map_async(
        self,
        func: Callable[..., Any],
        iterable: Iterable[Any],
        style: Literal["map", "starmap"],
        chunksize: int | None = None,
        callback: Callable[[Any], object] | None = None,
        error_callback: Callable[[BaseException], object] | None = None,
    ) -> MapResult[Any]:
        self._check_running()
        check_count("chunksize", chunksize)
        items: Any = iterable
        if isinstance(iterable, list) or not sliceable(iterable):
            items = list(iterable)  # a list may be changed while this runs
        length = len(items)
        if not length:
            callback = error_callback = None  # theirs are not called for an input without items
        task_items = None if chunksize else max(1, -(-length // (CHUNKS_PER_WORKER * self._processes)))
        work = Work(callee(func), style, task_items=task_items)
        scheduler = self._driver.new_scheduler(
            splitter(self._driver.backend, work, chunksize, sized=True, most=None),
            window=math.inf,
            ordered=False,
            divisible=chunksize is None,
        )
        call = self._begin(lambda: GatherCall(self._driver, work, scheduler, items))
        return MapResult(self, call, chunksize or 1, callback, error_callback)

    # Many items, and the results as they come

    def imap(
        self, func: Callable[[S], T], iterable: Iterable[S], chunksize: int | None = None
    ) -> IMapIterator[T]:
        """The results, in the order of the input, as they come.

        A thread reads the input, some items ahead of the results that were taken; when the pool is joined, to
        its end. An item that raises does so in its turn, and the next ones follow.

        Args:
            chunksize: so many items run together, on one worker; None lets the core size chunks by time.
        """
        return self._imap(IMapIterator, func, iterable, chunksize)

    def imap_unordered(
        self, func: Callable[[S], T], iterable: Iterable[S], chunksize: int | None = None
    ) -> IMapIterator[T]:
        """As `imap`, in any order: what is ready first comes first."""
        return self._imap(IMapUnorderedIterator, func, iterable, chunksize)

    def _imap(
        self,
        kind: type[IMapIterator[T]],
        func: Callable[[S], T],
        iterable: Iterable[S],
        chunksize: int | None,
    ) -> IMapIterator[T]:
        self._check_running()
        check_count("chunksize", chunksize, least=-sys.maxsize)
        if chunksize is not None and chunksize < 1:
            raise ValueError(f"Chunksize must be 1+, not {chunksize}")
        items: Any = None
        if sliceable(iterable):
            items = list(iterable) if isinstance(iterable, list) else iterable
        work = Work(callee(func), task_items=1 if chunksize is None else None)
        scheduler = self._driver.new_scheduler(
            splitter(self._driver.backend, work, chunksize, sized=items is not None, most=IN_FLIGHT_ITEMS),
            least_window=LEAST_WINDOW if items is None else READ_AHEAD_ITEMS,
            ordered=kind is IMapIterator,
            divisible=chunksize is None,
        )
        job = next(theirs.job_counter)
        self._cache[job] = None  # not the iterator, which may be dropped
        source = None if items is not None else read(iterable)
        reading = partial(StreamCall, items=items, source=source, chunksize=chunksize)
        try:
            call = self._begin(
                lambda: reading(self._driver, work, scheduler, ended=partial(self._forget, job))
            )
        except BaseException:
            self._forget(job)
            raise
        return kind(self, call)

    # The end

    def close(self) -> None:
        """Take no new calls; the workers leave when all that was asked for is done."""
        if self._state == RUN:
            self._state = CLOSE
            self._driver.close()

    def terminate(self) -> None:
        """End the workers now, in the middle of what they run. What was asked for and is not done, fails."""
        self._state = TERMINATE
        self._ending = self._pool
        self._terminate()
        self._driver.join()

    def join(self) -> None:
        """Wait until the workers are gone, after `close()` or `terminate()`.

        Raises:
            ValueError: it was not closed.
        """
        if self._state == RUN:
            raise ValueError("Pool is still running")
        for call in self._driver.calls:
            call.close_input()  # the rest of it is run, whether its results are read or not
        self._driver.join()
        if not self._callbacks.is_here():
            for result in list(self._cache.values()):
                if isinstance(result, ApplyResult):
                    result.wait()
        self._callbacks.close()
        self._callbacks.join()

    def __enter__(self) -> Self:
        self._check_running()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.terminate()

    def _begin(self, make: Callable[[], T]) -> T:
        try:
            return make()
        except RuntimeError:
            self._check_running()  # another thread may have closed it meanwhile
            raise

    def _forget(self, job: int) -> None:
        """A stream has ended. As long as it has not, it keeps the pool alive, which nobody else may hold."""
        self._cache.pop(job, None)

    def _check_running(self) -> None:
        if self._state != RUN:
            raise ValueError("Pool not running")

    # What programs read that look inside of multiprocessing's

    @property
    def _pool(self) -> list[Any]:
        """The workers that there are: processes or threads."""
        driver = self.__dict__.get("_driver")
        return [] if driver is None else driver.backend.handles()

    @property
    def _taskqueue(self) -> TaskQueue:
        return TaskQueue(self._driver)

    def _repopulate_pool(self) -> None:
        """Nothing: a worker that is gone is replaced at once."""


class ThreadPool(Pool, multiprocessing.pool.ThreadPool):
    """A `multiprocessing.pool.ThreadPool`: the same calls, on threads of this process.

    >>> with ThreadPool(2) as pool:
    ...     list(pool.imap(abs, [-1, 2, -3]))
    [1, 2, 3]
    """

    def __init__(
        self,
        processes: int | None = None,
        initializer: Callable[..., object] | None = None,
        initargs: Iterable[Any] = (),
    ):
        self._maxtasksperchild = None
        self._open("thread", processes, initializer, initargs)

    def join(self) -> None:
        """As theirs: also wait for what runs after `terminate()`, for a thread cannot be ended."""
        super().join()
        for thread in self._ending:
            if thread is not threading.current_thread():
                thread.join()


class _PoolContext(BaseContext):
    def Pool(  # noqa: N802 - as theirs
        self,
        processes: int | None = None,
        initializer: Callable[..., object] | None = None,
        initargs: Iterable[Any] = (),
        maxtasksperchild: int | None = None,
    ) -> Pool:
        return Pool(processes, initializer, initargs, maxtasksperchild, context=self.get_context())


def get_context(method: str | None = None) -> _PoolContext:
    """The context of multiprocessing for a start method, whose `Pool` is ours.

    >>> with get_context("spawn").Pool(1) as pool:
    ...     pool.apply(pow, (2, 10))
    1024
    """
    context: Any = multiprocessing.get_context(method)
    kind = type(f"{type(context).__name__}", (_PoolContext, type(context)), {})
    return cast("_PoolContext", kind())
