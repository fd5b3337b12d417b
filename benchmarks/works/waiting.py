"""Works 9 and 10: items that wait, on threads and as coroutines, and coroutines that also compute."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from math import ceil
from time import sleep
from typing import Any

from ..peers.base import Side
from ..work import burn
from .base import Case, Measured, Plan, Work, expect, timed

THREADS, TASKS = 64, 100
WAIT_SECONDS = 0.01


# ---------------------------------------------------------------- 9: threads


def wait(number: int) -> int:
    sleep(WAIT_SECONDS)
    return number


def thread_cases(plan: Plan) -> list[Case]:
    length = plan.choose(320, 1000, 1000)
    expected = list(range(length))

    def measure(side: Side, round_number: int) -> Measured:
        return timed(lambda _: side.map(wait, expected), partial(expect, expected))

    return [
        Case(
            name=f"{length:,} items that sleep 10 ms, {THREADS} at a time",
            measure=measure,
            needs="threads",
            ideal_seconds=ceil(length / THREADS) * WAIT_SECONDS,
            panel="waiting",
        )
    ]


# ---------------------------------------------------------------- 10: coroutines


async def once(number: int) -> int:
    await asyncio.sleep(0)
    return number


async def wait_a_little(number: int) -> int:
    await asyncio.sleep(WAIT_SECONDS)
    return number


async def compute_and_wait(loops: int) -> int:
    burn(loops // 2)
    await asyncio.sleep(WAIT_SECONDS / 2)
    return burn(loops - loops // 2) + loops // 2


def coroutine_case(
    name: str, function: Callable[[Any], Awaitable[Any]], items: list[int], **more: Any
) -> Case:
    def measure(side: Side, round_number: int) -> Measured:
        return timed(lambda _: side.coroutines(function, items), partial(expect, items))

    return Case(name=name, measure=measure, panel=name, **more)


def coroutine_cases(plan: Plan) -> list[Case]:
    light, waiting = plan.choose(5000, 100_000, 100_000), plan.choose(1000, 10_000, 10_000)
    computing = plan.choose(200, 1000, 2000)
    millisecond = round(plan.speed / 1000)
    return [
        coroutine_case(f"{light:,} that await once", once, list(range(light)), needs="coroutines"),
        coroutine_case(
            f"{waiting:,} that wait 10 ms, {TASKS} at a time",
            wait_a_little,
            list(range(waiting)),
            needs="coroutines",
            ideal_seconds=waiting / TASKS * WAIT_SECONDS,
        ),
        coroutine_case(
            f"{computing:,} that compute 1 ms and wait 5 ms",
            compute_and_wait,
            [millisecond] * computing,
            needs="loops",
            ideal_seconds=computing * 0.001 / plan.workers,
            leaves_out={"plain tasks": ""},  # which have one loop
        ),
    ]


WORKS = [
    Work(
        number=9,
        name="threads",
        title="Waiting work on threads",
        text=f"`time.sleep(0.01)` in pools of {THREADS} threads.",
        cases=thread_cases,
        workers=THREADS,
    ),
    Work(
        number=10,
        name="coroutines",
        title="Coroutines",
        text=f"At most {TASKS} at a time in one event loop; aiomultiprocess, and parallelkit where items "
        "compute too, have an event loop in each worker process. The ideal leaves out what coroutines cost.",
        cases=coroutine_cases,
        workers=TASKS,
    ),
]
