"""Who is ahead, row by row."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from .figures import Report, Row, kind, ours, reference

FLOOR_MARGIN = 1.03
"""Within 3 % of the floor nothing is left to win, whoever else is there too."""

AHEAD, AT_FLOOR, BEHIND, ALONE = "ahead", "at the floor", "behind", "no peer did it"


@dataclass
class Line:
    """A line of a table: the median of a row, or its 99th percentile."""

    work: str
    row: Row
    percentile: int = 50

    @property
    def name(self) -> str:
        return self.row.name + (f", {self.percentile}th percentile" if self.percentile != 50 else "")

    def value(self, side: str) -> float:
        return self.of(self.row.benchmarks[side])

    def of(self, benchmark: Any) -> float:
        return float(benchmark.median() if self.percentile == 50 else benchmark.percentile(self.percentile))

    def spread(self, side: str) -> float:
        """The median absolute deviation; 0 where there is one value, or where the line is no median."""
        benchmark = self.row.benchmarks[side]
        if self.percentile != 50 or benchmark.get_nvalue() < 2:
            return 0.0
        return float(benchmark.median_abs_dev())

    # Who is who

    @property
    def our_side(self) -> str | None:
        return next((side for side in self.row.benchmarks if ours(side)), None)

    @property
    def best_peer(self) -> str | None:
        peers = [side for side in self.row.benchmarks if not ours(side) and not reference(side)]
        in_finals = [side for side in peers if side in self.row.finalists]
        peers = in_finals or peers
        return min(peers, key=self.value, default=None)

    def is_rough(self, side: str) -> bool:
        """Whether a side had the first rounds only, where others had more."""
        return bool(self.row.finalists) and side not in self.row.finalists

    def reference(self, family: str) -> str | None:
        """The serial loop, or the floor."""
        return next((side for side in self.row.benchmarks if kind(side).family == family), None)

    @property
    def floor(self) -> float | None:
        side = self.reference("floor")
        return self.value(side) if side else None

    @property
    def ideal(self) -> float | None:
        """Seconds if nothing were lost."""
        facts = self.row.facts
        if self.percentile != 50:
            return None
        if facts["ideal_seconds"]:
            return float(facts["ideal_seconds"])
        serial = self.reference("serial")
        return self.value(serial) * float(facts["ideal"]) if serial and facts["ideal"] else None

    # The verdict

    @property
    def ratio(self) -> float | None:
        """Ours to the best peer's."""
        if self.our_side is None or self.best_peer is None:
            return None
        return self.value(self.our_side) / self.value(self.best_peer)

    @property
    def verdict(self) -> str:
        if self.our_side is None:
            return BEHIND if self.best_peer else ALONE
        if self.ratio is None:
            return ALONE
        if self.ratio <= 1.0:
            return AHEAD
        least = [limit for limit in (self.floor, self.ideal) if limit is not None]
        if least and self.value(self.our_side) <= FLOOR_MARGIN * max(least):
            return AT_FLOOR
        return BEHIND

    @property
    def doubtful(self) -> bool:
        """Whether the distance to the best peer is within the spread of the two."""
        if self.our_side is None or self.best_peer is None:
            return False
        distance = abs(self.value(self.our_side) - self.value(self.best_peer))
        return distance <= self.spread(self.our_side) + self.spread(self.best_peer)


def lines(report: Report) -> Iterator[Line]:
    for group in report.groups:
        for row in group.rows:
            yield from lines_of(f"{group.number}. {group.title}", row)


def lines_of(work: str, row: Row) -> Iterator[Line]:
    yield Line(work, row)
    if row.facts["tail"]:
        yield Line(work, row, 99)
