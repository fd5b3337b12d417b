"""The scheduler with virtual workers in virtual time: `python benchmarks/simulation.py`.

Thousands of workers and a million items take seconds, and nothing of it depends on the machine. The parent's
side is real: a `Scheduler` in a `Driver`, whose clock is turned by hand. The workers are those of
`virtual_workers.py`. The time that the parent takes is not played but measured.

`Simulation(costs, workers).run()` is one call. The script prints, by law of the costs and number of workers,
the makespan (divided by the lower bound, max(sum / workers, largest item)), the number of chunks, and the
time that the scheduler takes for each of them.
"""

from __future__ import annotations

import argparse
import gc
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from time import perf_counter
from typing import Any

import numpy as np

from parallelkit import _driver
from parallelkit._call import Call
from parallelkit._core.outcome import Outcomes
from parallelkit._core.scheduler import Fact, Flight, Scheduler
from parallelkit._core.splitters import Splitter
from parallelkit._opening import splitter
from parallelkit._work import Work
from parallelkit.backends.base import Backend

if __package__:
    from .virtual_workers import Costs, VirtualWorkers
else:
    from virtual_workers import Costs, VirtualWorkers

CARRY_SECONDS = 0.0001
"""What a chunk costs its worker besides its items: a frame read, a slice unpickled, results sent."""

DEPTH = 2
"""Chunks that a worker holds at once, as in the process backend: the one it runs and one that waits."""


def lower_bound(costs: Costs, workers: int) -> float:
    """No schedule ends sooner: seconds."""
    return max(float(costs.sum()) / workers, float(costs.max()))


def plentiful(costs: Costs, workers: int) -> bool:
    """Whether there is so much to do that whoever hands it out has no excuse.

    A worker's share is at least 50 items and 1,000 times what carrying a chunk costs; and no item but the
    first is longer than a fiftieth of a share. A longer one may be the last to begin, whatever hands it out
    without knowing what it costs. The first item begins at once, so it may be a giant.
    """
    share = float(costs.sum()) / workers
    return (
        len(costs) >= 50 * workers
        and share >= 1000 * CARRY_SECONDS
        and float(costs[1:].max()) <= max(share, float(costs[0])) / 50
    )


class TimedScheduler(Scheduler):
    """Knows what it cost, in seconds by the clock of this machine."""

    seconds = 0.0

    def next_chunk(self, *args: Any, **options: Any) -> Flight | None:
        began = perf_counter()
        flight = super().next_chunk(*args, **options)
        self.seconds += perf_counter() - began
        return flight

    def next_victim(self) -> Flight | None:
        began = perf_counter()
        victim = super().next_victim()
        self.seconds += perf_counter() - began
        return victim

    def receive(self, fact: Fact, now: float) -> list[Outcomes]:
        began = perf_counter()
        outcomes = super().receive(fact, now)
        self.seconds += perf_counter() - began
        return outcomes


class _VirtualCall(Call):
    def __init__(self, scheduler: Scheduler, workers: VirtualWorkers):
        self.work = Work(None)
        self.scheduler = scheduler
        self.delivered: list[Outcomes] = []
        self.finished_at: float | None = None
        self._workers = workers

    def deliver(self, outcomes: list[Outcomes]) -> None:
        self.delivered += outcomes

    def finish(self, error: BaseException | None) -> None:
        if error is None:
            self.finished_at = self._workers.now


