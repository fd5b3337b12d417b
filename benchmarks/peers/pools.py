"""Pools in the manner of multiprocessing: its own, billiard, pathos and mpire."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from .base import Function, Side, sum_in_chunks

STREAM_CHUNK = 1000
"""The most items of a chunk in streams that are tuned: the first result should not wait for a million."""

ALL = frozenset({"start", "map", "stream", "call", "shared", "reduce", "merge"})


class Pool(Side):
    """`Pool(workers).map` with its own chunks, four for each worker."""

    family = "multiprocessing"
    offers = ALL - {"stream", "merge"}
    method = "fork"

    def open(self) -> None:
        import multiprocessing

        self.pool = multiprocessing.get_context(self.method).Pool(self.workers)

    def close(self) -> None:
        self.pool.close()
        self.pool.join()

    def map(self, function: Function, items: Iterable[Any]) -> list[Any]:
        return self.pool.map(function, items)  # type: ignore[no-any-return]

    def call(self, function: Function, item: Any) -> Any:
        return self.pool.apply(function, (item,))


class ForkserverPool(Pool):
    offers = frozenset({"start", "map", "call"})
    method = "forkserver"


class TunedPool(Pool):
    """`chunksize`; a reduction in pieces; a large argument is inherited by workers that are forked for it."""

    offers = frozenset({"map", "shared", "reduce"})

    def map(self, function: Function, items: Iterable[Any]) -> list[Any]:
        return self.pool.map(function, items, chunksize=self.chunksize(items))  # type: ignore[no-any-return]

    def shared(self, function: Callable[[Any, Any], Any], thing: Any, items: Sequence[Any]) -> list[Any]:
        import multiprocessing

        with multiprocessing.get_context("fork").Pool(self.workers, keep, (function, thing)) as pool:
            return pool.map(with_kept, items)

    def reduce(self, add: Callable[[Any, Any], Any], function: Function, items: range) -> Any:
        return sum_in_chunks(self, add, function, items)


_kept: Any = None


def keep(function: Callable[[Any, Any], Any], thing: Any) -> None:
    global _kept
    _kept = function, thing


def with_kept(item: Any) -> Any:
    function, thing = _kept
    return function(thing, item)


class Imap(Pool):
    """`imap`: chunks of one."""

    offers = frozenset({"map", "stream", "reduce", "merge"})

    def map(self, function: Function, items: Iterable[Any]) -> list[Any]:
        return list(self.stream(function, items))

    def stream(self, function: Function, items: Iterable[Any]) -> Iterator[Any]:
        return self.pool.imap(function, items)  # type: ignore[no-any-return]


class TunedImap(Imap):
    def stream(self, function: Function, items: Iterable[Any]) -> Iterator[Any]:
        return self.pool.imap(function, items, chunksize=self.chunksize(items, STREAM_CHUNK))  # type: ignore[no-any-return]


class ImapUnordered(Imap):
    """Its results come in any order; to compare them they are sorted, outside of what is a stream."""

    offers = frozenset({"map", "merge"})

    def map(self, function: Function, items: Iterable[Any]) -> list[Any]:
        """Each with its place, so that the order of the input can be restored, as a user would have to."""
        found = list(self.pool.imap_unordered(Placed(function), enumerate(items), chunksize=self.size(items)))
        found.sort(key=by_place)
        return [result for _, result in found]

    def stream(self, function: Function, items: Iterable[Any]) -> Iterator[Any]:
        return self.pool.imap_unordered(function, items, chunksize=self.size(items))  # type: ignore[no-any-return]

    def merge(self, function: Function, items: Sequence[Any]) -> dict[str, int]:
        from functools import reduce

        from .base import merge_counts

        return reduce(merge_counts, self.stream(function, items), {})

    def size(self, items: Iterable[Any]) -> int:
        return self.chunksize(items, STREAM_CHUNK)


class Placed:
    """A function of (place, item)."""

    def __init__(self, function: Function):
        self.function = function

    def __call__(self, placed: tuple[int, Any]) -> tuple[int, Any]:
        place, item = placed
        return place, self.function(item)


def by_place(placed: tuple[int, Any]) -> int:
    return placed[0]


class Billiard(Pool):
    """Its `imap` has chunks of one, as that of multiprocessing."""

    family = "billiard"
    modules = ("billiard",)
    distribution = "billiard"
    offers = ALL
    restless = True

    def open(self) -> None:
        import billiard

        self.pool = billiard.Pool(self.workers)

    def stream(self, function: Function, items: Iterable[Any]) -> Iterator[Any]:
        return self.pool.imap(function, items)  # type: ignore[no-any-return]


class Pathos(Pool):
    """`ProcessPool`: multiprocess, which pickles with dill."""

    family = "pathos"
    modules = ("pathos",)
    distribution = "pathos"
    offers = ALL

    def open(self) -> None:
        from pathos.pools import ProcessPool

        self.pool = ProcessPool(self.workers)

    def close(self) -> None:
        self.pool.close()
        self.pool.join()
        self.pool.clear()

    def map(self, function: Function, items: Iterable[Any]) -> list[Any]:
        return self.pool.map(function, items)  # type: ignore[no-any-return]

    def stream(self, function: Function, items: Iterable[Any]) -> Iterator[Any]:
        return self.pool.imap(function, items)  # type: ignore[no-any-return]

    def call(self, function: Function, item: Any) -> Any:
        return self.pool.apipe(function, item).get()


class Mpire(Side):
    """`WorkerPool(n_jobs)`: by default workers are started for each map and leave after it."""

    family = "mpire"
    modules = ("mpire",)
    distribution = "mpire"
    offers = ALL
    restless = True
    options: dict[str, Any] = {}  # noqa: RUF012 - a constant

    def open(self) -> None:
        import mpire

        self.pool = mpire.WorkerPool(n_jobs=self.workers, **self.options)

    def close(self) -> None:
        self.pool.stop_and_join()
        self.pool.terminate()

    def map(self, function: Function, items: Iterable[Any]) -> list[Any]:
        """Items as tuples of arguments, since an array would be taken for one of items."""
        arguments = ((item,) for item in items)
        return self.pool.map(  # type: ignore[no-any-return]
            function, arguments, concatenate_numpy_output=False, **self.sizes(items)
        )

    def stream(self, function: Function, items: Iterable[Any]) -> Iterator[Any]:
        arguments = ((item,) for item in items)
        return self.pool.imap(function, arguments, **self.sizes(items))  # type: ignore[no-any-return]

    def call(self, function: Function, item: Any) -> Any:
        return self.pool.apply(function, (item,))

    def sizes(self, items: Iterable[Any]) -> dict[str, Any]:
        return {"iterable_len": len(items)} if isinstance(items, Sequence) else {}


class TunedMpire(Mpire):
    """Workers that stay, chunks by hand; a large argument is inherited, as its docs say."""

    options = {"keep_alive": True}  # noqa: RUF012 - a constant

    def sizes(self, items: Iterable[Any]) -> dict[str, Any]:
        return {**super().sizes(items), "chunk_size": self.chunksize(items, STREAM_CHUNK)}

    def shared(self, function: Callable[[Any, Any], Any], thing: Any, items: Sequence[Any]) -> list[Any]:
        import mpire

        with mpire.WorkerPool(self.workers, shared_objects=thing, start_method="fork") as pool:
            return pool.map(function, items)  # type: ignore[no-any-return]

    def reduce(self, add: Callable[[Any, Any], Any], function: Function, items: range) -> Any:
        return sum_in_chunks(self, add, function, items)


SIDES: dict[str, type[Side]] = {
    "Pool.map": Pool,
    "Pool.map, forkserver": ForkserverPool,
    "Pool.map, chunksize": TunedPool,
    "Pool.imap": Imap,
    "Pool.imap, chunksize": TunedImap,
    "Pool.imap_unordered": ImapUnordered,
    "billiard": Billiard,
    "pathos": Pathos,
    "mpire": Mpire,
    "mpire, keep_alive": TunedMpire,
}
