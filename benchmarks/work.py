"""The work that is measured: functions, costs of items, and the same work in two plain processes."""

from __future__ import annotations

import multiprocessing
import operator
import random
from collections.abc import Callable, Sequence
from functools import partial, reduce
from heapq import heappop, heappush
from itertools import repeat
from pickle import PickleBuffer
from statistics import median
from time import perf_counter
from typing import Any
from zlib import crc32

SERIAL_SECONDS = 1.0
"""What the items of each cost law take together, one after the other."""


def square(number: int) -> int:
    return number * number


def echo(item: Any) -> Any:
    return item


class Buffer(bytearray):
    """Bytes that offer their memory to pickles, as an array does."""

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        return Buffer, (PickleBuffer(self),)


BLOCK = bytes(range(256)) * 8


def burn(loops: int) -> int:
    """A fixed amount of work, about 0.4 µs a loop.

    Not a spin on the clock, which takes as long on a core that it shares with others. Nor a bare Python
    loop: the same one runs up to 40 % faster or slower with where the interpreter's frames happen to lie.
    """
    for _ in repeat(None, loops):
        crc32(BLOCK)
    return loops


def burn_all(costs: Sequence[int]) -> int:
    return sum(map(burn, costs))


def sum_of_squares(numbers: range) -> int:
    return reduce(operator.add, map(square, numbers))


def loops_per_second() -> float:
    """How much of `burn` this machine does in a second, measured once and then kept fixed."""
    loops = 50_000
    measured = []
    for _ in range(15):
        began = perf_counter()
        burn(loops)
        measured.append(loops / (perf_counter() - began))
    return median(measured)


def cost_laws(speed: float) -> dict[str, list[int]]:
    """By name, the loops that each item takes; all about SERIAL_SECONDS in sum.

    Args:
        speed: loops per second.
    """
    count = 2000
    dice = random.Random(1)
    shapes: dict[str, list[float]] = {
        "uniform 0.5 ms": [1.0] * count,
        "rising": [float(place) for place in range(1, count + 1)],
        "falling": [float(place) for place in range(count, 0, -1)],
        "Pareto (1.5)": [dice.paretovariate(1.5) for _ in range(count)],
        "heavy tail at the end": [1.0] * (count - 40) + [(count - 40) / 40] * 40,
        "one giant first": [float(count // 2), *[1.0] * count],
        "20 µs items": [1.0] * 50_000,
    }
    return {name: _scaled(shape, SERIAL_SECONDS * speed) for name, shape in shapes.items()}


def _scaled(shape: Sequence[float], loops: float) -> list[int]:
    factor = loops / sum(shape)
    return [max(1, int(cost * factor)) for cost in shape]


def halves(costs: Sequence[int]) -> list[list[int]]:
    """Two lists of the same items whose sums are as good as equal."""
    return even_parts(costs, 2)


def even_parts(costs: Sequence[int], count: int) -> list[list[int]]:
    """So many lists of the same items, whose sums are as good as equal."""
    least = [(0, which) for which in range(count)]
    parts: list[list[int]] = [[] for _ in range(count)]
    for cost in sorted(costs, reverse=True):
        loops, which = heappop(least)
        parts[which].append(cost)
        heappush(least, (loops + cost, which))
    return parts


class SideBySide:
    """Plain processes that each do their part: the most that this machine gives to so many workers."""

    def __init__(self, workers: int = 2) -> None:
        methods = multiprocessing.get_all_start_methods()
        context: Any = multiprocessing.get_context("fork" if "fork" in methods else "spawn")
        self._ends = []
        for _ in range(workers):
            ours, theirs = context.Pipe()
            context.Process(target=_do_parts, args=(theirs,), daemon=True).start()
            theirs.close()
            self._ends.append(ours)

    def seconds(self, tasks: Sequence[partial[Any]]) -> tuple[float, list[Any]]:
        """From the word "go" until both have answered, and the answers. The tasks travel before that."""
        for end, task in zip(self._ends, tasks, strict=True):
            end.send(task)
            end.recv()
        began = perf_counter()
        for end in self._ends:
            end.send("go")
        answers = [end.recv() for end in self._ends]
        return perf_counter() - began, answers


def _do_parts(end: Any) -> None:
    while True:
        try:
            task: Callable[[], Any] = end.recv()
        except EOFError:
            return
        end.send("ready")
        end.recv()
        end.send(task())