class Simulation:
    """One call on virtual workers.

    Args:
        costs: seconds of each item.
        can_give_back: tails can be taken back; False for workers that are far away.
        stream: the input is an iterator, read through the window; results are read in order as they come.
        options: of the `Scheduler`.

    Attributes:
        workers: the backend, which has counted.
        scheduler: it has measured its own time.
    """

    def __init__(
        self,
        costs: Costs,
        workers: int,
        *,
        splitter: Splitter | None = None,
        can_give_back: bool = True,
        depth: int = DEPTH,
        carry: float = CARRY_SECONDS,
        latency: float = 0.0,
        stream: bool = False,
        **options: Any,
    ):
        self.bound = lower_bound(costs, workers)
        self.workers = VirtualWorkers(
            costs, workers, depth=depth, can_give_back=can_give_back, carry=carry, latency=latency
        )
        self.scheduler = TimedScheduler(
            splitter or _default_splitter(self.workers, sized=not stream),
            count(1).__next__,
            **{"workers": workers, "ordered": stream, "window": None if stream else math.inf} | options,
        )
        self._call = _VirtualCall(self.scheduler, self.workers)
        self._items = range(len(costs))
        self._pulled = 0
        self._stream = stream

    def run(self) -> Simulation:
        """Play the call to its end."""
        workers = self.workers
        most_chunks = 2 * len(self._items) + 8 * self.scheduler.workers
        with _clock_of(workers):
            self._driver = _driver.Driver(workers)
            try:
                self._driver.open(self._call, None if self._stream else self._items, ended=not self._stream)
                self._read()
                while workers.busy:
                    workers.play()
                    self._read()
                    assert workers.chunks <= most_chunks, (
                        f"{workers.chunks} chunks of {len(self._items)} items"
                    )
            finally:
                self._driver.close(kill=RuntimeError("the simulation is over"))
        assert self._call.finished_at is not None, "the workers are idle, and the call is not done"
        return self

    def _read(self) -> None:
        """As whoever reads a stream: take what has come, pull what there is room for."""
        delivered, self._call.delivered = self._call.delivered, []
        if not self._stream:
            return
        self._driver.consumed(self._call, sum(map(len, delivered)))
        while wanted := min(self.scheduler.wanted, len(self._items) - self._pulled):
            start, self._pulled = self._pulled, self._pulled + wanted
            self._driver.feed(
                self._call, self._items[start : self._pulled], ended=self._pulled == len(self._items)
            )

    @property
    def makespan(self) -> float:
        """When the call was done: seconds."""
        assert self._call.finished_at is not None, "it has not run"
        return self._call.finished_at

    @property
    def ratio(self) -> float:
        """The makespan, divided by the lower bound."""
        return self.makespan / self.bound


def _default_splitter(backend: Backend, *, sized: bool) -> Splitter:
    """What an executor with this backend takes where no chunksize is given."""
    return splitter(backend, Work(None), None, sized=sized, most=None)


@contextmanager
def _clock_of(workers: VirtualWorkers) -> Iterator[None]:
    """The driver's clock is that of the virtual workers."""
    real = _driver.monotonic
    _driver.monotonic = lambda: workers.now
    try:
        yield
    finally:
        _driver.monotonic = real


# Laws: the costs of n items, in any unit


def uniform(n: int, workers: int) -> Costs:
    """All the same."""
    return np.ones(n)


def rising(n: int, workers: int) -> Costs:
    return np.linspace(0.0, 2.0, n)


def falling(n: int, workers: int) -> Costs:
    return np.linspace(2.0, 0.0, n)


def pareto(n: int, workers: int) -> Costs:
    """Few items are much of the work: the exponent is 2, so that the variance is infinite."""
    return np.random.default_rng(7).pareto(2.0, n) + 1.0


def bimodal(n: int, workers: int) -> Costs:
    """One item in twenty costs a hundred times as much, anywhere."""
    return np.where(np.random.default_rng(7).random(n) < 0.05, 100.0, 1.0)


def giant_first(n: int, workers: int) -> Costs:
    """The first item is a whole share of a worker."""
    costs = np.ones(n)
    costs[0] = max(1.0, (n - 1) / max(1, workers - 1))
    return costs


