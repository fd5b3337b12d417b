"""How many items the next chunk takes."""

from __future__ import annotations

from typing import Protocol

__all__ = ["Adaptive", "Fixed", "Splitter"]

CHUNK_SECONDS = 0.02  # benchmarks/constants.py
"""The run time that a chunk aims at: two hundred times what it costs to carry one."""

SHARES = 2
"""A chunk takes at most one part in SHARES x workers of what is left, so that sizes shrink at the end. Where
tails can be taken back it may be one in so many workers: what is uneven then is evened out."""

EVENLY = 0  # benchmarks/constants.py
"""In the place of SHARES: chunks may be as large as an even share of all that is left, also of what is with
workers. These have nothing else that waits, and tails are taken back."""

LEAST_SECONDS = 0.001  # benchmarks/constants.py
"""Sizes shrink no further than to this run time: below it a chunk costs more to carry than it evens out."""

GROWTH = 16  # benchmarks/constants.py
"""A chunk is at most this many times as long as the longest that was measured: first items can mislead."""


class Splitter(Protocol):
    """Decides the size of chunks, and learns from the ones that ended."""

    def size(self, remaining: int | None, workers: int, running: int = 0) -> int:
        """Items for the next chunk, at least 1.

        Args:
            remaining: items that are not handed out; None where the input's length is unknown.
            running: items that are with workers.
        """
        ...

    def learn(self, items: int, seconds: float) -> None:
        """A worker ran `items` in `seconds`."""
        ...

    def seconds(self, items: int) -> float:
        """How long `items` will take, as far as is known."""
        ...


class Fixed:
    """Chunks of a given size: the caller's `chunksize`."""

    def __init__(self, chunksize: int):
        self._chunksize = chunksize

    def size(self, remaining: int | None, workers: int, running: int = 0) -> int:
        return self._chunksize

    def learn(self, items: int, seconds: float) -> None:
        pass

    def seconds(self, items: int) -> float:
        return float(items)


class Adaptive:
    """Chunks that aim at a run time, from what items were measured to cost.

    Args:
        first: items in the first chunks, before anything was measured. Where tails can be taken
            back it may be large; where not, 1.
        chunk_seconds: the run time to aim at.
        least: a chunk is not smaller than this, but at the end of the input: coroutines in flight together.
        most: the chunks of all workers have no more items than this, however cheap; None for any number.
        shares: see `SHARES`.
        blind: items in the first chunks as long as the end of the input is not known; None for `first`.
        growth: see `GROWTH`.
    """

    def __init__(
        self,
        first: int = 1,
        chunk_seconds: float = CHUNK_SECONDS,
        least: int = 1,
        most: int | None = None,
        shares: int = SHARES,
        blind: int | None = None,
        growth: int = GROWTH,
    ):
        self._shares = shares
        self._most = most
        self._least = least
        self._first = first
        self._blind = first if blind is None else blind
        self._growth = growth
        self._chunk_seconds = chunk_seconds
        self._seconds_per_item: float | None = None
        self._longest = first

    def size(self, remaining: int | None, workers: int, running: int = 0) -> int:
        shares = self._shares
        if self._seconds_per_item is None:
            size, worthwhile = self._blind if remaining is None else self._first, 1
            shares = shares and SHARES  # nor is it known what they take to be sent
        else:
            size = min(int(self._chunk_seconds / self._seconds_per_item), self._growth * self._longest)
            worthwhile = int(LEAST_SECONDS / self._seconds_per_item)
        if remaining is not None:
            fair = -(-(remaining + running) // workers)  # of what is left it would halve down to one item
            share = max(-(-remaining // (shares * workers)) if shares else fair, min(worthwhile, fair))
            size = min(size, share)
            if size >= worthwhile and remaining - size < worthwhile // 2:
                size = remaining  # what is left would not be worth its road
        if self._most is not None:
            size = min(size, self._most // workers)
        return max(self._least, size)

    def learn(self, items: int, seconds: float) -> None:
        if items < 1:
            return
        self._longest = max(self._longest, items)
        # A clock may not resolve one item; a nanosecond is below what any item costs.
        measured = max(seconds / items, 1e-9)
        known = self._seconds_per_item
        # The last chunks tell most, since costs may drift along the input; half is memory of the others.
        self._seconds_per_item = measured if known is None else (known + measured) / 2

    def seconds(self, items: int) -> float:
        return items * (1.0 if self._seconds_per_item is None else self._seconds_per_item)
