"""How the scripts of this folder measure and print: interleaved rounds, medians, one table."""

from __future__ import annotations

import operator
import os
import platform
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from statistics import median
from time import perf_counter, strftime
from typing import Any

import psutil


class WrongResult(Exception):
    """What was measured did not do its work."""


def seconds(call: Callable[[], Any], expected: Any) -> float:
    """How long a call takes; its result is checked and freed outside of that time."""
    began = perf_counter()
    result = call()
    took = perf_counter() - began
    if result != expected:
        raise WrongResult(f"{call!r} gave {str(result)[:80]}, not {str(expected)[:80]}")
    return took


def interleaved(
    rounds: int, sides: Mapping[str, Callable[[], Any]], patience: float = 0.0
) -> dict[str, list[Any]]:
    """Each side once a round, A B C A B C, so that what disturbs the machine disturbs all of them.

    Args:
        patience: a side during which other programs took much of the machine is measured again, until so
            many seconds were spent on that. It is judged without looking at what was measured.
    """
    measured: dict[str, list[Any]] = {name: [] for name in sides}
    for _ in range(rounds):
        for name, side in sides.items():
            result, disturbed = _watched(side)
            began = perf_counter()
            while disturbed and patience > 0:
                wait_for_quiet(min(patience, 2.0))
                result, disturbed = _watched(side)
                patience -= perf_counter() - began
                began = perf_counter()
            measured[name].append(result)
    return measured


def _watched(side: Callable[[], Any]) -> tuple[Any, bool]:
    """What a side returns, and whether others took much of the machine meanwhile."""
    began, before = perf_counter(), _taken_by_others()
    result = side()
    lost, passed = _taken_by_others() - before, perf_counter() - began
    return result, lost > max(0.025, 0.04 * passed)  # the kernel counts in steps of 10 ms


def _taken_by_others() -> float:
    """The processor time that this machine spent on others than this process and those below it."""
    times = psutil.cpu_times()
    spent = sum(times) - times.idle - getattr(times, "iowait", 0.0) - getattr(times, "guest", 0.0)
    me = psutil.Process()
    for process in (me, *me.children(recursive=True)):
        own = process.cpu_times()
        spent -= own.user + own.system
    ended = me.cpu_times()
    return float(spent - ended.children_user - ended.children_system)


def wait_for_quiet(seconds: float) -> None:
    """Wait until the machine has little to do, at most so long."""
    deadline = perf_counter() + seconds
    while psutil.cpu_percent(0.1) > 10 and perf_counter() < deadline:
        pass


def ratio(above: Iterable[float], below: Iterable[float]) -> float:
    """The median of the ratios of each round, which a slow minute of the machine leaves alone."""
    return median(a / b for a, b in zip(above, below, strict=True))


@dataclass
class Row:
    """One line of the table.

    Attributes:
        ours, theirs: medians, ready to print.
        target: what the ratio should be, as "<= 1.05" or ">= 50"; empty where there is no target.
        beside: what else was measured in the same rounds.
    """

    what: str
    ours: str
    theirs: str
    ratio: float
    target: str = ""
    beside: str = ""

    @property
    def verdict(self) -> str:
        if not self.target:
            return "-"
        sign, number = self.target.split()
        compare = operator.le if sign == "<=" else operator.ge
        return "met" if compare(self.ratio, float(number)) else "MISSED"

    def line(self) -> str:
        shown = f"{self.ratio:.2f}" if self.ratio < 100 else f"{self.ratio:.0f}"
        cells = (self.what, self.ours, self.theirs, shown, self.target or "-", self.verdict, self.beside)
        return _LINE.format(*cells).rstrip()


_LINE = "| {:<58} | {:>9} | {:>26} | {:>6} | {:>7} | {:<6} | {}"


def heading() -> str:
    cells = ("what", "ours", "theirs", "ratio", "target", "met?", "beside it, in the same rounds")
    rule = f"|{'-' * 60}|{'-' * 10}:|{'-' * 27}:|{'-' * 7}:|{'-' * 8}:|{'-' * 8}|{'-' * 30}"
    return f"{_LINE.format(*cells)}\n{rule}"


def time_text(value: float) -> str:
    """Seconds, in a unit that fits: 84.1 µs, 12.7 ms, 1.02 s."""
    for unit, factor in (("s", 1.0), ("ms", 1e3), ("µs", 1e6)):
        if value * factor >= 1:
            return f"{value * factor:.3g} {unit}"
    return f"{value * 1e9:.3g} ns"


def middle(values: Iterable[float]) -> str:
    """The median of some seconds, ready to print."""
    return time_text(median(values))


def machine() -> str:
    """On what this was measured."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    version = f"{platform.python_implementation()} {platform.python_version()}"
    return f"{strftime('%B %Y')}, {version}, {sys.platform}, {cores} cores"
