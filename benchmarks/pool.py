"""Our pools against those of multiprocessing: the same calls, one table.

    python benchmarks/pool.py [--quick] [--threads]

Method. Two workers, warm; the sides take turns, and every result is checked; medians, and the median of the
ratios of each round. A `chunksize` is given only where the row says so: without one, theirs divides a map in
four chunks for each worker, and sends the items of an imap one by one.
"""

from __future__ import annotations

import argparse
import multiprocessing.pool
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any, NamedTuple

import parallelkit

if __package__:
    from .measuring import Row, heading, interleaved, machine, middle, ratio, seconds
    from .work import burn, cost_laws, loops_per_second, square
else:
    from measuring import Row, heading, interleaved, machine, middle, ratio, seconds
    from work import burn, cost_laws, loops_per_second, square

WORKERS = 2

FEW, MANY = 5_000, 100_000
"""Items of the rows in which each item, and in which a chunk of them, makes a trip of its own."""


class Measured(NamedTuple):
    what: str
    call: Callable[[Any], Any]
    expected: Any
    target: str = ""


def squares(items: Iterable[int]) -> list[int]:
    return list(map(square, items))


def one_by_one(pool: Any) -> list[int]:
    return [pool.apply(square, (item,)) for item in range(FEW // 10)]


def all_at_once(pool: Any) -> list[int]:
    results = [pool.apply_async(square, (item,)) for item in range(FEW)]
    return [result.get() for result in results]


def with_callbacks(pool: Any) -> list[int]:
    found: list[int] = []
    results = [pool.apply_async(square, (item,), callback=found.append) for item in range(FEW)]
    for result in results:
        result.wait()
    return sorted(found)


def calls() -> Iterator[Measured]:
    many = range(MANY)
    yield Measured(
        "map(square, range(1_000_000))",
        lambda p: p.map(square, range(1_000_000)),
        squares(range(1_000_000)),
        "<= 1.00",
    )
    yield Measured(
        f"map(square, list of {MANY:,})", lambda p: p.map(square, list(many)), squares(many), "<= 1.00"
    )
    yield Measured(
        f"starmap(pow, {MANY:,} pairs)",
        lambda p: p.starmap(pow, [(n, 2) for n in many]),
        squares(many),
        "<= 1.00",
    )
    yield Measured(
        f"imap(square, generator of {MANY:,})",
        lambda p: list(p.imap(square, iter(many))),
        squares(many),
        "<= 1.00",
    )
    yield Measured(
        f"imap_unordered(square, generator of {MANY:,})",
        lambda p: sorted(p.imap_unordered(square, iter(many))),
        squares(many),
        "<= 1.00",
    )
    yield Measured(
        f"imap(square, {MANY:,}, chunksize=100)",
        lambda p: list(p.imap(square, iter(many), 100)),
        squares(many),
        "<= 1.00",
    )
    yield Measured(
        f"imap(square, {FEW:,}, chunksize=1)",
        lambda p: list(p.imap(square, iter(range(FEW)), 1)),
        squares(range(FEW)),
        "<= 1.00",
    )
    yield Measured(f"apply(square), {FEW // 10:,} times", one_by_one, squares(range(FEW // 10)), "<= 1.00")
    yield Measured(f"apply_async(square), {FEW:,} at once", all_at_once, squares(range(FEW)), "<= 1.00")
    yield Measured("the same, with callbacks", with_callbacks, squares(range(FEW)), "<= 1.00")
    speed = loops_per_second()
    for name, costs in cost_laws(speed).items():
        yield Measured(f"map, a second of work: {name}", partial(burn_them, costs=costs), costs, "<= 1.02")


def burn_them(pool: Any, costs: list[int]) -> list[int]:
    burned: list[int] = pool.map(burn, costs)
    return burned


def rows(ours: Any, theirs: Any, rounds: int) -> Iterator[Row]:
    for what, call, expected, target in calls():
        sides = {
            "ours": partial(seconds, partial(call, ours), expected),
            "theirs": partial(seconds, partial(call, theirs), expected),
        }
        for side in sides.values():
            side()
        took = interleaved(rounds, sides, patience=5.0)
        yield Row(
            what, middle(took["ours"]), middle(took["theirs"]), ratio(took["ours"], took["theirs"]), target
        )


def start(rounds: int, make_ours: Callable[[], Any], make_theirs: Callable[[], Any]) -> Row:
    """A pool, two items, its end; not the first of the program."""

    def use(make: Callable[[], Any]) -> float:
        def whole() -> list[int]:
            with make() as pool:
                found: list[int] = pool.map(square, range(2))
            pool.join()
            return found

        return seconds(whole, [0, 1])

    took = interleaved(3 * rounds, {"ours": partial(use, make_ours), "theirs": partial(use, make_theirs)})
    figures = middle(took["ours"]), middle(took["theirs"]), ratio(took["ours"], took["theirs"])
    return Row("start, two items, terminate, join", *figures, "<= 1.00")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])  # type: ignore[union-attr]
    parser.add_argument("--quick", action="store_true", help="fewer rounds, and less sure")
    parser.add_argument("--threads", action="store_true", help="ThreadPool instead of Pool")
    given = parser.parse_args()
    rounds = 3 if given.quick else 9
    make_ours: Callable[[], Any] = partial(parallelkit.Pool, WORKERS)
    make_theirs: Callable[[], Any] = partial(multiprocessing.Pool, WORKERS)
    if given.threads:
        make_ours = partial(parallelkit.ThreadPool, WORKERS)
        make_theirs = partial(multiprocessing.pool.ThreadPool, WORKERS)
    kind = "threads" if given.threads else multiprocessing.get_start_method()
    print(f"{machine()}; {WORKERS} workers ({kind}); medians\n\n{heading()}", flush=True)
    with make_ours() as ours, make_theirs() as theirs:
        for row in rows(ours, theirs, rounds):
            print(row.line(), flush=True)
    print(start(rounds, make_ours, make_theirs).line())


if __name__ == "__main__":
    main()
