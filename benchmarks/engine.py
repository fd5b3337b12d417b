"""The speed of the engine against the peers and against the machine itself: one command, one table.

    python benchmarks/engine.py [--quick] [--rows 1,3]

Method. Two workers; parallelkit with its defaults, nothing tuned. In each row the sides take turns (A B C
A B C), all of them warm where the row does not say otherwise, and every result is compared with the right
one. What is printed are medians; a ratio is the median of the ratios of each round. Rows run in an
interpreter of their own, one after the other. What each row measures: README.md, beside this file.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import multiprocessing
import operator
import os
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial, reduce
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import psutil

from parallelkit import Executor, pmap, preduce

if __package__:
    from .fresh import importing, memory, starting
    from .measuring import Row, heading, interleaved, machine, middle, ratio, seconds
    from .work import SideBySide, burn, burn_all, cost_laws, halves, loops_per_second, square, sum_of_squares
else:
    from fresh import importing, memory, starting
    from measuring import Row, heading, interleaved, machine, middle, ratio, seconds
    from work import SideBySide, burn, burn_all, cost_laws, halves, loops_per_second, square, sum_of_squares

WORKERS = 2


def patience(quick: bool) -> float:
    """Seconds that a row may spend on measuring again what other programs disturbed."""
    return 4.0 if quick else 30.0


def new_pool(method: str = "fork") -> Any:
    return multiprocessing.get_context(method).Pool(WORKERS)


# ---------------------------------------------------------------- 1: tiny tasks


def tiny_tasks(quick: bool) -> Iterator[Row]:
    """A million squares: what an item costs to carry."""
    items, few = range(1_000_000), range(20_000)
    expected, few_expected = list(map(square, items)), list(map(square, few))
    pools = {method: new_pool(method) for method in ("fork", "forkserver")}
    peer = concurrent.futures.ProcessPoolExecutor(WORKERS)
    sides: dict[str, Callable[[], float]] = {
        "ours": lambda: seconds(lambda: pmap(square, items, max_workers=WORKERS), expected),
        "serial": lambda: seconds(lambda: list(map(square, items)), expected),
        "PPE": lambda: 50 * seconds(lambda: list(peer.map(square, few)), few_expected),
        **{
            method: lambda pool=pool: seconds(lambda: pool.map(square, items), expected)  # type: ignore[misc]
            for method, pool in pools.items()
        },
    }
    for side in sides.values():
        side()
    took = interleaved(3 if quick else 9, sides, patience(quick))
    ours, theirs = took["ours"], took["PPE"]
    serial = f"serial list(map()): {middle(took['serial'])}"
    for method in pools:
        what, against = f"1. pmap(square, range(1_000_000)), Pool: {method}", took[method]
        yield Row(what, middle(ours), f"Pool.map {middle(against)}", ratio(ours, against), "<= 1.00", serial)
    yield Row(
        "1. the same, how many times as fast",
        middle(ours),
        f"PPE.map {middle(theirs)}",
        ratio(theirs, ours),
        ">= 50",
        "PPE.map: 20,000 items, times 50",
    )


# ---------------------------------------------------------------- 2: one round trip


def round_trip(quick: bool) -> Iterator[Row]:
    """One small call and its answer, with parent and worker on two cores, on one, and unpinned."""
    bare = BarePingPong()
    pool, peer = new_pool(), concurrent.futures.ProcessPoolExecutor(WORKERS)
    with Executor("process", WORKERS) as executor:
        calls: dict[str, Callable[[], Any]] = {
            "bare": lambda: bare.call(square, 3),
            "ours": lambda: executor.submit(square, 3).result(),
            "ours, by value": lambda: executor.submit(cube, 3).result(),
            "Pool.apply": lambda: pool.apply(square, (3,)),
            "PPE.submit": lambda: peer.submit(square, 3).result(),
        }
        expected = {name: 27 if name.endswith("by value") else 9 for name in calls}
        sides = {name: partial(round_trip_seconds, call, expected[name]) for name, call in calls.items()}
        for side in sides.values():
            side()
        for name, parent, workers in PLACES:
            with placed(parent, workers):
                took = interleaved(5 if quick else 25, sides, patience(quick))
            yield from _round_trip_rows(name, took)


def _round_trip_rows(place: str, took: dict[str, list[float]]) -> Iterator[Row]:
    ours = took["ours"]
    targets = {"bare": "<= 1.50", "Pool.apply": "<= 1.00", "PPE.submit": "<= 1.00"}
    beside = f"ours, a function of the script: {middle(took['ours, by value'])}"
    for name, target in targets.items():
        against = took[name]
        what, theirs = f"2. submit().result(), {place}", f"{name} {middle(against)}"
        yield Row(what, middle(ours), theirs, ratio(ours, against), target, beside)


def cube(number: int) -> int:
    return number**3


def round_trip_seconds(call: Callable[[], Any], expected: Any) -> float:
    """The median over some calls."""
    took = []
    for _ in range(100):
        began = perf_counter()
        result = call()
        took.append(perf_counter() - began)
        assert result == expected
    return median(took)


class BarePingPong:
    """A forked process that answers over two pipes: pickle, write, read, call, and the same way back."""

    def __init__(self) -> None:
        their_end, self._write = os.pipe()
        self._read, our_end = os.pipe()
        if not os.fork():
            os.close(self._write)
            while data := os.read(their_end, 65536):
                function, args = pickle.loads(data)
                os.write(our_end, pickle.dumps(function(*args)))
            os._exit(0)

    def call(self, function: Callable[..., Any], *args: Any) -> Any:
        os.write(self._write, pickle.dumps((function, args)))
        return pickle.loads(os.read(self._read, 65536))


PLACES = [
    ("two cores", 0, 1),
    ("one core", 0, 0),
    ("not pinned", None, None),
]


@contextmanager
def placed(parent: int | None, workers: int | None) -> Iterator[None]:
    """Keep all threads of this process on one core, and all processes below it on one."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    cores = sorted(os.sched_getaffinity(0))
    threads = [int(thread) for thread in os.listdir("/proc/self/task")]
    below = [process.pid for process in psutil.Process().children(recursive=True)]
    for ids, core in ((threads, parent), (below, workers)):
        for one in ids:
            os.sched_setaffinity(one, cores if core is None else {cores[core % len(cores)]})
    try:
        yield
    finally:
        for one in (*threads, *below):
            os.sched_setaffinity(one, cores)


