"""Works 3 to 5: many small items, items of all sizes, items of different sizes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random
from typing import Any

from ..work import burn, cost_laws, even_parts, square
from .base import QUICK, Case, Plan, Work, floor_of, mapped, slices

# ---------------------------------------------------------------- 3: tiny tasks

SQUARE_SECONDS = 5e-8

KINDS: dict[str, Callable[[int], Any]] = {
    "range": range,
    "list": lambda count: list(range(count)),
    "generator": lambda count: (number for number in range(count)),
}


def tiny_cases(plan: Plan) -> list[Case]:
    """The smaller ones first, since what is slow in them is not tried in the larger."""
    quick = {("range", 10_000), ("list", 5000), ("generator", 5000)}
    default = {(kind, count) for kind in KINDS for count in (10_000, 100_000)} | {("range", 1_000_000)}
    full = {(kind, count) for kind in KINDS for count in (10_000, 100_000, 1_000_000)}
    wanted = plan.choose(quick, default, full)
    return [
        tiny_case(kind, count, wanted)
        for kind in KINDS
        for count in sorted({c for k, c in wanted if k == kind})
    ]


def tiny_case(kind: str, count: int, wanted: set[tuple[str, int]]) -> Case:
    smaller = (kind, count // 10)
    return mapped(
        f"{kind} of {count:,}",
        square,
        lambda: KINDS[kind](count),
        grows_from=f"{kind} of {count // 10:,}" if smaller in wanted else "",
        times=10,
        item_seconds=SQUARE_SECONDS,
        panel=kind,
        x=count,
        **floor_of(square, lambda processes: slices(range(count), processes)),
    )


# ---------------------------------------------------------------- 4: grain sweep


def grain_cases(plan: Plan) -> list[Case]:
    """Coarse items first."""
    grains = [1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6]
    if plan.level == QUICK:
        grains = grains[2:-1]
    cases: list[Case] = []
    for grain in grains:
        cases.append(grain_case(grain, plan, cases[-1].name if cases else ""))
    return cases


def grain_case(grain: float, plan: Plan, coarser: str) -> Case:
    each = plan.choose(0.05, 0.15, 0.5)  # seconds of work for each worker
    count = plan.workers * max(2, round(each / grain))
    items = [max(1, round(grain * plan.speed))] * count
    return mapped(
        f"{count:,} items of {grain_text(grain)}",
        burn,
        lambda: items,
        grows_from=coarser,
        times=10,
        steady=each * plan.workers,
        ideal=1 / plan.workers,
        item_seconds=grain,
        panel="efficiency",
        x=grain,
        **floor_of(burn, lambda processes: slices(items, processes)),
    )


def grain_text(seconds: float) -> str:
    return f"{seconds * 1e6:g} µs" if seconds < 1e-3 else f"{seconds * 1e3:g} ms"


# ---------------------------------------------------------------- 5: skew


def laws(plan: Plan) -> dict[str, list[int]]:
    """The loops of each item; their sum is a part of a second for each worker."""
    loops = plan.speed * plan.choose(0.1, 0.15, 0.5) * plan.workers
    found = cost_laws(loops)  # which scales them to a second of the speed that it is given
    del found["20 µs items"]  # part of the grain sweep here
    shape = [100.0 if number % 20 == 0 else 1.0 for number in range(2000)]
    Random(1).shuffle(shape)
    found["bimodal shuffled"] = [max(1, int(cost * loops / sum(shape))) for cost in shape]
    return found


def skew_cases(plan: Plan) -> list[Case]:
    quick = ("uniform 0.5 ms", "heavy tail at the end")
    found = {name: costs for name, costs in laws(plan).items() if plan.level > QUICK or name in quick}
    return [skew_case(name.removesuffix(" 0.5 ms"), costs, plan) for name, costs in found.items()]


def skew_case(name: str, costs: Sequence[int], plan: Plan) -> Case:
    return mapped(
        name,
        burn,
        lambda: costs,
        ideal=max(1 / plan.workers, max(costs) / sum(costs)),
        item_seconds=sum(costs) / plan.speed / len(costs),
        panel=name,
        **floor_of(burn, lambda processes: even_parts(costs, processes)),
    )


WORKS = [
    Work(
        number=3,
        name="tiny",
        title="Tiny tasks",
        text="`square(n)`, 50 ns by itself: what it costs to carry an item. The serial loop beats all pools.",
        cases=tiny_cases,
        plot="tiny",
    ),
    Work(
        number=4,
        name="grain",
        title="Grain sweep",
        text="The same work cut into items of 1 µs to 100 ms. Efficiency is the ideal over what was "
        "measured; the ideal is the serial loop's time divided by the number of workers.",
        cases=grain_cases,
        plot="grain",
    ),
    Work(
        number=5,
        name="skew",
        title="Skewed work",
        text="Two thousand items of different costs. The ideal is the serial loop's time divided by the "
        "number of workers, or the largest item where that takes longer.",
        cases=skew_cases,
        plot="skew",
    ),
]
