"""parallelkit, with the same defaults everywhere; and what is no peer: a serial loop, plain processes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial, reduce
from typing import Any

from .base import Function, Side, merge_counts

PROCESSES = frozenset({"start", "map", "stream", "call", "shared", "reduce", "merge", "loops"})


class Parallelkit(Side):
    """`pmap`, `pimap` and `preduce` on so many workers, `Executor.submit` for one call; no other option."""

    family = "parallelkit"
    distribution = "parallelkit"
    offers = PROCESSES
    ours = True
    backend = "process"

    def open(self) -> None:
        from parallelkit import Executor, pimap, pmap, preduce

        self.options: dict[str, Any] = {"backend": self.backend, "max_workers": self.workers}
        self.pmap, self.pimap, self.preduce = pmap, pimap, preduce
        self.pool = Executor(**self.options)  # its workers start with its first call

    def map(self, function: Function, items: Iterable[Any]) -> list[Any]:
        return self.pmap(function, items, **self.options)

    def stream(self, function: Function, items: Iterable[Any]) -> Iterator[Any]:
        return self.pimap(function, items, **self.options)

    def call(self, function: Function, item: Any) -> Any:
        return self.pool.submit(function, item).result()

    def reduce(self, add: Callable[[Any, Any], Any], function: Function, items: range) -> Any:
        return self.preduce(add, items, map=function, **self.options)

    def merge(self, function: Function, items: Sequence[Any]) -> dict[str, int]:
        merged: dict[str, int] = self.preduce(merge_counts, items, map=function, **self.options)
        return merged

    def start(self, function: Function, items: Sequence[Any]) -> list[Any]:
        return list(self.pool.map(function, items))


class Serial(Side):
    """One loop in one process."""

    family = "serial"
    offers = frozenset({"map", "stream", "reduce", "merge"})
    reference = True

    def open(self) -> None:
        pass

    def close(self) -> None:
        pass

    def map(self, function: Function, items: Iterable[Any]) -> list[Any]:
        return list(map(function, items))

    def stream(self, function: Function, items: Iterable[Any]) -> Iterator[Any]:
        return map(function, items)

    def reduce(self, add: Callable[[Any, Any], Any], function: Function, items: range) -> Any:
        return reduce(add, map(function, items))


class Floor(Side):
    """What the machine gives: plain processes that each do their share, a bare pipe, a copy of memory.

    Which of these, each case says for itself; this has the processes.
    """

    family = "floor"
    offers = frozenset({"floor"})
    reference = True

    def open(self) -> None:
        from ..work import SideBySide

        self.pool = SideBySide(self.workers)

    def close(self) -> None:
        pass  # they are daemons

    def together(self, tasks: Sequence[partial[Any]]) -> tuple[float, list[Any]]:
        """Seconds from the word "go" until all have answered, and the answers."""
        found: tuple[float, list[Any]] = self.pool.seconds(tasks)
        return found


SIDES: dict[str, type[Side]] = {
    "parallelkit": Parallelkit,
    "serial loop": Serial,
    "floor": Floor,
}
