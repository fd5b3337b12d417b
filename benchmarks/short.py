"""Short calls, side by side with Pool.map and with plain processes: one table.

    python benchmarks/short.py [--rounds 60]

For rows of `python -m benchmarks` that take 0.3 to 50 ms, where a few rounds do not tell two tools apart.
Two workers, warm; the sides take turns, and every result is checked; medians, and the median of the ratios of
each round.
"""

from __future__ import annotations

import argparse
import multiprocessing
import operator
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from parallelkit import Executor, pmap, preduce

if __package__:
    from .measuring import Row, heading, interleaved, machine, middle, ratio, seconds
    from .work import SideBySide, burn, burn_all, even_parts, loops_per_second, square, sum_of_squares
else:
    from measuring import Row, heading, interleaved, machine, middle, ratio, seconds
    from work import SideBySide, burn, burn_all, even_parts, loops_per_second, square, sum_of_squares

WORKERS = 2

INPUTS: dict[str, Callable[[], Any]] = {
    "two items": lambda: [1, 2],
    "range of 10,000": lambda: range(10_000),
    "list of 5,000": lambda: list(range(5000)),
    "generator of 5,000": lambda: (number for number in range(5000)),
    "range of 100,000": lambda: range(100_000),
    "list of 100,000": lambda: list(range(100_000)),
    "generator of 100,000": lambda: (number for number in range(100_000)),
}

GRAINS = {"1,000 items of 10 µs": (1000, 1e-5), "500 items of 100 µs": (500, 1e-4), "50 of 1 ms": (50, 1e-3)}


def squares(rounds: int, pool: Any) -> Iterator[Row]:
    """Tiny tasks: what a call costs."""
    for name, make in INPUTS.items():
        expected = list(map(square, make()))
        sides = {
            "ours": partial(_timed, lambda items: pmap(square, items, max_workers=WORKERS), make, expected),
            "Pool": partial(_timed, partial(pool.map, square), make, expected),
        }
        took = _warm(rounds, sides)
        yield _beside_pool(f"squares, {name}", took)


def sums(rounds: int, pool: Any) -> Iterator[Row]:
    numbers = range(20_000)
    parts = [numbers[:10_000], numbers[10_000:]]
    expected = sum_of_squares(numbers)
    took = _warm(
        rounds,
        {
            "ours": lambda: seconds(
                lambda: preduce(operator.add, numbers, map=square, max_workers=WORKERS), expected
            ),
            "Pool": lambda: seconds(lambda: sum(pool.map(sum_of_squares, parts)), expected),
        },
    )
    yield _beside_pool("sum of 20,000 squares, Pool: of two halves", took)


def grains(rounds: int, pool: Any) -> Iterator[Row]:
    speed = loops_per_second()
    floor = SideBySide()
    for name, (count, grain) in GRAINS.items():
        items = [max(1, round(speed * grain))] * count
        parts = [partial(burn_all, part) for part in even_parts(items, WORKERS)]
        sides = {
            "ours": lambda: seconds(lambda: pmap(burn, items, max_workers=WORKERS), items),  # noqa: B023
            "Pool": lambda: seconds(lambda: pool.map(burn, items), items),  # noqa: B023
            "floor": lambda: floor.seconds(parts)[0],  # noqa: B023
        }
        took = _warm(rounds, sides)
        beside = f"floor {middle(took['floor'])}; Pool.map / floor {ratio(took['Pool'], took['floor']):.2f}"
        yield _beside_pool(name, took, beside)
        over = ratio(took["ours"], took["floor"])
        yield Row(f"{name}, to the floor", middle(took["ours"]), f"floor {middle(took['floor'])}", over)


def beside_a_map(rounds: int, pool: Any) -> Iterator[Row]:
    """How long one call waits that comes while a map is under way on the same workers."""
    length = 100
    with Executor("process", WORKERS) as executor:
        sides = {
            "ours": partial(
                _one_more,
                lambda: executor._map_to_list(wait, (range(length),), False),  # what `pmap` does
                lambda: executor.submit(square, 3).result(),
            ),
            "Pool": partial(
                _one_more, lambda: pool.map(wait, range(length)), lambda: pool.apply(square, (3,))
            ),
        }
        took = _warm(max(3, rounds // 10), sides)
    yield _beside_pool("submit().result() beside 100 items of 10 ms", took)


def _one_more(whole: Callable[[], object], one: Callable[[], int]) -> float:
    thread = threading.Thread(target=whole)
    thread.start()
    time.sleep(0.05)  # it is under way now
    took = seconds(one, 9)
    thread.join()
    return took


def wait(number: int) -> int:
    time.sleep(0.01)
    return number


def _timed(call: Callable[[Any], Any], make: Callable[[], Any], expected: Any) -> float:
    items = make()  # outside of the time
    return seconds(lambda: call(items), expected)


def _warm(rounds: int, sides: dict[str, Callable[[], float]]) -> dict[str, list[Any]]:
    interleaved(2, sides)
    return interleaved(rounds, sides)


def _beside_pool(what: str, took: dict[str, list[float]], beside: str = "") -> Row:
    ours, theirs = took["ours"], took["Pool"]
    return Row(what, middle(ours), f"Pool.map {middle(theirs)}", ratio(ours, theirs), "<= 1.00", beside)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])  # type: ignore[union-attr]
    parser.add_argument("--rounds", type=int, default=60)
    rounds = max(1, parser.parse_args().rounds)
    print(f"{machine()}; {WORKERS} workers; medians of {rounds} rounds\n\n{heading()}", flush=True)
    with multiprocessing.get_context("fork").Pool(WORKERS) as pool:
        for table in (squares, sums, grains, beside_a_map):
            for row in table(rounds, pool):
                print(row.line(), flush=True)


if __name__ == "__main__":
    main()
