"""Work 6: arrays to workers, back, and both; and one large argument that all items share.

The arrays of each repetition are new, so nothing can be cached, and each call is made twice, the second time
timed: between two rounds of a side others had the machine for seconds, and memory that lies idle for so long
may be given back to it.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from time import perf_counter
from typing import TYPE_CHECKING, Any

from ..measuring import WrongResult
from ..peers.base import Side
from ..peers.ours import Floor
from .base import Case, Measured, Plan, Work, timed

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]

KIB, MIB = 1 << 10, 1 << 20

VOLUMES = {64 * KIB: 32 * MIB, MIB: 64 * MIB, 8 * MIB: 128 * MIB, 64 * MIB: 256 * MIB}
"""By the size of an array, the bytes of all arrays of a call."""

_numbers = count(1)
_bases: dict[int, Array] = {}


def ends(array: Array) -> tuple[float, float]:
    return float(array[0]), float(array[-1])


class Filled:
    """Makes an array of so many bytes."""

    def __init__(self, size: int):
        self.size = size

    def __call__(self, number: int) -> Array:
        import numpy as np

        return np.full(self.size // 8, number, np.float64)


def negative(array: Array) -> Array:
    return -array


def look_up(table: Array, index: int) -> float:
    return float(table[index])


def fresh(size: int) -> Array:
    """An array that nobody has seen."""
    import numpy as np

    if size not in _bases:
        _bases[size] = np.random.default_rng(1).random(size // 8)
    return _bases[size] + next(_numbers)


# ---------------------------------------------------------------- the cases


def measured(way: str, size: int, volume: int) -> Callable[[Side, int], Measured]:
    """One of: in, out, in and out."""
    expected: list[tuple[float, float]] = []

    def prepare() -> list[Any]:
        if way == "out":
            items: list[Any] = [next(_numbers) for _ in range(volume // size)]
            expected[:] = [(number, number) for number in items]
            return items
        items = [fresh(size) for _ in range(volume // size)]
        expected[:] = [ends(array) if way == "in" else ends(-array[[0, -1]]) for array in items]
        return items

    def check(results: list[Any]) -> str:
        found = results if way == "in" else [ends(array) for array in results]
        whole = way == "in" or all(array.nbytes == size for array in results)
        if [tuple(pair) for pair in found] != expected or not whole:
            raise WrongResult(way)
        return ""

    function: Any = {"in": ends, "out": Filled(size), "in and out": negative}[way]

    def measure(side: Side, round_number: int) -> Measured:
        return timed(lambda items: side.map(function, items), check, prepare, warm_up=True)

    return measure


def copying(size: int, times: int = 1) -> Callable[[Floor, int], Measured]:
    """The same bytes copied once each way, by one thread, into memory that is mapped already."""

    def copied(side: Floor, round_number: int) -> Measured:
        import numpy as np

        source = fresh(min(size, 8 * MIB))
        target = np.ones((size // source.nbytes, len(source)))  # zeros would not be mapped yet
        began = perf_counter()
        for _ in range(times):
            for place in target:
                place[:] = source
        return Measured([perf_counter() - began])

    return copied


def array_cases(plan: Plan) -> list[Case]:
    sizes = plan.choose([8 * MIB], list(VOLUMES), list(VOLUMES))
    cases = []
    for way in ("in", "out", "in and out"):
        times = 2 if way == "in and out" else 1
        for size in sizes:
            volume = VOLUMES[size] * plan.choose(1, 1, 2) // plan.choose(4, 1, 1)
            text = f"{size // KIB} KiB" if size < MIB else f"{size // MIB} MiB"
            cases.append(
                Case(
                    name=f"{way}: {volume // size} arrays of {text}",
                    measure=measured(way, size, volume),
                    floor=copying(volume, times),
                    floor_name="memcpy",
                    item_seconds=1.0,
                    payload=times * volume,
                    panel=way,
                    x=size,
                    leaves_out={"serial loop": ""},  # nothing travels there
                )
            )
    return [*cases, shared_case(plan)]


def shared_case(plan: Plan) -> Case:
    size, tasks = plan.choose(8, 128, 400) * MIB, plan.choose(16, 100, 1000)
    expected: list[float] = []

    def prepare() -> Any:
        table = fresh(size)
        expected[:] = [float(table[index]) for index in range(tasks)]
        return table

    def check(results: list[float]) -> str:
        if list(results) != expected:
            raise WrongResult("shared")
        return ""

    def measure(side: Side, round_number: int) -> Measured:
        return timed(
            lambda table: side.shared(look_up, table, list(range(tasks))), check, prepare, warm_up=True
        )

    return Case(
        name=f"one argument of {size // MIB} MiB, {tasks} items",
        measure=measure,
        needs="shared",
        floor=copying(size),
        floor_name="memcpy, once",
        item_seconds=1e-4,
        panel="shared",
    )


WORKS = [
    Work(
        number=6,
        name="arrays",
        title="Arrays",
        text="Arrays of float64, new ones in each round: to workers that look at both ends of each; made by "
        "workers and kept by the caller; and both. Then a large array as the first argument of a partial, in "
        "the form that each peer's docs ask for (scattered, put, inherited).",
        cases=array_cases,
        plot="arrays",
    )
]
