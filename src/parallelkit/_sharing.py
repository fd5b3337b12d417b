"""Values that workers share: placed once for all of them, and for all calls."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Generic, TypeVar

from .errors import SerializationError

__all__ = ["Shared", "any_shared", "carrying", "forget_arrived", "keep_arrived", "living", "share"]

T = TypeVar("T")


class Shared(Generic[T]):
    """A value that travels once to each worker, however many calls use it; made by `share`.

    Attributes:
        value: the value. In a worker process it is a copy that is made when it is asked for first, and kept.
    """

    __slots__ = ("__weakref__", "_load", "_value")

    def __init__(self, value: T) -> None:
        self._value = value
        self._load: Callable[[], T] | None = None
        _living[id(self)] = weakref.ref(self, partial(_forget, id(self)))

    @property
    def value(self) -> T:
        load = self._load
        if load is not None:
            self._value = load()
            self._load = None
        return self._value

    def __reduce__(self) -> tuple[Any, ...]:
        carry = getattr(_carriers, "carry", None)
        if carry is None:  # whoever pickles this knows nothing of it
            return Shared, (self.value,)
        return _arrived, (carry(self),)

    def __repr__(self) -> str:
        return f"<parallelkit.Shared {type(self.value).__name__}>"


def share(value: T) -> Shared[T]:
    """A handle of a value that many calls use, for the value to travel once to each worker.

    Pass the handle, in arguments, in a closure or in `initargs`, and ask it for its `value` where that is
    needed. Large arrays in the value are placed in shared memory, once for each executor: all its worker
    processes read the same copy. What a worker writes to them it alone sees, and keeps.

    Items that are parts of a shared array (or of those in a shared list, tuple or dictionary) are not copied
    at all.

    Nothing of the value may be changed afterwards: workers would have it as it was, or as it is. When the
    handle is gone, so is the copy. With threads and coroutines, `value` is the value itself.

    >>> from parallelkit import pmap
    >>> table = share({"a": 1, "b": 2})
    >>> pmap(lambda key: table.value[key], "abba")
    [1, 2, 2, 1]
    """
    return Shared(value)


# ---------------------------------------------------------------- who pickles

_living: dict[int, weakref.ref[Shared[Any]]] = {}
_carriers = threading.local()


def _forget(handle: int, _: object) -> None:
    _living.pop(handle, None)


def any_shared() -> bool:
    """Whether there are handles in this process: most programs have none, and are not to pay for them."""
    return bool(_living)


def living() -> list[Shared[Any]]:
    """The handles of this process whose values are here."""
    found = (handle() for handle in list(_living.values()))
    return [shared for shared in found if shared is not None and shared._load is None]


@contextmanager
def carrying(carry: Callable[[Shared[Any]], int]) -> Iterator[None]:
    """What is pickled here, in this thread, mentions shared values by the keys that `carry` gives them."""
    before = getattr(_carriers, "carry", None)
    _carriers.carry = carry
    try:
        yield
    finally:
        _carriers.carry = before


# ---------------------------------------------------------------- who unpickles

_arrivals: dict[int, Shared[Any]] = {}


def keep_arrived(key: int, load: Callable[[], Any]) -> None:
    """A value has come to this worker, and is loaded when it is asked for."""
    shared: Shared[Any] = Shared(None)
    shared._load = load
    _arrivals[key] = shared


def forget_arrived(key: int) -> None:
    """The handle is gone, so nothing that comes will mention it."""
    _arrivals.pop(key, None)


def _arrived(key: int) -> Shared[Any]:
    try:
        return _arrivals[key]
    except KeyError:
        raise SerializationError(
            "a shared value was pickled for another worker; pass its handle, not a pickle of it"
        ) from None
