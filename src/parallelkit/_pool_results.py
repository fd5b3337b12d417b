"""What the calls of a pool return, with the names, the errors and the timing of `multiprocessing.pool`."""

from __future__ import annotations

import multiprocessing
import multiprocessing.pool
import threading
import traceback
import weakref
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from queue import Empty
from time import monotonic
from types import GenericAlias
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from ._calls import TaskFuture
from ._core.outcome import Outcomes
from ._pool_calls import GatherCall, StreamCall
from ._pool_inside import CallbackThread
from .errors import RemoteTraceback, SerializationError

__all__ = ["ApplyResult", "IMapIterator", "IMapUnorderedIterator", "MapResult", "Owner"]

T = TypeVar("T")

theirs: Any = multiprocessing.pool  # typeshed leaves out half of it

if TYPE_CHECKING:
    from multiprocessing.pool import IMapIterator as _IMapIterator
    from multiprocessing.pool import IMapUnorderedIterator as _IMapUnorderedIterator
else:

    class _IMapIterator(theirs.IMapIterator):
        __class_getitem__ = classmethod(GenericAlias)  # they can be subscripted by type checkers only

    class _IMapUnorderedIterator(theirs.IMapUnorderedIterator):
        __class_getitem__ = classmethod(GenericAlias)


class Owner(Protocol):
    """What results need of their pool, which they keep alive until they have come."""

    _cache: dict[int, Any]
    _callbacks: CallbackThread


class ApplyResult(multiprocessing.pool.ApplyResult[T], Generic[T]):
    """The result of one call, to come. A callback has returned before it is ready."""

    _pool: Owner | None

    def __init__(
        self,
        pool: Owner,
        future: TaskFuture,
        callback: Callable[[T], object] | None = None,
        error_callback: Callable[[BaseException], object] | None = None,
    ):
        self._job = next(theirs.job_counter)
        self._pool = pool
        self._future = future
        self._callback = callback
        self._error_callback = error_callback
        self._failure: BaseException | None = None
        self._called = threading.Event() if callback or error_callback else None
        self._calling = threading.Lock()  # taken once, by who calls back
        self._cache = pool._cache
        self._cache[self._job] = self  # keeps this alive until it has ended, not longer
        future.add_done_callback(partial(_arrived, weakref.ref(self)))

    def ready(self) -> bool:
        return self._future.done() if self._called is None else self._called.is_set()

    def successful(self) -> bool:
        """Whether it ended without an exception.

        Raises:
            ValueError: it has not ended.
        """
        if not self.ready():
            raise ValueError(f"{self!r} not ready")
        return self._error() is None

    def wait(self, timeout: float | None = None) -> None:
        """Wait until it is ready, or for `timeout` seconds."""
        pool = self._pool
        in_callback = self._called is not None and pool is not None and pool._callbacks.is_here()
        if self._called is None or in_callback:
            self._future.wait(timeout)
            if not self._future.done():
                return
        if in_callback:  # a callback that waits for another one: it is called here
            self._call_back()
        elif self._called is not None:
            self._called.wait(timeout)

    def get(self, timeout: float | None = None) -> T:
        """The result, when it is ready.

        Raises:
            multiprocessing.TimeoutError: it is not, after `timeout` seconds.
            Exception: what the function raised.
        """
        self.wait(timeout)
        if not self.ready():
            raise multiprocessing.TimeoutError
        error = self._error()
        try:
            if error is not None:
                raise error
            result: T = self._future.result()
            return result
        finally:
            del self, error  # a traceback holds the frame, which would hold the error

    def _error(self) -> BaseException | None:
        if self._failure is None:
            self._failure = as_multiprocessing(self._future.exception())
        return self._failure

    def _arrive(self) -> None:
        """It has come, in a thread that must not wait."""
        pool = self._pool
        if self._called is None:
            self._leave()
        elif pool is not None:
            if pool._callbacks.muted:
                self._call_back()
            else:
                pool._callbacks.run(self._call_back)

    def _call_back(self) -> None:
        if not self._calling.acquire(blocking=False):
            return
        assert self._called is not None and self._pool is not None
        error = self._error()
        try:
            if not self._pool._callbacks.muted:
                if error is None and self._callback is not None:
                    self._callback(self._future.result())
                if error is not None and self._error_callback is not None:
                    self._error_callback(error)
        except BaseException:  # there is nobody to raise it to, and others wait for this thread
            traceback.print_exc()
        finally:
            self._called.set()
            self._leave()

    def _leave(self) -> None:
        self._cache.pop(self._job, None)
        self._pool = None

    # What programs read that look inside of multiprocessing's

    @property
    def _success(self) -> bool:
        return not self.ready() or self.successful()

    @property
    def _value(self) -> object:
        return (self._error() or self._future.result()) if self.ready() else None


