"""A program that measures its own start: python -m benchmarks.works.starting MODULE:CLASS WORKERS

Prints, as JSON, the seconds of: import, create, map two items, close; the same once more; and a second call
on workers that are there. The adapter is imported within the first of these.
"""

import sys
from time import perf_counter

began = perf_counter()  # before anything else is imported


def double(number: int) -> int:
    return 2 * number


def main() -> None:
    from importlib import import_module

    module, _, name = sys.argv[1].partition(":")
    side = getattr(import_module(module), name)
    workers = int(sys.argv[2])
    took = {}
    for which in ("cold", "again"):
        started = began if which == "cold" else perf_counter()
        pool = side(workers)
        pool.open()
        results = list(pool.start(double, [1, 2]))
        pool.close()
        took[which] = perf_counter() - started
        assert results == [2, 4], results
    with side(workers) as pool:
        pool.start(double, [1, 2])
        seconds = []
        for _ in range(5):
            started = perf_counter()
            results = list(pool.start(double, [1, 2]))
            seconds.append(perf_counter() - started)
            assert results == [2, 4], results
        took["second"] = sorted(seconds)[2]

    import json

    print(json.dumps(took), flush=True)


if __name__ == "__main__":
    main()
