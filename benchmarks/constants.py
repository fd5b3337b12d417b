"""Where the constants of the engine come from: `python benchmarks/constants.py [NAME ...]`.

Each constant is given some values, the one in force among them, and what it trades is measured for each:
one row a measure, one column a value, the values in turn within a round, medians. Worker processes are
forked, so that they have the value too. Two workers.
"""

from __future__ import annotations

import argparse
import operator
import sys
from asyncio import sleep
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib import import_module
from inspect import Parameter, signature
from itertools import islice
from typing import Any

from parallelkit import Executor
from parallelkit._core.splitters import Adaptive

if __package__:
    from .engine import placed, round_trip_seconds
    from .measuring import interleaved, machine, middle, seconds
    from .work import Buffer, burn, cost_laws, echo, loops_per_second, square
else:
    from engine import placed, round_trip_seconds
    from measuring import interleaved, machine, middle, seconds
    from work import Buffer, burn, cost_laws, echo, loops_per_second, square

ROUNDS = 7
MILLION = range(1_000_000)
SQUARES = list(map(square, MILLION))
LONG = range(10_000_000)
SUM = sum(map(square, LONG))


# ---------------------------------------------------------------- what is measured


def tiny_tasks(executor: Executor) -> float:
    """a million squares"""
    return seconds(lambda: list(executor.map(square, MILLION)), SQUARES)


def tiny_stream(executor: Executor) -> float:
    """a million squares, of a generator"""
    return seconds(lambda: list(executor.map(square, (number for number in MILLION))), SQUARES)


def sum_of_squares(executor: Executor) -> float:
    """the sum of ten million squares"""
    return seconds(lambda: executor.reduce(operator.add, LONG, map=square), SUM)


def law(name: str) -> Callable[[Executor], float]:
    """The makespan of items that cost what a law says; half a second is ideal."""

    def measure(executor: Executor) -> float:
        costs = LAWS[name]
        return seconds(lambda: list(executor.map(burn, costs)), costs)

    measure.__doc__ = f"items: {name}"
    return measure


def first_of_a_stream(executor: Executor) -> float:
    """the first result of a warm stream of 0.5 ms items"""
    results = executor.map(burn, LAWS["uniform 0.5 ms"] * 100)
    list(islice(results, 500))
    results.close()  # type: ignore[attr-defined]
    again = executor.map(burn, iter(LAWS["uniform 0.5 ms"]))
    return seconds(lambda: [next(again)], LAWS["uniform 0.5 ms"][:1])


def round_trip(executor: Executor) -> float:
    """submit(...).result(), parent and workers on different cores"""
    with placed(0, 1):
        return round_trip_seconds(lambda: executor.submit(square, 3).result(), 9)


def short_maps(executor: Executor) -> float:
    """fifty maps of 2,000 squares"""
    return seconds(lambda: [len(list(executor.map(square, range(2000)))) for _ in range(50)], [2000] * 50)


def short_calls(executor: Executor) -> float:
    """fifty pmaps of 10,000 squares"""
    return seconds(lambda: [len(gathered(executor, square, range(10_000))) for _ in range(50)], [10_000] * 50)


def short_inputs(executor: Executor) -> float:
    """fifty pmaps of a generator of 5,000"""
    return seconds(
        lambda: [len(gathered(executor, square, (n for n in range(5000)))) for _ in range(50)], [5000] * 50
    )


def long_input(executor: Executor) -> float:
    """a pmap of a generator of 200,000"""
    return seconds(lambda: len(gathered(executor, square, (n for n in range(200_000)))), 200_000)


def gathered(executor: Executor, function: Callable[[int], int], items: Any) -> list[int]:
    """What `pmap` does, on an executor of ours."""
    return executor._map_to_list(function, (items,), False)


def gathered_law(name: str) -> Callable[[Executor], float]:
    """As `law`, with all results at once."""

    def measure(executor: Executor) -> float:
        costs = LAWS[name]
        return seconds(lambda: gathered(executor, burn, costs), costs)

    measure.__doc__ = f"pmap of items: {name}"
    return measure


def uneven_coroutines(_: Executor) -> float:
    """coroutines that compute more and more, four threads"""
    with Executor("thread", 4) as threads:
        costs = [number * 20 for number in range(2000)]
        return seconds(lambda: list(threads.map(burn_and_wait, costs)), costs)


async def burn_and_wait(loops: int) -> int:
    await sleep(0.001)
    return burn(loops)


