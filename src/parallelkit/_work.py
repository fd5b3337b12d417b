"""What crosses to the far side, and how its outcomes come back: the words that backends and workers share."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import starmap
from time import monotonic
from types import BuiltinFunctionType, FunctionType
from typing import Any, Literal, Protocol, TypeVar

from ._core.chunks import Cut
from ._core.fold import Combine
from ._core.outcome import Outcomes
from .errors import InitializerFailed, RemoteError, TaskTimeout

__all__ = [
    "Claim",
    "Journal",
    "LocalClaim",
    "NoJournal",
    "Report",
    "Work",
    "add_note",
    "as_item_error",
    "harmless",
    "initializer_failed",
    "is_free",
    "owned",
    "task_timeout_error",
    "thread_refused",
]

R = TypeVar("R")

_PLAIN = FunctionType, BuiltinFunctionType
_CO_COROUTINE = 0x80  # inspect.CO_COROUTINE; importing inspect takes 10 ms


class Work:
    """What a call does with its items; this is what crosses to each worker once.

    Attributes:
        function: called with each item; None where the items are already the values.
        style: how an item is passed: as it is, as positional arguments, or as (args, kwargs).
        combine: for a reduce, the associative function of two values.
        retries: a failed item may be tried again, so the others of its leaf must not be lost with it.
        task_timeout: seconds that one item may take.
        task_items: so many items count as one task, for workers that are replaced after a number of tasks;
            None: a chunk is one.
        chunk_seconds: after so long, a worker that runs a plain function gives back the rest of a chunk.
        is_async: calling the function gives a coroutine to await.
        packed: for the backend, which may keep here the form in which it travels.
        items_run, one_by_one: for a worker that keeps a journal: how many items it has run, and whether the
            journal is to know of each.
    """

    __slots__ = (
        "chunk_seconds",
        "combine",
        "function",
        "is_async",
        "items_run",
        "one_by_one",
        "packed",
        "retries",
        "style",
        "task_items",
        "task_timeout",
    )

    def __init__(
        self,
        function: Callable[..., Any] | None,
        style: Literal["map", "starmap", "call"] = "map",
        combine: Combine | None = None,
        retries: bool = False,
        task_timeout: float | None = None,
        task_items: int | None = 1,
        chunk_seconds: float = math.inf,
    ):
        self.function = function
        self.style = style
        self.combine = combine
        self.retries = retries
        self.task_timeout = task_timeout
        self.task_items = task_items
        self.chunk_seconds = chunk_seconds
        self.is_async = is_async(function)
        self._here()

    def _here(self) -> None:
        """What does not travel."""
        self.packed: Any = None
        self.items_run = 0
        self.one_by_one = True

    def __getstate__(self) -> tuple[Any, ...]:
        return tuple([getattr(self, name) for name in _TRAVELLING])

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        for name, value in zip(_TRAVELLING, state, strict=True):
            setattr(self, name, value)
        self._here()

    def apply(self, items: Iterable[Any]) -> Iterator[Any]:
        """The values of `items`, computed as they are asked for."""
        function = self.function
        if function is None:
            return iter(items)
        if self.style == "map":
            return map(function, items)
        if self.style == "starmap":
            return starmap(function, items)
        return (function(*args, **kwargs) for args, kwargs in items)

    def apply_to(self, item: Any) -> Any:
        """The value (for an async function, the coroutine) of one item."""
        return next(self.apply((item,)))


_STAYING = "packed", "items_run", "one_by_one"
_TRAVELLING = tuple(name for name in Work.__slots__ if name not in _STAYING)

Report = Callable[[Outcomes, float, bool], None]
"""Called with outcomes, the seconds they took, and whether they are the chunk's last."""


class Claim(Protocol):
    """The unstarted rest of a chunk, which its worker and the parent both take from."""

    def take(self, items: int) -> int:
        """The worker starts the next `items`, or as many as are left: how many."""
        ...


class Journal(Protocol):
    """Where a worker that may die keeps what has ended and was not reported.

    Attributes:
        incomplete: something that was added could not be kept.
    """

    incomplete: bool

    def one_by_one(self, exact: bool, /) -> None:
        """From now on, `add` is called after each item, or after several."""
        ...

    def between_items(self) -> None:
        """Until `forget`, no item is under way."""
        ...

    def add(self, values: list[Any] | dict[int, Any], /) -> bool:
        """Keep the values of the next items, or of any by index; whether there is room for more.

        There is none either where these are too large to be kept: report them.
        """
        ...

    def leave_out(self, values: list[Any] | dict[int, Any], /) -> bool:
        """In the place of `add`, where there is nothing to keep: they failed."""
        ...

    def forget(self, first: int, /) -> None:
        """All that was added has been reported; what is added next begins with item `first`."""
        ...