# ---------------------------------------------------------------- 3: skewed work


def skewed_work(quick: bool) -> Iterator[Row]:
    """Items of different costs, a second in all: how far the end of the last worker is from the ideal."""
    speed = loops_per_second()
    floor = SideBySide()
    pool, peer = new_pool(), concurrent.futures.ProcessPoolExecutor(WORKERS)
    with Executor("process", WORKERS) as executor:
        for name, costs in cost_laws(speed).items():
            answer = sum(costs)
            parts = [partial(burn_all, half) for half in halves(costs)]

            def half_each(parts: list[Any] = parts, answer: int = answer) -> float:
                took, answers = floor.seconds(parts)
                assert sum(answers) == answer
                return took

            peers = {
                "Pool.map": lambda costs=costs: pool.map(burn, costs),
                "imap": lambda costs=costs: pool.imap(burn, costs),
                "PPE": lambda costs=costs: peer.map(burn, costs),
            }
            maps = {"ours": lambda costs=costs: executor.map(burn, costs), **peers}
            for one in maps.values():
                list(one(costs[:100]))
            took = interleaved(
                1 if quick else 5,
                {
                    "serial": lambda costs=costs: seconds(lambda: list(map(burn, costs)), costs),
                    "largest": lambda costs=costs: seconds(lambda: burn(max(costs)), max(costs)),
                    "floor": half_each,
                    **{
                        n: lambda m=m, costs=costs: seconds(lambda: list(m()), costs) for n, m in maps.items()
                    },
                },
                patience(quick) / 7,
            )
            yield from _skewed_rows(name, took, peers)


def _skewed_rows(name: str, took: dict[str, list[float]], peers: Any) -> Iterator[Row]:
    ideal = [max(all_ / WORKERS, one) for all_, one in zip(took["serial"], took["largest"], strict=True)]
    for against, below in (("ideal", ideal), ("floor", took["floor"])):
        yield Row(
            f"3. {name}, makespan / {against}",
            middle(took["ours"]),
            f"{against} {middle(below)}",
            ratio(took["ours"], below),
            "<= 1.05",
            " · ".join(f"{peer} {ratio(took[peer], below):.2f}" for peer in peers),
        )


# ---------------------------------------------------------------- 4: reduce


def reducing(quick: bool) -> Iterator[Row]:
    """The sum of ten million squares."""
    numbers = range(10_000_000)
    middle_one = len(numbers) // 2
    parts = [partial(sum_of_squares, numbers[:middle_one]), partial(sum_of_squares, numbers[middle_one:])]
    expected = sum_of_squares(numbers)
    floor = SideBySide()

    def half_each() -> float:
        took, answers = floor.seconds(parts)
        assert sum(answers) == expected
        return took

    def ours() -> int:
        return preduce(operator.add, numbers, map=square, max_workers=WORKERS)  # type: ignore[no-any-return]

    preduce(operator.add, range(1000), map=square, max_workers=WORKERS)
    took = interleaved(
        3 if quick else 9,
        {
            "serial": lambda: seconds(lambda: reduce(operator.add, map(square, numbers)), expected),
            "floor": half_each,
            "ours": lambda: seconds(ours, expected),
        },
        patience(quick),
    )
    times = ratio(took["serial"], took["ours"])
    reached = f"two plain processes, half each: {ratio(took['serial'], took['floor']):.2f} times"
    what = "4. preduce(add, range(10_000_000), map=square)"
    yield Row(what, middle(took["ours"]), f"serial {middle(took['serial'])}", times, ">= 1.80", reached)
    over = ratio(took["ours"], took["floor"])
    yield Row("4. the same", middle(took["ours"]), f"half each {middle(took['floor'])}", over)


# ---------------------------------------------------------------- the table

ROWS = {
    1: tiny_tasks,
    2: round_trip,
    3: skewed_work,
    4: reducing,
    5: memory,
    6: importing,
    7: starting,
}


def run_apart(number: int, quick: bool) -> None:
    """A row in an interpreter of its own, so that no row meets the threads and workers of another."""
    this = ["-m", "benchmarks.engine"] if __package__ else [str(Path(__file__))]
    subprocess.run([sys.executable, *this, f"--row={number}", *(["--quick"] if quick else [])], check=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])  # type: ignore[union-attr]
    parser.add_argument("--quick", action="store_true", help="fewer rounds: under 90 s, and less sure")
    parser.add_argument(
        "--rows", default=",".join(map(str, ROWS)), help="which rows, as in 1,3 (default: all)"
    )
    parser.add_argument("--row", type=int, choices=ROWS, help=argparse.SUPPRESS)  # the lines of one row
    given = parser.parse_args()
    if given.row is not None:
        for row in ROWS[given.row](given.quick):
            print(row.line(), flush=True)
        return
    began = perf_counter()
    print(f"{machine()}; {WORKERS} workers; medians\n\n{heading()}", flush=True)
    for number in map(int, given.rows.split(",")):
        run_apart(number, given.quick)
    print(f"\n{perf_counter() - began:.0f} s in all")


if __name__ == "__main__":
    main()
