"""What a peer is to the benchmarks: an adapter of a few lines, in one form.

A side is a peer called in one way: with its defaults, or with what its own docs recommend for the work. It
offers some of these calls, and takes part in the works that need no others:

    map(function, items)              a list of results, in the order of the items
    stream(function, items)           an iterator of results, in that order, while the items are read
    call(function, item)              one item, there and back
    coroutines(function, items)       as map, for an `async def`
    shared(function, thing, items)    as map(partial(function, thing), items): how a large argument is passed
    reduce(add, function, items)      the sum of function(item)
    merge(function, items)            the dictionary of all counts, where function(item) counts some of them

`offers` says which, so that the parent knows it without importing the peer.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from functools import partial, reduce
from typing import Any

CHUNK_SECONDS = 0.01
"""How long a chunk takes where its size is chosen by hand: what carries it is then less than a tenth."""

Function = Callable[[Any], Any]


class NotOffered(Exception):
    """The peer has no such call."""


def merge_counts(total: dict[str, int], more: dict[str, int]) -> dict[str, int]:
    """Add the counts of one dictionary to another, in place."""
    for word, count in more.items():
        total[word] = total.get(word, 0) + count
    return total


class Side:
    """One peer in one form; the class is the form, an object has open workers.

    Attributes:
        family: the peer, as `--peer` spells it.
        modules: what must be installed, as it is imported.
        distribution: the name under which it is installed, for its version; empty for the standard library.
        offers: the calls that it has, and that make sense to compare.
        ours: whether it is parallelkit.
        reference: it is no peer: a serial loop or a floor.
        processes: its workers are processes, and not threads or coroutines.
        restless: it uses the processor while it has nothing to do; it is stopped while others have their
            turn.
        item_seconds: about how long an item of the present case takes, for sides that are tuned.
    """

    family = ""
    modules: tuple[str, ...] = ()
    distribution = ""
    offers: frozenset[str] = frozenset()
    ours = False
    reference = False
    processes = True
    restless = False
    item_seconds = 1e-6
    pool: Any = None

    def __init__(self, workers: int):
        self.workers = workers

    def __enter__(self) -> Side:
        self.open()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def open(self) -> None:
        """Have workers. What is imported for it is imported here."""
        raise NotImplementedError

    def close(self) -> None:
        self.pool.__exit__(None, None, None)

    def map(self, function: Function, items: Iterable[Any]) -> list[Any]:
        raise NotOffered("a map")

    def start(self, function: Function, items: Sequence[Any]) -> list[Any]:
        """A map on the workers of this object, which leave when it is closed."""
        return self.map(function, items)

    def stream(self, function: Function, items: Iterable[Any]) -> Iterator[Any]:
        raise NotOffered("a stream of results")

    def call(self, function: Function, item: Any) -> Any:
        raise NotOffered("a call of one item")

    def coroutines(self, function: Callable[[Any], Awaitable[Any]], items: Iterable[Any]) -> list[Any]:
        return self.map(function, items)

    def shared(self, function: Callable[[Any, Any], Any], thing: Any, items: Sequence[Any]) -> list[Any]:
        return self.map(partial(function, thing), items)

    def reduce(self, add: Callable[[Any, Any], Any], function: Function, items: range) -> Any:
        """Where there is no reduction: in the parent, over the results."""
        return reduce(add, self.map(function, items))

    def merge(self, function: Function, items: Sequence[Any]) -> dict[str, int]:
        """In the parent too; a stream, if there is one, so that it goes on while others still count."""
        results = self.stream(function, items) if "stream" in self.offers else self.map(function, items)
        return reduce(merge_counts, results, {})

    # For forms that are tuned

    def chunksize(self, items: Iterable[Any], most: int = 1 << 20) -> int:
        """Chunks of `CHUNK_SECONDS`, but four for each worker at least, as multiprocessing makes them."""
        by_time = max(1, round(CHUNK_SECONDS / self.item_seconds))
        length = len(items) if isinstance(items, Sequence) else most
        return max(1, min(by_time, -(-length // (4 * self.workers)), most))


def sum_in_chunks(side: Side, add: Callable[[Any, Any], Any], function: Function, items: range) -> Any:
    """A reduction made by hand: a few large pieces, reduced by themselves, and their sums in the parent."""
    step = -(-len(items) // (4 * side.workers))
    pieces = [items[start : start + step] for start in range(0, len(items), step)]
    return reduce(add, side.map(partial(reduce_piece, add, function), pieces))


def reduce_piece(add: Callable[[Any, Any], Any], function: Function, piece: range) -> Any:
    return reduce(add, map(function, piece))


def missing(side: type[Side]) -> str:
    """The first module that this side needs and that is not installed; empty if there is none."""
    import importlib.util  # here and below: a program that measures its own start imports this file

    for module in side.modules:
        if importlib.util.find_spec(module) is None:
            return module
    return ""


def version_of(side: type[Side]) -> str:
    """The version of what is installed; empty for the standard library."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(side.distribution) if side.distribution else ""
    except PackageNotFoundError:
        return "?"
