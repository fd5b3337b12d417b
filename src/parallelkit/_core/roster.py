"""Which workers there are, and how many chunks each has."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Literal

__all__ = ["Roster"]


class Roster:
    """The workers by their load; every step is of constant cost, however many there are.

    Args:
        depth: chunks that a worker holds at once.

    >>> roster = Roster(depth=2)
    >>> roster.join("ann")
    >>> roster.join("bob")
    >>> roster.add("bob", 1)
    >>> roster.pick(0), roster.pick(1), roster.load("bob")
    ('ann', 'bob', 1)
    """

    def __init__(self, depth: int) -> None:
        self._loads: dict[Hashable, int] = {}
        self._by_load: list[dict[Hashable, None]] = [{} for _ in range(depth + 1)]

    def __len__(self) -> int:
        return len(self._loads)

    def join(self, worker: Hashable) -> None:
        self._loads[worker] = 0
        self._by_load[0][worker] = None

    def leave(self, worker: Hashable) -> bool:
        """Whether there was such a worker."""
        load = self._loads.pop(worker, None)
        if load is not None:
            del self._by_load[load][worker]
        return load is not None

    def load(self, worker: Hashable) -> int:
        """How many chunks a worker has; 0 where there is no such worker."""
        return self._loads.get(worker, 0)

    def add(self, worker: Hashable, change: Literal[1, -1]) -> None:
        """A worker, if it is still there, got a chunk or is done with one."""
        load = self._loads.get(worker)
        if load is not None:
            del self._by_load[load][worker]
            self._loads[worker] = load + change
            self._by_load[load + change][worker] = None

    def has(self, load: int) -> bool:
        """Whether there are workers of this load."""
        return bool(self._by_load[load])

    def pick(self, load: int, unlike: Hashable = None) -> Hashable:
        """Of the workers of this load, the last that came to it: it is warm; `unlike` only if it is alone."""
        workers = reversed(self._by_load[load])
        worker = next(workers)
        return next(workers, worker) if worker == unlike and unlike is not None else worker
