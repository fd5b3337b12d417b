"""What a work is: cases, each measured on every side that offers what it needs, and checked.

A work runs in one child process for each side, see `benchmarks/side.py`. The parent has the same cases, for
their names and limits, as the child, which measures. So a module of works imports NumPy and the like where
they are used.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from time import perf_counter
from typing import Any

from ..measuring import WrongResult
from ..peers.base import Side
from ..peers.ours import Floor

QUICK, DEFAULT, FULL = range(3)

WARM_SECONDS = 0.3
"""A call that takes longer than this is not made twice to be warm: what is cold at first is small in it."""

REPEAT_SECONDS = 0.1
"""Shorter calls are repeated for so long within a round."""


@dataclass(frozen=True)
class Plan:
    """What all sides of a run have in common.

    Attributes:
        level: QUICK, DEFAULT or FULL.
        workers: processes.
        speed: how many loops of `burn` this machine does in a second.
        folder: for files, shared by all.
    """

    level: int
    workers: int
    speed: float
    folder: str

    def choose(self, quick: Any, default: Any, full: Any) -> Any:
        return (quick, default, full)[self.level]

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass
class Measured:
    """One round of a case.

    Attributes:
        values: seconds or bytes, each of one repetition.
        proof: what the result boils down to; that of every side must be that of the serial loop. Empty
            where the case has compared the result itself.
    """

    values: list[float]
    proof: str = ""


@dataclass(frozen=True, kw_only=True)
class Case:
    """One row of the report.

    Attributes:
        measure: one round, in the child.
        needs: the call that a side must offer.
        floor: the same work without any pool, measured on the side "floor".
        floor_name: what that is.
        ideal: the part of the serial loop's seconds that the work takes if nothing is lost.
        ideal_seconds: the same, where it follows from the work alone.
        unit: "second" or "byte".
        tail: the 99th percentile is a row too.
        limit: seconds of a round, after which a side is too slow; 0 for that of the run.
        grows_from, times, steady: a smaller case, and how many times as much this is, but for the seconds
            that stay the same: a side that was too slow there, or would be here, is not tried.
        rounds: the most; 0 for those of the work.
        apart: each round in a new child, which is killed after it.
        watch: what is measured is how far the memory of all of the side's processes grows.
        leaves_out: sides that do not take part, with the reason; without one they are not even named.
        item_seconds: about how long an item takes.
        payload: bytes that cross, one way.
        panel, x: where its figure is in the plot.
    """

    name: str
    measure: Callable[[Side, int], Measured]
    needs: str = "map"
    floor: Callable[[Floor, int], Measured] | None = None
    floor_name: str = ""
    ideal: float = 0.0
    ideal_seconds: float = 0.0
    unit: str = "second"
    tail: bool = False
    limit: float = 0.0
    grows_from: str = ""
    times: float = 1.0
    steady: float = 0.0
    rounds: int = 0
    apart: bool = False
    watch: bool = False
    leaves_out: dict[str, str] = field(default_factory=dict)
    item_seconds: float = 1e-6
    payload: int = 0
    panel: str = ""
    x: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Work:
    """A group of cases, measured in the same children.

    Attributes:
        text: what is done, for the report.
        cases: by plan.
        prepare: makes files that all sides read; runs once, in the parent.
        opens: whether a side is opened when its child starts.
        rounds: the most; 0 for those of the run.
        workers: of sides that offer one of these, instead of the number of processes.
        quick_clusters: whether `--quick` starts the clusters too, which take seconds.
        plot: the kind of its picture, see `plots.py`.
        spelled: as "package.module:NAME", where the work is not in our table.
    """

    number: int
    name: str
    title: str
    text: str
    cases: Callable[[Plan], list[Case]]
    prepare: Callable[[Plan], None] = lambda plan: None
    opens: bool = True
    rounds: int = 0
    workers: int = 0
    quick_clusters: bool = False
    plot: str = "bars"
    spelled: str = ""


# ---------------------------------------------------------------- measuring


def proof_of(results: Sequence[Any]) -> str:
    """Of numbers, strings and tuples of them: children have the same hash seed."""
    return f"{len(results)}:{hash(tuple(results)):x}"


def timed(
    call: Callable[[Any], Any],
    check: Callable[[Any], str] = proof_of,
    prepare: Callable[[], Any] = lambda: None,
    warm_up: bool | None = None,
) -> Measured:
    """How long a call takes, with its argument made, and its result checked and freed, outside of that time.

    Between two rounds of a side others had the machine, so the first call of a round is not counted.

    Args:
        warm_up: True to leave out the first call however long it takes, False to count it; None for one
            that is shorter than `WARM_SECONDS`.
    """
    proof = ""

    def once() -> float:
        nonlocal proof
        argument = prepare()
        began = perf_counter()
        result = call(argument)
        took = perf_counter() - began
        proof = check(result)
        return took

    first = once()
    if warm_up is False or (warm_up is None and first > WARM_SECONDS):
        return Measured([first], proof)
    values = [once()]
    while sum(values) < REPEAT_SECONDS and len(values) < 20:
        values.append(once())
    return Measured(values, proof)


def expect(expected: Any, found: Any) -> str:
    """A check that compares."""
    if found != expected:
        raise WrongResult(f"{str(found)[:60]} instead of {str(expected)[:60]}")
    return ""


def mapped(name: str, function: Callable[[Any], Any], items: Callable[[], Any], **more: Any) -> Case:
    """A case that maps a function over items, which are made anew each time, outside of what is timed."""

    def measure(side: Side, round_number: int) -> Measured:
        return timed(lambda given: side.map(function, given), prepare=items)

    return Case(name=name, measure=measure, **more)


def list_map(function: Callable[[Any], Any], items: Iterable[Any]) -> list[Any]:
    return list(map(function, items))


def floor_of(function: Callable[[Any], Any], parts: Callable[[int], list[Any]]) -> dict[str, Any]:
    """Plain processes that have their parts of the items already, and send their results.

    Args:
        parts: of the items, for a number of processes.
    """

    def floor(side: Floor, round_number: int) -> Measured:
        given = parts(side.workers)
        took, answers = side.together([partial(list_map, function, part) for part in given])
        if [len(answer) for answer in answers] != [len(part) for part in given]:
            raise WrongResult("the floor")
        return Measured([took])

    return {"floor": floor, "floor_name": "plain processes"}


def slices(items: Sequence[Any], count: int) -> list[Any]:
    """So many slices of the same length, nearly."""
    return [items[len(items) * n // count : len(items) * (n + 1) // count] for n in range(count)]
