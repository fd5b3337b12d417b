"""Works 1 and 2: how long it takes to have workers, and one call to come back."""

from __future__ import annotations

import json
import subprocess
import sys
from functools import cache, partial
from time import perf_counter
from typing import Any

from ..measuring import WrongResult
from ..peers.base import Side
from ..peers.ours import Floor
from ..work import square
from .base import Case, Measured, Plan, Work

CALLS, CALL_SECONDS = 200, 0.4
"""A round has so many calls, or as many as fit into these seconds."""


# ---------------------------------------------------------------- 1: start


@cache
def started(side: str, workers: int, round_number: int) -> dict[str, float]:
    """A fresh program; the round is its name, so that the three rows come from the same one."""
    command = [sys.executable, "-m", "benchmarks.works.starting", side, str(workers)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError((done.stderr.strip() or "nothing on stderr").splitlines()[-1])
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def start_cases(plan: Plan) -> list[Case]:
    def measure(which: str, side: Side, round_number: int) -> Measured:
        name = f"{type(side).__module__}:{type(side).__qualname__}"
        return Measured([started(name, side.workers, round_number)[which]])

    rows = {
        "cold": "cold: import, create, map two items, close",
        "again": "the same once more in the same program",
        "second": "second call on workers that are there, two items",
    }
    rounds, limit = plan.choose(1, 0, 0), plan.choose(6.0, 40.0, 60.0)
    return [
        Case(
            name=name,
            measure=partial(measure, which),
            needs="start",
            rounds=rounds,
            limit=limit,
            panel=name,
        )
        for which, name in rows.items()
    ]


# ---------------------------------------------------------------- 2: round trip


def round_trips(call: Any) -> Measured:
    """Each call is a value: the report has the median and the 99th percentile of all."""
    values: list[float] = []
    until = perf_counter() + CALL_SECONDS
    for number in range(-20, CALLS):
        began = perf_counter()
        result = call(square, number)
        took = perf_counter() - began
        if result != number * number:
            raise WrongResult(f"{result} instead of {number * number}")
        if number >= 0 or took > 0.01:  # the first are there to be warm; slow ones are it at once
            values.append(took)
        if perf_counter() > until and len(values) > 2:
            break
    return Measured(values)


_bare: list[Any] = []


def bare(side: Floor, round_number: int) -> Measured:
    from ..engine import BarePingPong

    if not _bare:
        _bare.append(BarePingPong())
    return round_trips(_bare[0].call)


def round_trip_cases(plan: Plan) -> list[Case]:
    return [
        Case(
            name="one call and its answer",
            measure=lambda side, round_number: round_trips(side.call),
            needs="call",
            floor=bare,
            floor_name="bare ping-pong over two pipes",
            tail=True,
            panel="median, 99th percentile",
        )
    ]


WORKS = [
    Work(
        number=1,
        name="start",
        title="Start",
        text="Cold is the first time in a program, imports included, from the first line of the program on.",
        cases=start_cases,
        opens=False,
    ),
    Work(
        number=2,
        name="calls",
        title="Round trip of one call",
        text="`square(n)` is sent to a worker, and its result is waited for. Workers are warm.",
        cases=round_trip_cases,
        quick_clusters=True,
    ),
]
