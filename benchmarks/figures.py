"""What was measured, as pyperf keeps it: one benchmark for each case and side, one run for each round.

Two files: `figures.json` is a suite of pyperf, so that `python -m pyperf stats` and `compare_to` read it;
`run.json` has what pyperf has no place for: the machine, the cases, and why a side has no figure. From these
two the report can be made again.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyperf

from .peers.base import Side
from .peers.table import side_named
from .running import Outcomes
from .works.base import Case, Work

SEPARATOR = " | "


@dataclass
class Row:
    """A case with what every side did in it.

    Attributes:
        facts: those of the case that the report needs.
        benchmarks: by side.
        troubles: by side, why there is no benchmark.
        finalists: the sides that had more rounds than others; empty where all had as many.
    """

    facts: dict[str, Any]
    benchmarks: dict[str, pyperf.Benchmark] = field(default_factory=dict)
    troubles: dict[str, str] = field(default_factory=dict)
    finalists: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        return str(self.facts["name"])


@dataclass
class Group:
    """A work with its rows."""

    number: int
    name: str
    title: str
    text: str
    plot: str
    rows: list[Row] = field(default_factory=list)


@dataclass
class Report:
    """All that a report is made of."""

    machine: dict[str, Any]
    groups: list[Group] = field(default_factory=list)

    def put(self, group: Group) -> None:
        """Add a work, or put it in the place of what was measured of it before."""
        others = [other for other in self.groups if other.number != group.number]
        self.groups = sorted([*others, group], key=lambda each: each.number)


CASE_FACTS = (
    "name", "floor_name", "ideal", "ideal_seconds", "unit", "tail", "payload", "panel", "x",
)  # fmt: skip


def group_of(work: Work, cases: Iterable[Case], outcomes: Outcomes) -> Group:
    group = Group(work.number, work.name, work.title, work.text, work.plot)
    for case in cases:
        row = Row({fact: getattr(case, fact) for fact in CASE_FACTS})
        for (name, side), outcome in outcomes.items():
            if name != case.name:
                continue
            if outcome.in_finals:
                row.finalists.append(side)
            if outcome.rounds:
                row.benchmarks[side] = benchmark(work.name, case, side, outcome.rounds)
            else:
                row.troubles[side] = outcome.trouble or "not measured"
        group.rows.append(row)
    return group


def benchmark(work: str, case: Case, side: str, rounds: list[list[float]]) -> pyperf.Benchmark:
    metadata = {"name": SEPARATOR.join((work, case.name, side)), "unit": case.unit}
    runs = [pyperf.Run(values, metadata=metadata, collect_metadata=False) for values in rounds]
    return pyperf.Benchmark(runs)


def ours(side: str) -> bool:
    return kind(side).ours


def reference(side: str) -> bool:
    return kind(side).reference


def kind(side: str) -> type[Side]:
    return side_named(side)


# ---------------------------------------------------------------- files


def save(report: Report, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    found = [made for group in report.groups for row in group.rows for made in row.benchmarks.values()]
    if found:
        pyperf.BenchmarkSuite(found).dump(str(folder / "figures.json"), replace=True)
    facts = {"machine": report.machine, "works": [_group_facts(group) for group in report.groups]}
    (folder / "run.json").write_text(json.dumps(facts, indent=1, ensure_ascii=False) + "\n")


def _group_facts(group: Group) -> dict[str, Any]:
    rows = [
        {
            **row.facts,
            "troubles": row.troubles,
            "sides": list(row.benchmarks),
            "finalists": row.finalists,
        }
        for row in group.rows
    ]
    about = {name: getattr(group, name) for name in ("number", "name", "title", "text", "plot")}
    return {**about, "rows": rows}


def load(folder: Path) -> Report:
    """What `save` has written."""
    facts = json.loads((folder / "run.json").read_text())
    suite = pyperf.BenchmarkSuite.load(str(folder / "figures.json"))
    known = {made.get_name(): made for made in suite.get_benchmarks()}
    report = Report(facts["machine"])
    for work in facts["works"]:
        rows = work.pop("rows")
        group = Group(**work)
        for row in rows:
            troubles, sides, finalists = row.pop("troubles"), row.pop("sides"), row.pop("finalists")
            names = {side: SEPARATOR.join((group.name, row["name"], side)) for side in sides}
            found = {side: known[name] for side, name in names.items()}
            group.rows.append(Row(row, found, troubles, finalists))
        report.groups.append(group)
    return report
