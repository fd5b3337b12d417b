"""Large arrays to worker processes and back, against the peers and against plain copying: one table.

    python benchmarks/large_data.py [--quick] [--rows in,out,bytes,table,memory,slices]

Method. Two workers, parallelkit with its defaults. The sides take turns. Each turn is done twice, and the
second is timed: between two turns others had the machine for seconds, and what lies idle for so long may be
given back to it. Each time has arrays that no side has seen before, so nothing can be cached; every result is
checked. What is printed are medians; a ratio is the median of the ratios of each round. *memcpy* copies the
same bytes into memory that is mapped already, in one thread. A peer that is not installed is left out.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import importlib.util
import multiprocessing
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter, sleep
from typing import Any

import numpy as np
import psutil

from parallelkit import Executor, chunked, share

if __package__:
    from .measuring import WrongResult, interleaved, machine, middle, ratio
else:
    from measuring import WrongResult, interleaved, machine, middle, ratio

WORKERS = 2
COUNT, MIB = 64, 1 << 20
ARRAY_BYTES = 8 * MIB
TABLE_BYTES = 400 * MIB
TASKS = 1000
INPUT_BYTES = 8 << 30
WINDOW = 4
LOOK_SECONDS = {"memory": 0.02, "slices": 0.2}
"""How often memory is measured, which stops the program for as long as that takes."""
FULL_ROUNDS, QUICK_ROUNDS = 9, 3

Array = np.ndarray[Any, Any]
Map = Callable[[Callable[[Any], Any], Any], list[Any]]


def last(array: Array) -> float:
    return float(array[-1])


def make(number: int) -> Array:
    return np.full(ARRAY_BYTES // 8, number, np.float64)


def look_up(table: Array, index: int) -> float:
    return float(table[index])


def length(item: bytes) -> int:
    return len(item)


def mean(array: Array) -> float:
    return float(array.mean())


def look_up_shared(table: Any, index: int) -> float:
    return float(table.value[index])


# ---------------------------------------------------------------- the sides


def sides(stack: ExitStack) -> dict[str, Map]:
    """How each maps a function over a list; the workers stay until the stack is closed."""
    ours = stack.enter_context(Executor("process", WORKERS))
    pool = stack.enter_context(multiprocessing.get_context("fork").Pool(WORKERS))
    standard = stack.enter_context(concurrent.futures.ProcessPoolExecutor(WORKERS))
    found: dict[str, Map] = {
        "parallelkit": lambda function, items: list(ours.map(function, items)),
        "Pool": pool.map,
        "ProcessPoolExecutor": lambda function, items: list(
            standard.map(function, items, chunksize=chunksize(items))
        ),
    }
    if importlib.util.find_spec("loky"):
        import loky

        executor = loky.ProcessPoolExecutor(WORKERS)
        stack.callback(executor.shutdown)
        found["loky"] = lambda function, items: list(
            executor.map(function, items, chunksize=chunksize(items))
        )
    if importlib.util.find_spec("joblib"):
        import joblib

        parallel = stack.enter_context(joblib.Parallel(n_jobs=WORKERS))
        found["joblib"] = lambda function, items: parallel(joblib.delayed(function)(item) for item in items)
    if importlib.util.find_spec("mpire"):
        import mpire

        mpire_pool = stack.enter_context(mpire.WorkerPool(WORKERS))
        # As a tuple of arguments: it takes an array for one of items. And it joins arrays that are results.
        found["mpire"] = lambda function, items: mpire_pool.map(
            function, [(item,) for item in items], concatenate_numpy_output=False
        )
    if importlib.util.find_spec("ray"):
        import ray

        ray.init(num_cpus=WORKERS, log_to_driver=False, include_dashboard=False)
        stack.callback(ray.shutdown)
        run = ray.remote(lambda function, item: function(item))

        def run_all(function: Callable[[Any], Any], items: Any) -> list[Any]:
            placed = ray.put(function)
            return list(ray.get([run.remote(placed, item) for item in items]))

        found["ray"] = run_all
    return found


def chunksize(items: Any) -> int:
    """What Pool would take: with 1, other executors send the function with each item."""
    return max(1, len(items) // (4 * WORKERS))


# ---------------------------------------------------------------- the rows


def arrays_in(rounds: int) -> Iterator[str]:
    """sixty-four arrays of 8 MiB, to workers that look at one number of each"""
    generator = np.random.default_rng(1)
    target = bytearray(ARRAY_BYTES * COUNT)
    copy_to = np.frombuffer(target, np.float64).reshape(COUNT, -1)
    arrays: list[Array] = []

    def memcpy() -> float:
        began = perf_counter()
        for place, array in zip(copy_to, arrays, strict=True):
            place[:] = array
        return perf_counter() - began

    def side(run: Map) -> float:
        arrays[:] = [generator.random(ARRAY_BYTES // 8) for _ in range(COUNT)]
        began = perf_counter()
        results = run(last, arrays)
        took = perf_counter() - began
        if results != [array[-1] for array in arrays]:
            raise WrongResult("in")
        return took

    arrays[:] = [generator.random(ARRAY_BYTES // 8) for _ in range(COUNT)]
    yield from table(rounds, side, memcpy, {"Pool": 1 / 6, "memcpy": 1 / 0.35})


def arrays_out(rounds: int) -> Iterator[str]:
    """sixty-four results of 8 MiB, kept until the round ends"""
    target = np.zeros((COUNT, ARRAY_BYTES // 8))
    source = make(7)

    def memcpy() -> float:
        began = perf_counter()
        for place in target:
            place[:] = source
        return perf_counter() - began

    def side(run: Map) -> float:
        began = perf_counter()
        results = run(make, list(range(COUNT)))
        took = perf_counter() - began
        if any(result[0] != number or result[-1] != number for number, result in enumerate(results)):
            raise WrongResult("out")
        return took

    yield from table(
        rounds, side, memcpy, {"Pool": 1 / 5, "memcpy": 1 / 0.3, "joblib": 1, "loky": 1, "ray": 1}
    )


def bytes_in(rounds: int) -> Iterator[str]:
    """sixty-four bytes objects of 8 MiB, which offer no buffers to pickle"""
    target = np.zeros(ARRAY_BYTES * COUNT, np.uint8).reshape(COUNT, -1)
    generator = np.random.default_rng(1)
    items: list[bytes] = [generator.bytes(ARRAY_BYTES)] * COUNT

    def memcpy() -> float:
        began = perf_counter()
        for place, item in zip(target, items, strict=True):
            place[:] = np.frombuffer(item, np.uint8)
        return perf_counter() - began

    def side(run: Map) -> float:
        items[:] = [generator.bytes(ARRAY_BYTES) for _ in range(COUNT)]
        began = perf_counter()
        results = run(length, items)
        took = perf_counter() - began
        if results != [ARRAY_BYTES] * COUNT:
            raise WrongResult("bytes")
        return took

    yield from table(rounds, side, memcpy, {})


def large_table(rounds: int) -> Iterator[str]:
    """a table of 400 MiB in a partial, 1,000 tasks; "placed": with `share`, before"""
    found = np.random.default_rng(1).random(TABLE_BYTES // 8)
    target = np.zeros_like(found)
    rights = [float(found[index]) for index in range(TASKS)]

    def memcpy() -> float:
        began = perf_counter()
        target[:] = found
        return perf_counter() - began

    plain, placed = partial(look_up, found), partial(look_up_shared, share(found))

    def side(run: Map, function: Callable[[int], float] = plain) -> float:
        began = perf_counter()
        results = run(function, list(range(TASKS)))
        took = perf_counter() - began
        if results != rights:
            raise WrongResult("table")
        return took

    more = {"parallelkit, placed": partial(side, function=placed)}
    yield from table(min(rounds, 5), side, memcpy, {}, more)


def table(
    rounds: int,
    side: Callable[[Map], float],
    memcpy: Callable[[], float],
    targets: dict[str, float],
    more_of_ours: dict[str, Callable[[Map], float]] | None = None,
) -> Iterator[str]:
    """A line for each side: how long it took, and ours as a part of that.

    Args:
        targets: the most that ours may be.
        more_of_ours: other ways to do it with parallelkit.
    """
    with ExitStack() as stack:
        found = sides(stack)
        runs = {name: partial(side, run) for name, run in found.items()}
        for name, another in (more_of_ours or {}).items():
            runs[name] = partial(another, found["parallelkit"])
        for warm_up in runs.values():
            warm_up()
        took = interleaved(
            rounds, {name: partial(_second, run) for name, run in [*runs.items(), ("memcpy", memcpy)]}
        )
    ours = took["parallelkit"]
    for name, times in took.items():
        share_of = ratio(ours, times)
        target = f"<= {targets[name]:.2f}" if name in targets else "-"
        met = "-" if name not in targets else "met" if share_of <= targets[name] else "MISSED"
        yield f"| {name:<20} | {middle(times):>8} | {share_of:>6.2f} | {target:>7} | {met:<6} |"


def _second(run: Callable[[], float]) -> float:
    run()
    return run()


# ---------------------------------------------------------------- memory


def peak_of(what: str, name: str) -> tuple[float, float]:
    """Seconds, and the peak of the memory of all processes less that before, in MiB."""
    program = subprocess.Popen(
        [sys.executable, __file__, "--memory-of", name, "--rows", what],
        stdout=subprocess.PIPE,
        stdin=subprocess.PIPE,
        text=True,
    )
    assert program.stdout is not None
    assert program.stdin is not None
    program.stdout.readline()
    main = psutil.Process(program.pid)
    before = peak = _sizes(main)
    program.stdin.write("go\n")
    program.stdin.flush()
    while program.poll() is None:
        peak = max(peak, _sizes(main))
        sleep(LOOK_SECONDS[what])
    return float(program.stdout.readline()), (peak - before) / MIB


def _sizes(main: psutil.Process) -> int:
    """Bytes that are in no file on a disk: private ones, and of the whole machine those that can be shared.

    Of the latter not only what a process has mapped: some of the peers put arrays into files in memory.
    """
    size = shared_of_the_machine()
    for process in (main, *main.children(recursive=True)):
        with suppress(OSError, psutil.Error):
            rollup = Path(f"/proc/{process.pid}/smaps_rollup").read_text()
            size += 1024 * int(rollup.partition("Pss_Anon:")[2].split()[0])
    return size


def shared_of_the_machine() -> int:
    return 1024 * int(Path("/proc/meminfo").read_text().partition("\nShmem:")[2].split()[0])


def run_for_memory(what: str, name: str) -> None:
    """A program whose workers are warm: waits for a word, makes the call, and ends."""
    with ExitStack() as stack:
        run = sides(stack)["parallelkit" if name == "share" else name]
        run(last, [make(1)] * 4)
        call = large_table_call(name) if what == "memory" else slices_call(name, stack)
        print("ready", flush=True)
        sys.stdin.readline()
        began = perf_counter()
        call(run)
        print(perf_counter() - began, flush=True)


def large_table_call(name: str) -> Callable[[Map], None]:
    found = np.random.default_rng(1).random(TABLE_BYTES // 8)

    def call(run: Map) -> None:
        function = partial(look_up_shared, share(found)) if name == "share" else partial(look_up, found)
        if run(function, list(range(TASKS))) != [float(found[index]) for index in range(TASKS)]:
            raise WrongResult("memory")

    return call


def slices_call(name: str, stack: ExitStack) -> Callable[[Map], None]:
    """The input is a file without content, which reads as zeros."""
    folder = stack.enter_context(TemporaryDirectory())
    path = Path(folder, "input")
    with path.open("wb") as file:
        file.truncate(INPUT_BYTES)
    whole = np.asarray(np.memmap(path, np.float64, "r"))
    pool = stack.enter_context(multiprocessing.get_context("fork").Pool(WORKERS))
    executor = stack.enter_context(Executor("process", WORKERS))
    for warm in (pool.imap, executor.map):
        list(warm(mean, [np.ones(1)] * 4))

    def call(_: Map) -> None:
        slices: Any = chunked(whole, ARRAY_BYTES // 8)
        if name == "Pool":
            found = sum(1 + value for value in pool.imap(mean, slices))
        else:
            found = sum(1 + value for value in executor.map(mean, slices, buffersize=WINDOW))
        if found != INPUT_BYTES // ARRAY_BYTES:
            raise WrongResult("slices")

    return call


def memory(rounds: int) -> Iterator[str]:
    """peak memory of all processes together, the same call, in a program of its own"""
    for name in ("parallelkit", "share", "Pool", "ProcessPoolExecutor", "loky", "joblib", "mpire", "ray"):
        if name in ("parallelkit", "share", "Pool", "ProcessPoolExecutor") or importlib.util.find_spec(name):
            took, peak = peak_of("memory", name)
            yield f"| {name:<20} | {took:>6.2f} s | {peak:>6.0f} MiB more |"


def slices(rounds: int) -> Iterator[str]:
    """peak memory while 8 GiB are read in 1,024 slices, four at a time, which are 32 MiB"""
    for name in ("parallelkit", "Pool"):
        took, peak = peak_of("slices", name)
        yield f"| {name:<20} | {took:>6.2f} s | {peak:>6.0f} MiB more |"


ROWS = {
    "in": arrays_in,
    "out": arrays_out,
    "bytes": bytes_in,
    "table": large_table,
    "memory": memory,
    "slices": slices,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])  # type: ignore[union-attr]
    parser.add_argument("--quick", action="store_true", help="fewer rounds")
    parser.add_argument("--rows", default=",".join(ROWS), help=f"of {','.join(ROWS)}")
    parser.add_argument("--memory-of", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.memory_of:
        run_for_memory(arguments.rows, arguments.memory_of)
        return
    rounds = QUICK_ROUNDS if arguments.quick else FULL_ROUNDS
    print(f"{machine()}; {WORKERS} workers; medians of {rounds} rounds; ratios are ours / theirs")
    for name in arguments.rows.split(","):
        print(f"\n{name}: {ROWS[name].__doc__}", flush=True)
        for line in ROWS[name](rounds):
            print(line, flush=True)


if __name__ == "__main__":
    main()
