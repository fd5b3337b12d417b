"""What became of consecutive items."""

from __future__ import annotations

from collections.abc import Set
from typing import Any

__all__ = ["Outcomes"]


class Outcomes:
    """The outcomes of the items `start` up to, not including, `stop`.

    In a map, `values` has one value per item, and `failures` names, by index in the input, those
    whose place in `values` holds nothing. In a reduce, `values` has the fold nodes of the items
    (see `fold`), and the failed items are in none of them. Not `retriable`: what failed cannot be mended
    by trying its items again. `final` has the items of which that is true one by one.
    """

    __slots__ = ("failures", "final", "retriable", "start", "stop", "values")

    def __init__(
        self,
        start: int,
        stop: int,
        values: list[Any],
        failures: dict[int, Exception] | None = None,
        retriable: bool = True,
    ):
        self.start = start
        self.stop = stop
        self.values = values
        self.failures = {} if failures is None else failures
        self.retriable = retriable
        self.final: Set[int] = frozenset()

    def __repr__(self) -> str:
        failed = f", {len(self.failures)} failed" if self.failures else ""
        return f"<Outcomes of items {self.start} to {self.stop}{failed}>"

    def __len__(self) -> int:
        return self.stop - self.start

    def without(self, indices: Set[int]) -> list[Outcomes]:
        """The same outcomes with holes at `indices` (they will be tried again): the pieces between."""
        pieces = []
        start = self.start
        for hole in [*sorted(indices), self.stop]:
            if start < hole:
                values = self.values[start - self.start : hole - self.start]
                failures = {i: e for i, e in self.failures.items() if start <= i < hole}
                pieces.append(Outcomes(start, hole, values, failures))
            start = hole + 1
        return pieces

    @classmethod
    def all_failed(cls, start: int, stop: int, error: Exception) -> Outcomes:
        """Outcomes of items that all failed for the same reason."""
        return cls(start, stop, [None] * (stop - start), dict.fromkeys(range(start, stop), error))