def small_items(executor: Executor) -> float:
    """a hundred thousand items of 5 µs"""
    loops = max(1, LAWS["20 µs items"][0] // 4)
    return seconds(lambda: list(executor.map(burn, [loops] * 100_000)), [loops] * 100_000)


def small_results(executor: Executor) -> float:
    """a hundred thousand results of 1 KiB"""
    return seconds(lambda: sum(map(len, executor.map(bytes, [1024] * 100_000))), 1024 * 100_000)


def medium_results(executor: Executor) -> float:
    """two thousand results of 64 KiB"""
    return seconds(lambda: sum(map(len, executor.map(bytes, [1 << 16] * 2000))), 2000 << 16)


def there_and_back(size: int) -> Callable[[Executor], float]:
    def measure(executor: Executor) -> float:
        buffers = [Buffer(size) for _ in range((64 << 20) // size)]
        return seconds(lambda: sum(map(len, executor.map(echo, buffers, chunksize=1))), 64 << 20)

    measure.__doc__ = f"64 MiB in buffers of {size >> 10} KiB, there and back"
    return measure


@dataclass(frozen=True)
class Constant:
    """A constant, other values for it, and what it makes a difference to."""

    module: str
    values: tuple[float, ...]
    measures: tuple[Callable[[Executor], float], ...]


CONSTANTS = {
    "RUN_SECONDS": Constant(
        "_worker",
        (0.00005, 0.0001, 0.0002, 0.0005, 0.002),
        (tiny_tasks, law("20 µs items"), law("heavy tail at the end")),
    ),
    "RUN_SHARE": Constant(
        "_worker",
        (0.0, 1 / 64, 1 / 16, 1 / 4, 1.0),
        (small_items, law("20 µs items"), law("heavy tail at the end")),
    ),
    "LONGEST_RUN_SECONDS": Constant(
        "_worker",
        (0.0002, 0.0005, 0.001, 0.002, 0.01),
        (small_items, law("20 µs items"), law("heavy tail at the end")),
    ),
    "GROWTH": Constant(
        "_core.splitters", (2, 4, 16, 64, 256), (tiny_tasks, short_inputs, law("heavy tail at the end"))
    ),
    "FIRST_NUMBERS": Constant(
        "_opening", (64, 512, 4096, 32_768), (short_calls, short_inputs, sum_of_squares, law("rising"))
    ),
    "GIVES_BACK": Constant("_opening", (0.5, 1, 2, 4, 1e9), (gathered_law("heavy tail at the end"),)),
    "EVENLY": Constant("_core.splitters", (0, 1, 2, 4), (uneven_coroutines,)),
    "FIRST_ITEMS": Constant("_opening", (4, 16, 64, 256, 1024), (short_calls, law("one giant first"))),
    "PULL_ITEMS": Constant("_calls", (1, 4, 16, 64, 1024), (short_inputs, long_input)),
    "AHEAD_ITEMS": Constant("_calls", (128, 1024, 4096, 16_384, 65_536), (short_inputs, long_input)),
    "CHUNK_SECONDS": Constant(
        "_core.splitters",
        (0.002, 0.005, 0.01, 0.02, 0.05, 0.2),
        (tiny_tasks, law("uniform 0.5 ms"), law("heavy tail at the end"), first_of_a_stream),
    ),
    "LEAST_SECONDS": Constant(
        "_core.splitters",
        (0.0, 0.0002, 0.001, 0.005),
        (tiny_tasks, sum_of_squares, law("rising"), law("heavy tail at the end")),
    ),
    "ONE_BY_ONE_SECONDS": Constant(
        "_worker",
        (0.0, 0.000005, 0.00001, 0.00002, 0.00005, 0.0001),
        (tiny_tasks, small_items, law("20 µs items")),
    ),
    "ONE_BY_ONE_ITEMS": Constant("_worker", (0, 32, 128, 512, 2048), (tiny_tasks, short_maps)),
    "NOTHING_SECONDS": Constant("_worker", (0.0, 1e-6, 3e-6, 1e-5), (tiny_tasks, short_maps, short_calls)),
    "SMALL_BYTES": Constant("_wire.journal", (1, 16, 32, 64, 128), (tiny_tasks, short_calls)),
    "JOURNAL_BYTES": Constant(
        "_wire.journal",
        (1 << 16, 1 << 17, 1 << 18, 1 << 19, 1 << 20, 1 << 21),
        (tiny_tasks, small_results, medium_results),
    ),
    "LARGEST_LEAF": Constant("_core.fold", (256, 512, 1024, 2048, 4096), (sum_of_squares,)),
    "BLOCK": Constant("_core.fold", (2, 4, 16, 64), (sum_of_squares,)),
    "LOOKOUT_SECONDS": Constant("_wire.serving", (0.0, 0.00005, 0.0001, 0.0002, 0.0005), (round_trip,)),
    "STREAM_ITEMS": Constant("_opening", (4096, 8192, 16_384, 32_768, 65_536, 10**9), (tiny_stream,)),
    "PIPE_BYTES": Constant("_wire.peer", (1 << 16, 1 << 17, 1 << 18, 1 << 20), (medium_results,)),
    "LEAST_BYTES": Constant(
        "_wire.originals",
        (1 << 15, 1 << 16, 1 << 17, 1 << 18, 1 << 30),
        tuple(there_and_back(size << 10) for size in (32, 64, 128, 256, 1024)),
    ),
}


# ---------------------------------------------------------------- with another value


@contextmanager
def valued(name: str, value: float) -> Iterator[None]:
    """The constant has this value, wherever it was imported to and whatever was made of it."""
    home = import_module(f"parallelkit.{CONSTANTS[name].module}")
    ours = [module for full, module in sys.modules.items() if full.startswith("parallelkit.")]
    changes: list[tuple[Any, str, Any]] = [(module, name, value) for module in ours if hasattr(module, name)]
    if name == "LARGEST_LEAF":
        changes.append((home, "_LARGEST_LEAF_BITS", int(value).bit_length() - 1))
    if name in ("CHUNK_SECONDS", "GROWTH"):
        changes.append((Adaptive.__init__, "__defaults__", _with_default(name.lower(), value)))
    if name == "JOURNAL_BYTES":
        claims: Any = import_module("parallelkit._wire.claims")
        others = claims._AREA_BYTES - claims.JOURNAL_BYTES
        changes += [(claims, name, int(value)), (claims, "_AREA_BYTES", others + int(value))]
    before = [(module, attribute, getattr(module, attribute)) for module, attribute, _ in changes]
    for module, attribute, new in changes:
        setattr(module, attribute, new)
    try:
        yield
    finally:
        for module, attribute, old in before:
            setattr(module, attribute, old)


def _with_default(argument: str, value: float) -> tuple[Any, ...]:
    """The defaults of the splitter, one of them another."""
    defaults = {
        name: parameter.default
        for name, parameter in signature(Adaptive.__init__).parameters.items()
        if parameter.default is not Parameter.empty
    }
    return tuple({**defaults, argument: value}.values())


def in_force(name: str) -> float:
    value: float = getattr(import_module(f"parallelkit.{CONSTANTS[name].module}"), name)
    return value


def table(name: str) -> Iterator[str]:
    constant = CONSTANTS[name]
    head = [f"{value:g}{' *' if value == in_force(name) else ''}" for value in constant.values]
    yield f"\n{name:<58}" + "".join(f"{cell:>12}" for cell in head)
    with ExitStack() as stack:
        executors = {}
        for value in constant.values:
            with valued(name, value):
                executors[value] = stack.enter_context(Executor("process", 2, mp_context="fork"))
                list(executors[value].map(abs, range(100)))  # the workers are forked now
        for measure in constant.measures:

            def side(value: float, measure: Callable[[Executor], float] = measure) -> float:
                with valued(name, value):
                    return measure(executors[value])

            sides = {str(value): lambda value=value: side(value) for value in constant.values}  # type: ignore[misc]
            for warm_up in sides.values():
                warm_up()
            took = interleaved(ROUNDS, sides)
            yield f"  {measure.__doc__:<56}" + "".join(f"{middle(times):>12}" for times in took.values())


LAWS: dict[str, list[int]] = {}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])  # type: ignore[union-attr]
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(CONSTANTS)}; default: all")
    names = parser.parse_args().names or list(CONSTANTS)
    for name in names:
        if name not in CONSTANTS:
            parser.error(f"there is no constant {name}; there are {', '.join(CONSTANTS)}")
    LAWS.update(cost_laws(loops_per_second()))
    print(f"{machine()}; 2 workers; medians of {ROUNDS} rounds; * is in force")
    for name in names:
        for line in table(name):
            print(line, flush=True)


if __name__ == "__main__":
    main()