def heavy_tail(n: int, workers: int) -> Costs:
    """The last items, one in a hundred, are half of the work: a jump by a factor of 99."""
    costs = np.ones(n)
    costs[-(n // 100) :] = 99.0
    return costs


LAWS: dict[str, Callable[[int, int], Costs]] = {
    law.__name__: law for law in (uniform, rising, falling, pareto, bimodal, giant_first, heavy_tail)
}


def costs_of(law: str, n: int, workers: int, share: float) -> Costs:
    """The costs of n items by a law, scaled so that a worker's share of the whole is `share` seconds."""
    costs = LAWS[law](n, workers)
    return costs * (share * workers / costs.sum())


# Tables


def simulated(law: str, items: int, workers: int, share: float, **options: Any) -> Simulation:
    gc.collect()  # now, and not while the scheduler's time is taken
    return Simulation(costs_of(law, items, workers, share), workers, **options).run()


def makespan(played: Simulation) -> str:
    return f"{played.ratio:.3f}"


def chunks_per_worker(played: Simulation) -> str:
    return f"{played.workers.chunks / played.scheduler.workers:.1f}"


def tails_per_worker(played: Simulation) -> str:
    return f"{played.workers.given / played.scheduler.workers:.1f}"


def scheduler_time(played: Simulation) -> str:
    return f"{played.scheduler.seconds / played.workers.chunks * 1e6:.1f}"


def driver_time(played: Simulation) -> str:
    return f"{played.workers.driver_seconds / played.workers.chunks * 1e6:.1f}"


COLUMNS: dict[str, Callable[[Simulation], str]] = {
    "makespan / lower bound; in brackets where items are not plentiful": makespan,
    "chunks, per worker": chunks_per_worker,
    "tails taken back, per worker": tails_per_worker,
    "the scheduler's own time, us per chunk": scheduler_time,
    "the same with the driver around it, us per chunk": driver_time,
}


def print_table(title: str, head: list[str], rows: dict[str, list[str]]) -> None:
    print(f"\n{title}")
    print(" " * 12 + "".join(f"{cell:>10}" for cell in head))
    for name, cells in rows.items():
        print(f"{name:<12}" + "".join(f"{cell:>10}" for cell in cells))


def tables(title: str, items: int, numbers: list[int], share: float, **options: Any) -> None:
    """One table for each of COLUMNS: laws down, numbers of workers across."""
    print(f"\n== {title}: {items:,} items, {share:g} s of work for each worker ==")
    rows: dict[str, dict[str, list[str]]] = {column: {law: [] for law in LAWS} for column in COLUMNS}
    for law in LAWS:
        for workers in numbers:
            played = simulated(law, items, workers, share, **options)
            for column, read in COLUMNS.items():
                cell = read(played)
                if read is makespan and not plentiful(costs_of(law, items, workers, share), workers):
                    cell = f"({cell})"
                rows[column][law].append(cell)
    head = [f"{workers:,}" for workers in numbers]
    for column, table in rows.items():
        if any(float(cell.strip("()")) for cells in table.values() for cell in cells):
            print_table(f"{column}; by workers", head, table)


def table_of_lengths(lengths: list[int], workers: int) -> None:
    """What a chunk costs the scheduler must not grow with the input; its items take 1 ms each."""
    head = [f"{length:,}" for length in lengths]
    rows: dict[str, list[str]] = {"uniform": [], "pareto": []}
    for law, cells in rows.items():
        for length in lengths:
            cells.append(scheduler_time(simulated(law, length, workers, 0.001 * length / workers)))
    print_table(f"the scheduler's own time, us per chunk; {workers} workers, by items of 1 ms", head, rows)


def main() -> None:
    parser = argparse.ArgumentParser(description="The scheduler with virtual workers in virtual time.")
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 8, 64, 512, 4096])
    parser.add_argument("--share", type=float, default=1.0, help="seconds of work for each worker")
    given = parser.parse_args()
    gc.disable()
    tables("tails are taken back", given.items, given.workers, given.share)
    tables(
        "workers that are far away: 1 ms to each, and no tail comes back",
        given.items, given.workers, given.share, can_give_back=False, latency=0.001,
    )  # fmt: skip
    table_of_lengths([length for length in (1000, 10_000, 100_000, 1_000_000) if length <= given.items], 64)


if __name__ == "__main__":
    main()
