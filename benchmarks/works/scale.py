"""Work 12: the core on workers that are played, up to thousands of them. Nothing here depends on the machine.
Beside it, with the same workers, two well-known rules: see `benchmarks/peers/played.py`.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from ..peers.base import Side
from ..peers.played import Played
from .base import Case, Measured, Plan, Work

LAW_NAMES = {
    "uniform": "uniform",
    "rising": "rising",
    "falling": "falling",
    "pareto": "Pareto (2)",
    "bimodal": "bimodal shuffled",
    "giant_first": "one giant first",
    "heavy_tail": "heavy tail at the end",
}

SHARE_SECONDS = 1.0
"""The work of each worker; so the ideal, but where one item is longer."""

ONE_BY_ONE_MOST = 100_000
"""Items, beyond which a chunk for each takes minutes to play."""


@cache
def costs(law: str, items: int, workers: int) -> Any:
    from ..simulation import costs_of

    return costs_of(law, items, workers, SHARE_SECONDS)


def played_case(law: str, items: int, workers: int) -> Case:
    def measure(side: Side, round_number: int) -> Measured:
        from ..simulation import Simulation

        assert isinstance(side, Played)
        played = Simulation(costs(law, items, workers), workers, **side.rules(items, workers)).run()
        # As a part of the lower bound, which is a second unless one item is longer.
        return Measured([played.ratio])

    return Case(
        name=f"{LAW_NAMES[law]}, {workers:,} workers",
        measure=measure,
        needs="played",
        ideal_seconds=SHARE_SECONDS,
        rounds=1,  # of which another would say the same
        limit=120.0,
        leaves_out={} if items <= ONE_BY_ONE_MOST else {"chunks of one, played": "a million chunks"},
        panel=LAW_NAMES[law],
        x=workers,
    )


def scale_cases(plan: Plan) -> list[Case]:
    items = plan.choose(20_000, 400_000, 1_000_000)
    numbers = plan.choose([64], [2, 16, 128, 1024, 4096], [2, 8, 64, 512, 4096])
    laws = plan.choose(["uniform", "pareto"], list(LAW_NAMES), list(LAW_NAMES))
    return [played_case(law, items, workers) for law in laws for workers in numbers]


WORKS = [
    Work(
        number=12,
        name="scale",
        title="Scale on paper",
        text="The scheduler and driver of parallelkit with workers and a clock that are played "
        "(`benchmarks/simulation.py`), against the lower bound, which is shown as one second: a worker's "
        "share, or the largest item. A chunk costs its worker 0.1 ms besides its items; what the parent "
        "itself takes is not played.",
        cases=scale_cases,
        plot="scale",
    )
]
