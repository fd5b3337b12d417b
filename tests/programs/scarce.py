"""A program that runs short of something: python scarce.py METHOD WAY FILE.

It writes "right" to FILE when all results were right.
"""

from __future__ import annotations

import gc
import os
import sys
from collections import Counter
from concurrent.futures import Future
from functools import partial
from itertools import count
from operator import add
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from parallelkit import Executor, WorkerDied
from programs import faults


def talk(item: int) -> int:
    """Print, as Python does, and where nobody listens as libraries in C do, who do not ask for that."""
    print("talking", item)
    for descriptor, stream in ((1, sys.stdout), (2, sys.stderr)):
        if stream is None:
            try:
                os.write(descriptor, b"zzzzzzz\naaaaaaa\n0000000\n" * 200)
            except OSError:
                pass
    return item


def use(executor: Executor) -> None:
    """All that there is: calls of each kind, errors, a death."""
    assert list(executor.map(talk, range(100))) == list(range(100))
    assert executor.submit(talk, 7).result() == 7
    assert executor.reduce(add, range(100), map=talk) == 4950
    results = list(executor.map(len, ["spam", 5, "eggs"], return_exceptions=True))  # type: ignore[list-item]
    assert [type(result) for result in results] == [int, TypeError, int]
    assert isinstance(executor.submit(faults.die_by_signal).exception(), WorkerDied)
    assert list(executor.map(abs, range(100))) == list(range(100))


def everything() -> None:
    with Executor("process", 2, method) as executor:
        use(executor)
    Path(file).write_text("right")


def print_a_stream() -> None:
    """Into a pipe whose other end is gone after a while."""
    with Executor("process", 2, method) as executor:
        for result in executor.map(abs, count()):
            print(result, flush=True)


def workers_print() -> None:
    """To where nothing can be written: each item fails, and what does not print does not."""
    with Executor("process", 2, method) as executor:
        sys.stdin.readline()
        function = partial(print, flush=True)
        results = list(executor.map(function, range(10), return_exceptions=True))
        assert all(isinstance(error, OSError) for error in results)
        assert list(executor.map(abs, range(100))) == list(range(100))
    Path(file).write_text("right")
    os._exit(0)  # no word about what could not be printed


def large_messages() -> None:
    import numpy as np

    arrays = [np.full(1 << 20, number, np.uint8) for number in range(8)]
    with Executor("process", 2, method) as executor:
        results = list(executor.map(add, arrays, arrays))
        assert all((result == 2 * number).all() for number, result in enumerate(results))
        use(executor)
    Path(file).write_text("right")


# ---------------------------------------------------------------- descriptors


def limit_descriptors(number: int | None) -> None:
    """Let new descriptors have so many numbers, beside those of the standard streams; None for any."""
    import resource

    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard if number is None else 3 + number, hard))


def open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def one_call(call: str, executor: Executor) -> None:
    if call == "submit":
        futures: list[Future[Any]] = [executor.submit(abs, -item) for item in range(10)]
        assert [future.result() for future in futures] == list(range(10))
    elif call == "reduce":
        assert executor.reduce(add, range(10)) == 45
    else:
        assert list(executor.map(abs, range(10))) == list(range(10))


def few_descriptors() -> None:
    """An executor with so many descriptors to be had: how each attempt ends, and what it leaves behind."""
    everything()  # what multiprocessing starts once for all is there from now on
    before = open_descriptors()
    ends: Counter[str] = Counter()
    for number in range(40):
        for call in ("map", "submit", "reduce"):
            limit_descriptors(number)
            end = "right"
            try:
                with Executor("process", 2, method) as executor:
                    one_call(call, executor)
            except BaseException as error:
                end = f"{type(error).__name__} from {type(error.__cause__).__name__}"
            limit_descriptors(None)
            ends[end] += 1
            gc.collect()
            assert open_descriptors() == before, (number, call, end)
            if not number:
                assert end != "right"
    assert end == "right"
    Path(file).write_text("\n".join(ends))


def no_descriptor_for_a_successor() -> None:
    """One worker dies, and for a while there is none to take its place."""
    with Executor("process", 1, method) as executor:
        assert executor.submit(abs, -1).result() == 1
        executor.submit(faults.die_by_signal).exception()
        limit_descriptors(0)
        error = executor.submit(abs, -1).exception()
        print(type(error).__name__, "from", type(getattr(error, "__cause__", None)).__name__)
        limit_descriptors(None)
        assert list(executor.map(abs, range(100))) == list(range(100))
    Path(file).write_text("right")


if __name__ == "__main__":
    method, way, file = sys.argv[1:]
    globals()[way]()
