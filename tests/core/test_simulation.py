"""The makespan on virtual workers is near the lower bound, and what it costs does not grow.

The simulator is `benchmarks/simulation.py`, which prints the full tables. "Plentiful" is defined there: at
least 50 items and 0.1 s of work for each worker, and no item but the first above a fiftieth of that work.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from parallelkit import _runs, _worker
from parallelkit._core import reorder, scheduler, splitters
from parallelkit._core.fold import LARGEST_LEAF
from parallelkit._core.splitters import Adaptive, Fixed
from parallelkit._work import LocalClaim, Work

ROOT = Path(__file__).parents[2]
sys.path.append(str(ROOT))

from benchmarks.simulation import (  # noqa: E402 - benchmarks are not installed
    LAWS,
    Simulation,
    costs_of,
    lower_bound,
    plentiful,
)
from benchmarks.virtual_workers import VirtualWorkers  # noqa: E402

MOST = 1.05  # the promise: makespan / lower bound wherever items are plentiful
FAR_MOST = 1.1  # where tails cannot be taken back and every message takes a millisecond: not promised, held

ENOUGH = {1: 20_000, 2: 20_000, 8: 100_000, 64: 1_000_000}  # items by workers
CELLS = [
    (law, workers)
    for law in LAWS
    for workers in ENOUGH
    if (law, workers) != ("pareto", 64)  # even a million are not plentiful: the largest is too large
]


def played(law, workers, items=None, share=1.0, **options):
    """A simulation that has run, of items that are plentiful."""
    costs = costs_of(law, items or ENOUGH[workers], workers, share)
    assert plentiful(costs, workers)
    simulation = Simulation(costs, workers, **options).run()
    check_accounts(simulation, len(costs))
    return simulation


def check_accounts(simulation, items):
    """Every item was settled once."""
    stretches = sorted(stretch for stretch in simulation.workers.stretches if stretch[0] < stretch[1])
    assert [start for start, _ in stretches] == [0, *(stop for _, stop in stretches[:-1])]
    assert stretches[-1][1] == items


@pytest.mark.parametrize(("law", "workers"), CELLS)
class TestTheMakespan:
    def test_is_near_the_lower_bound(self, law, workers):
        simulation = played(law, workers)
        assert 1 <= simulation.ratio < MOST
        # A second of work in chunks of 20 ms, and some small ones at both ends.
        assert simulation.workers.chunks < 100 * workers
        assert simulation.workers.asked < 20 * workers

    def test_is_not_far_from_it_where_nothing_comes_back(self, law, workers):
        simulation = played(law, workers, can_give_back=False, latency=0.001)
        assert 1 <= simulation.ratio < FAR_MOST
        assert simulation.workers.asked == 0


@pytest.mark.parametrize("law", LAWS)
class TestTheMakespanOtherwise:
    def test_of_a_short_call(self, law):
        assert played(law, 8, items=1_000_000 if law == "pareto" else None, share=0.15).ratio < MOST

    def test_when_messages_take_their_time(self, law):
        assert played(law, 8, latency=0.0001).ratio < MOST

    def test_of_a_fold(self, law):
        splitter = Adaptive(64, chunk_seconds=0.05)
        assert played(law, 8, share=2.0, splitter=splitter, align=LARGEST_LEAF).ratio < MOST

    @pytest.mark.parametrize("workers", [2, 8])
    def test_of_a_stream(self, law, workers):
        simulation = played(law, workers, share=2.0, stream=True)
        if law == "giant_first":  # what is behind the giant fills the window, and waits for it
            assert simulation.ratio < 2.0
        else:
            assert simulation.ratio < MOST

    def test_of_a_stream_in_any_order(self, law):
        assert played(law, 8, share=2.0, stream=True, ordered=False).ratio < MOST

    @pytest.mark.parametrize("chunks", [1, 2, 6])
    def test_of_fewer_chunks_than_workers(self, law, chunks):
        """The caller asked for them. The first idle workers ask while the chunks are still on their way."""
        items = ENOUGH[8]
        assert played(law, 8, splitter=Fixed(-(-items // chunks))).ratio < MOST


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("law", ["uniform", "rising", "falling", "giant_first"])
def test_the_makespan_on_4096_workers(law):
    assert played(law, 4096, items=1_000_000).ratio < MOST


def test_few_costly_items_are_shared_one_by_one():
    for items, workers in [(1, 8), (7, 8), (16, 8), (17, 8)]:
        simulation = Simulation(np.full(items, 10.0), workers).run()
        assert simulation.makespan == pytest.approx(10.0 * -(-items // workers), abs=0.01)


def test_a_simulation_does_not_depend_on_the_machine():
    first, second = (played("bimodal", 8) for _ in range(2))
    assert first.makespan == second.makespan
    assert first.workers.stretches == second.workers.stretches


class Operations:
    """Counts the lines that run in the scheduler and its parts, and what they have C code do at length."""

    FILES = tuple(module.__file__ for module in (scheduler, splitters, reorder))

    def __init__(self, monkeypatch):
        self.count = 0
        self.tracing = sys.gettrace()
        heapify = scheduler.heapify

        def counting_heapify(heap):
            self.count += len(heap)
            heapify(heap)

        monkeypatch.setattr(scheduler, "heapify", counting_heapify)

    def __enter__(self):
        sys.settrace(self.trace)
        return self

    def __exit__(self, *exception):
        sys.settrace(self.tracing)

    def trace(self, frame, event, arg):
        return self.trace_line if frame.f_code.co_filename in self.FILES else None

    def trace_line(self, frame, event, arg):
        if event == "line":
            self.count += 1
        return self.trace_line


class TestTheScheduler:
    """Its own work for a chunk, counted and not timed, stays the same. The logarithm of a heap aside."""

    @staticmethod
    def operations(monkeypatch, law, items, workers, **options):
        simulation = Simulation(costs_of(law, items, workers, 0.3), workers, **options)
        with Operations(monkeypatch) as operations:
            simulation.run()
        return operations.count / simulation.workers.chunks

    @pytest.mark.parametrize("law", ["uniform", "falling", "bimodal"])
    @pytest.mark.parametrize("ordered", [True, False])
    def test_does_not_grow_with_the_workers(self, monkeypatch, law, ordered):
        few, many = (
            self.operations(monkeypatch, law, 50_000, workers, ordered=ordered) for workers in (4, 512)
        )
        assert few > 10
        assert many < 1.3 * few

    @pytest.mark.parametrize("law", ["uniform", "falling", "bimodal"])
    def test_does_not_grow_with_the_items(self, monkeypatch, law):
        few, many = (self.operations(monkeypatch, law, items, 16) for items in (2_000, 1_000_000))
        assert many < 1.3 * few

    def test_does_not_grow_with_the_chunks(self, monkeypatch):
        few, many = (
            self.operations(monkeypatch, "bimodal", items, 16, splitter=Fixed(2)) for items in (1_000, 30_000)
        )
        assert many < 1.3 * few


class TestTheSimulator:
    """What is played is what workers do."""

    def test_the_lower_bound(self):
        assert lower_bound(np.array([1.0, 2.0, 3.0]), 2) == 3.0
        assert lower_bound(np.array([1.0, 2.0, 3.0]), 1) == 6.0

    @pytest.mark.parametrize("law", LAWS)
    def test_laws_are_scaled_to_a_share(self, law):
        costs = costs_of(law, 10_000, 4, share=3.0)
        assert len(costs) == 10_000
        assert costs.min() >= 0
        assert costs.sum() / 4 == pytest.approx(3.0)

    @pytest.mark.parametrize("law", LAWS)
    @pytest.mark.parametrize("mean", [0.00002, 0.003])
    def test_chunks_are_claimed_and_reported_as_by_run_chunk(self, monkeypatch, law, mean):
        costs = costs_of(law, 400, 4, share=100 * mean)
        claims, reports = self.really(monkeypatch, costs)
        workers = VirtualWorkers(costs, 1, depth=1, can_give_back=True, carry=0.0, latency=0.0)
        for when, claimed in self.virtually(workers, len(costs), claims):
            assert claimed == max(items for time, items in claims if time <= when)
        assert workers.stretches == reports

    def really(self, monkeypatch, costs):
        """Run a chunk under a clock of our own: when how many items were started; what was reported."""
        now = 0.0
        claims = []
        reports = []

        class Claim(LocalClaim):
            def take(self, items):
                taken = super().take(items)
                claims.append((now, self.started))
                return taken

        def run(item):
            nonlocal now
            now += costs[item]

        def report(outcomes, seconds, last):
            reports.append((outcomes.start, outcomes.stop))

        for module in (_worker, _runs):
            monkeypatch.setattr(module, "perf_counter", lambda: now)
        _worker.run_chunk(Work(run), range(len(costs)), 0, Claim(len(costs)), report)
        return claims, reports

    def virtually(self, workers, items, claims):
        """Play the same chunk, and look between the claims of the real one how many items are started."""
        looks = [(claims[i][0] + claims[i + 1][0]) / 2 for i in range(len(claims) - 1)]
        looks = [when for i, when in enumerate(looks) if claims[i][0] < when < claims[i + 1][0]]
        workers.start(lambda event: None)
        workers.submit(0, 1, Work(None), scheduler.Chunk(range(items), 0, 0, items))
        virtual = workers._chunks[1]
        for when in looks:
            while workers.busy and workers._events[0][0] <= when:
                workers.play()
            workers.now = when
            started = []
            workers.take_back(1, lambda claimed, stop, started=started: started.append(claimed) or stop)
            yield when, virtual.start + started[0]
        while workers.busy:
            workers.play()
