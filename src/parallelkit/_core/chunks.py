"""Chunks: consecutive items that travel together, cut so that the type of the source survives.

A slice of a `range` is a `range` and crosses to a worker in a few bytes, a slice of a list is a
list, a slice of a NumPy array is a view. An iterator has no slices: its items come in lists.
"""

from __future__ import annotations

import array
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, Protocol, TypeVar, overload

__all__ = [
    "Chunk",
    "Cut",
    "Sliceable",
    "Zipped",
    "all_of_it",
    "chunked",
    "half",
    "half_but_first",
    "if_unstarted",
    "leaving",
    "sliceable",
    "unstarted",
]

Cut = Callable[[int, int], int]
"""How a chunk in flight is shortened: (items started, items in all) -> items that stay."""


def half(started: int, stop: int) -> int:
    """Half of what was not started comes back; of a single item, that one."""
    return started + (stop - started) // 2


def half_but_first(started: int, stop: int) -> int:
    """As `half`, but the first item stays: its worker has nothing else, and is about to start it.

    Two idle workers would else send the same item to and fro before either of them starts it.
    """
    return max(half(started, stop), min(1, stop))


def leaving(items: int) -> Cut:
    """So many stay, as long as none was started; then it is as `half`."""

    def cut(started: int, stop: int) -> int:
        return half(started, stop) if started else min(items, stop)

    return cut


def if_unstarted(started: int, stop: int) -> int:
    """All of it comes back, or nothing: the items of this chunk run together."""
    return stop if started else 0


def unstarted(started: int, stop: int) -> int:  # noqa: ARG001 - a Cut
    """All that was not started comes back."""
    return started


def all_of_it(started: int, stop: int) -> int:  # noqa: ARG001 - a Cut
    """Nothing comes back: who is asked only says whether he has the chunk."""
    return stop


T = TypeVar("T")
S = TypeVar("S", bound="Sequence[Any]")


class Sliceable(Protocol):
    """A source of known length whose slices have its own type."""

    def __len__(self) -> int: ...
    def __getitem__(self, where: slice, /) -> Any: ...


class Chunk:
    """The items `start` to `stop` of the input, found in `source`, whose first item is number `base`.

    `attempts` counts how often these items were tried before. `one_by_one`: each is to travel alone.
    """

    __slots__ = ("attempts", "base", "one_by_one", "source", "start", "stop")

    def __init__(
        self,
        source: Sliceable,
        base: int,
        start: int,
        stop: int,
        attempts: int = 0,
        one_by_one: bool = False,
    ):
        self.source = source
        self.base = base
        self.start = start
        self.stop = stop
        self.attempts = attempts
        self.one_by_one = one_by_one

    def __repr__(self) -> str:
        return f"<Chunk of items {self.start} to {self.stop}>"

    def __len__(self) -> int:
        return self.stop - self.start

    @property
    def items(self) -> Any:
        """The items, as a slice of the source."""
        return self.source[self.start - self.base : self.stop - self.base]

    def between(self, start: int, stop: int, attempts: int = 0) -> Chunk:
        """A part of this chunk; no item is copied."""
        return Chunk(self.source, self.base, start, stop, attempts or self.attempts, self.one_by_one)


class Zipped(Sequence[tuple[Any, ...]]):
    """Several sources side by side, as `zip` would pair them, and as sliceable as they are."""

    __slots__ = ("columns",)

    def __init__(self, columns: Iterable[Any]):
        self.columns = tuple(columns)

    def __len__(self) -> int:
        return min(map(len, self.columns))

    def __iter__(self) -> Iterator[tuple[Any, ...]]:
        return zip(*self.columns, strict=False)

    @overload
    def __getitem__(self, where: int) -> tuple[Any, ...]: ...
    @overload
    def __getitem__(self, where: slice) -> Zipped: ...
    def __getitem__(self, where: int | slice) -> tuple[Any, ...] | Zipped:
        if isinstance(where, slice):
            return Zipped([column[where] for column in self.columns])
        return tuple(column[where] for column in self.columns)

    def __reduce__(self) -> tuple[type[Zipped], tuple[object]]:
        return Zipped, (self.columns,)


_SLICED_AS_ITERATED = (list, tuple, range, str, bytes, bytearray, array.array)


def sliceable(source: object) -> bool:
    """Whether slices of `source`, put one after the other, are the same items as iterating over it.

    True only for types known to be so. A `__getitem__` alone proves nothing: a data frame iterates
    over its columns and slices its rows, and a sequence of the user's own may read files in it.
    """
    kind: Any = type(source)
    if isinstance(source, _SLICED_AS_ITERATED):
        base: Any = next(base for base in _SLICED_AS_ITERATED if isinstance(source, base))
        return all(
            getattr(kind, name) is getattr(base, name) for name in ("__iter__", "__getitem__", "__len__")
        )
    numpy = sys.modules.get("numpy")  # whoever passes an array has imported it; we need not
    return numpy is not None and isinstance(source, numpy.ndarray) and source.ndim > 0


@overload
def chunked(items: S, size: int) -> Iterator[S]: ...
@overload
def chunked(items: Iterable[T], size: int) -> Iterator[Sequence[T]]: ...
def chunked(items: Any, size: int) -> Iterator[Any]:
    """Cut `items` into consecutive pieces of `size` items; the last may be shorter.

    Slices where `items` can be sliced (a sequence, a NumPy array), so that the pieces have its type
    and arrays are not copied; else lists, taken from the iterable one piece at a time.

    Args:
        items: any iterable, also an endless one.
        size: the number of items in a piece, at least 1.

    Raises:
        ValueError: `size` is smaller than 1.
        TypeError: `size` is not a whole number, or `items` cannot be iterated over.

    >>> list(chunked(range(10), 4))
    [range(0, 4), range(4, 8), range(8, 10)]
    >>> list(chunked("abcde", 2))
    ['ab', 'cd', 'e']
    >>> list(chunked(iter([1, 2, 3]), 2))
    [[1, 2], [3]]
    """
    if isinstance(size, bool) or not hasattr(type(size), "__index__"):
        raise TypeError(f"size must be a whole number of items, not {size!r}")
    if size < 1:
        raise ValueError(f"size must be at least 1 item, not {size}")
    if isinstance(items, Sequence) or sliceable(items):
        return (items[start : start + size] for start in range(0, len(items), size))
    return _lists(iter(items), size)


def _lists(iterator: Iterator[T], size: int) -> Iterator[list[T]]:
    while piece := list(islice(iterator, size)):
        yield piece