def _arrived(reference: weakref.ref[ApplyResult[Any]], _: Future[Any]) -> None:
    result = reference()
    if result is not None:
        result._arrive()


AsyncResult = ApplyResult


class MapResult(ApplyResult[list[T]], multiprocessing.pool.MapResult[T], Generic[T]):
    """The list of results of a map, to come."""

    def __init__(
        self,
        pool: Owner,
        call: GatherCall,
        chunksize: int,
        callback: Callable[[list[T]], object] | None = None,
        error_callback: Callable[[BaseException], object] | None = None,
    ):
        self._call = call
        self._chunksize = chunksize
        super().__init__(pool, call.future, callback, error_callback)

    @property
    def _number_left(self) -> int:
        return 0 if self._future.done() else -(-self._call.left // self._chunksize)


class IMapIterator(_IMapIterator[T], Generic[T]):
    """The results of a map as they come, in the order of the input. Any number of threads may read it."""

    _pool: Owner | None

    def __init__(self, pool: Owner, call: StreamCall):
        self._pool = pool
        self._call = call
        self._reading = threading.Lock()
        self._here: list[Any] = []  # results that have come, the next one last
        self._taken = 0  # of those that came together, how many the call still counts as not read
        weakref.finalize(self, call.let_go).atexit = False

    def __iter__(self) -> IMapIterator[T]:
        return self

    def next(self, timeout: float | None = None) -> T:
        """The next result.

        Raises:
            multiprocessing.TimeoutError: there is none, after `timeout` seconds.
            StopIteration: there are no more.
            Exception: what the function raised for this item. The others can still be had.
        """
        deadline = None if timeout is None else monotonic() + timeout
        if not self._reading.acquire(timeout=-1 if timeout is None else max(0.0, timeout)):
            raise multiprocessing.TimeoutError
        try:
            if not self._here:
                self._fetch(None if deadline is None else deadline - monotonic())
            result = self._here.pop()
        finally:
            self._reading.release()
        if type(result) is _Failed:
            try:
                raise result.error
            finally:
                del result
        return result  # type: ignore[no-any-return]

    __next__ = next

    def _fetch(self, timeout: float | None) -> None:
        if self._taken:
            self._call.consumed(self._taken)
            self._taken = 0
        try:
            outcomes = self._call.take(timeout)
        except Empty:
            if timeout is None:
                raise  # of a signal handler
            raise multiprocessing.TimeoutError from None
        except Exception as error:
            failure = as_multiprocessing(error)
            raise failure from failure.__cause__
        if outcomes is None:
            self._pool = None
            raise StopIteration
        # What is about to be handed out has left the window; the rest of it leaves when that is done.
        self._call.consumed(1)
        self._taken = len(outcomes) - 1
        self._here = _results(outcomes)
        self._here.reverse()


class IMapUnorderedIterator(IMapIterator[T], _IMapUnorderedIterator[T], Generic[T]):
    """The results of a map as they come."""


class _Failed:
    __slots__ = ("error",)

    def __init__(self, error: BaseException):
        self.error = error


def _results(outcomes: Outcomes) -> list[Any]:
    results = outcomes.values
    for index, error in outcomes.failures.items():
        results[index - outcomes.start] = _Failed(as_multiprocessing(error))
    return results


class _Shown:
    """What `repr()` made of an object in a worker."""

    def __init__(self, text: str | None):
        self._text = text

    def __repr__(self) -> str:
        return str(self._text)


def as_multiprocessing(error: Any) -> Any:
    """The error, or None, as `multiprocessing.pool` raises it.

    What could not be pickled here is the error of the pickler itself; a result that could not be pickled in
    the worker is a MaybeEncodingError; the last cause of an error from there is their `RemoteTraceback`.
    """
    if isinstance(error, SerializationError):
        if error.part in ("function", "item") and isinstance(error.__cause__, Exception):
            return error.__cause__
        if error.part == "result" and error.value is not None:
            cause = error.__cause__
            error = theirs.MaybeEncodingError(_Shown(error.reason), _Shown(error.value))
            error.__cause__ = cause
    link = error
    while link is not None and link.__cause__ is not None:
        if isinstance(link.__cause__, RemoteTraceback):
            cause = theirs.RemoteTraceback(f'\n"""\n{link.__cause__.text}"""')
            BaseException.__setattr__(link, "__cause__", cause)  # past what its class says: it may be frozen
        link = link.__cause__
    return error
