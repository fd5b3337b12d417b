"""Does one thing many times, and says what this process holds more than before, and how it has grown.

    python resources.py executors fork|forkserver|spawn|thread NUMBER
    python resources.py submits process|thread NUMBER
    python resources.py stream process|thread NUMBER

Prints a line of JSON: what is left, by kind, and samples of the resident bytes, taken at even distances.
"""

from __future__ import annotations

import json
import operator
import sys
import warnings
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

sys.path.append(str(Path(__file__).parents[2]))

from benchmarks.holdings import (
    Holdings,
    left_behind,
    own_temporary_folder,
    resident_bytes,
    steady_allocator,
)

from parallelkit import Executor

SAMPLES = 24


def make(kind: str) -> Executor:
    return Executor("thread", 2) if kind == "thread" else Executor("process", 2, kind)


def use(executor: Executor) -> None:
    assert list(executor.map(abs, range(-10, 0))) == list(range(10, 0, -1))
    assert executor.submit(abs, -1).result() == 1


def executors(kind: str, number: int) -> Iterator[int]:
    """Opened, used and closed, in all ways in which that is done."""

    def with_block() -> None:
        with make(kind) as executor:
            use(executor)
            executor.reduce(operator.add, range(10))

    def shut_down_later() -> None:
        executor = make(kind)
        use(executor)
        executor.shutdown(wait=False)
        executor.shutdown()

    def dropped() -> None:
        use(make(kind))

    def left_in_the_middle() -> None:
        with make(kind) as executor:
            next(executor.map(abs, iter(range(1000))))

    def unused() -> None:
        make(kind).shutdown()

    ways: list[Callable[[], None]] = [with_block, shut_down_later, dropped, left_in_the_middle, unused]
    for done in range(number):
        ways[done % len(ways)]()
        yield done + 1


def submits(kind: str, number: int) -> Iterator[int]:
    with make(kind if kind == "thread" else "forkserver") as executor:
        for done in range(0, number, 100):
            futures = [executor.submit(abs, -item) for item in range(100)]
            assert [future.result() for future in futures] == list(range(100))
            yield done + 100


def stream(kind: str, number: int) -> Iterator[int]:
    with make(kind if kind == "thread" else "forkserver") as executor:
        results = executor.map(abs, (-item for item in range(number)))
        for done in range(0, number, 1000):
            assert list(islice(results, 1000)) == list(range(done, done + 1000))
            yield done + 1000
        assert not list(results)


def main() -> None:
    what, kind, number = sys.argv[1], sys.argv[2], int(sys.argv[3])
    steady_allocator()
    warnings.filterwarnings("ignore", "This process .* is multi-threaded, use of fork", DeprecationWarning)
    scenario = {"executors": executors, "submits": submits, "stream": stream}[what]
    with own_temporary_folder():
        for _ in scenario(kind, {"executors": 10, "submits": 500, "stream": 10_000}[what]):
            pass  # what stays for the whole program comes now: modules, servers, threads
        before = Holdings.now()
        samples: list[int] = []
        for done in scenario(kind, number):
            if done * SAMPLES // number > len(samples):
                samples.append(resident_bytes())
        print(json.dumps({"left": left_behind(before), "samples": samples}))


if __name__ == "__main__":
    main()