class NoJournal:
    """Keeps nothing: the worker does not die without us."""

    incomplete = False

    def one_by_one(self, exact: bool, /) -> None:
        pass

    def between_items(self) -> None:
        pass

    def add(self, values: list[Any] | dict[int, Any], /) -> bool:
        return True

    def leave_out(self, values: list[Any] | dict[int, Any], /) -> bool:
        return True

    def forget(self, first: int, /) -> None:
        pass


class LocalClaim:
    """A claim between threads.

    Attributes:
        started: how many items of the chunk were started.
        since: when the last run was started (`time.monotonic`, seconds).
    """

    __slots__ = ("_lock", "since", "started", "stop")

    def __init__(self, items: int):
        self._lock = threading.RLock()  # which knows who has it
        self.started = 0
        self.stop = items
        self.since = 0.0

    def take(self, items: int) -> int:
        with self._lock:
            taken = min(items, self.stop - self.started)
            self.started += taken
            self.since = monotonic()
            return taken

    @property
    def held(self) -> bool:
        """Whether the calling thread is inside of this claim."""
        return owned(self._lock)

    def take_back(self, cut: Cut) -> int:
        """Shorten the chunk as `cut` says; return the number of items that stay."""
        with self._lock:
            self.stop = cut(self.started, self.stop)
            return self.stop

    def stop_at(self, started: int) -> bool:
        """Shorten the chunk to what was started, if that is so many items; whether it is."""
        with self._lock:
            if self.started != started:
                return False
            self.stop = started
            return True


def owned(lock: Any) -> bool:
    """Whether the calling thread holds this `threading.RLock`."""
    return bool(lock._is_owned())


def is_free(lock: Any) -> bool:
    """Whether nobody holds this `threading.RLock`; not to be asked by who holds it."""
    try:
        return bool(lock.acquire(blocking=False))
    finally:
        if owned(lock):  # also where Ctrl-C comes just after it was taken
            lock.release()


def is_async(function: object) -> bool:
    """Whether calling `function` gives a coroutine to await."""
    if isinstance(function, _PLAIN) and not getattr(function, "__dict__", None):
        code = getattr(function, "__code__", None)  # the plain case, which each submit asks for
        return code is not None and bool(code.co_flags & _CO_COROUTINE)
    if function is None:
        return False
    from inspect import iscoroutinefunction  # 10 ms, for what is seldom

    while isinstance(function, partial):
        function = function.func
    if iscoroutinefunction(function):
        return True
    return (
        callable(function) and not isinstance(function, type) and iscoroutinefunction(type(function).__call__)
    )


def add_note(error: BaseException, note: str) -> None:
    """Add a note, where the exception takes one: it may be a frozen dataclass."""
    try:
        error.add_note(note)
    except Exception:
        pass


def as_item_error(error: BaseException) -> Exception:
    """What the caller sees of whatever an item raised: SystemExit and its like must not end his program."""
    if isinstance(error, Exception):
        return error
    stand_in = RemoteError(type(error).__qualname__, str(error))
    stand_in.__cause__ = error
    return stand_in


def harmless(function: Callable[..., R]) -> Callable[..., R]:
    """The same function, but what would end a program, and is not Ctrl-C, is an ordinary error.

    For functions of the user's that run between our lines, where SystemExit would leave others waiting.
    """

    def call(*arguments: Any) -> R:
        try:
            return function(*arguments)
        except Exception:
            raise
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt) and threading.current_thread() is threading.main_thread():
                raise
            raise as_item_error(error) from error

    return call


def task_timeout_error(work: Work, index: int) -> TaskTimeout:
    return TaskTimeout(
        f"item {index} ran longer than task_timeout={work.task_timeout} s; give it more time, or pass "
        "return_exceptions=True to go on without it"
    )


def thread_refused(error: Exception) -> InitializerFailed:
    failure = InitializerFailed(f"no worker thread can be started: {error}")
    failure.__cause__ = error
    return failure


def initializer_failed(error: Exception) -> InitializerFailed:
    return InitializerFailed(
        f"the initializer raised {type(error).__name__}: {error}; no worker can start, so nothing was run"
    )
