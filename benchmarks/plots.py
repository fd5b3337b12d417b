"""Pictures of a report: small multiples, which a printer without colours and the colour-blind can read.

Colours are those of Okabe and Ito, and each comes with a marker, a kind of line or a hatch of its own.
parallelkit is always blue and filled, the best peer orange and hatched.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from math import ceil
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("agg")
from matplotlib import pyplot as plt

from .figures import Group, Report, Row, kind, ours, reference
from .measuring import time_text
from .peers.table import SIDES
from .verdicts import Line, lines_of

BLUE, ORANGE, GREY = "#0072B2", "#E69F00", "#C8C8C8"
FORMS: list[dict[str, Any]] = [
    {"color": ORANGE, "marker": "s", "linestyle": "-"},
    {"color": "#D55E00", "marker": "^", "linestyle": "--"},
    {"color": "#009E73", "marker": "D", "linestyle": ":"},
    {"color": "#CC79A7", "marker": "v", "linestyle": "-."},
    {"color": "#56B4E9", "marker": "P", "linestyle": (0, (5, 1))},
    {"color": "#000000", "marker": "x", "linestyle": (0, (1, 1))},
]
"""The forms of one peer, in the order of the table."""

OURS = {"color": BLUE, "marker": "o", "linestyle": "-", "linewidth": 2.2, "zorder": 5}
FLOOR = {"color": "#000000", "linestyle": (0, (1, 2)), "linewidth": 1.2}
LIMITS = {"floor": (0, (1, 1)), "ideal": "--", "serial loop": "-."}

TEXT: dict[str, Any] = {
    "xytext": (4, 0),
    "textcoords": "offset points",
    "zorder": 6,
    "va": "center",
    "fontsize": 6.5,
    "bbox": {"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 0.4},
}

WIDTH = 9.5
"""Inches."""

Panel = tuple[str, Callable[[Any], None]]
"""A title, and what draws into the axes."""


def draw(report: Report, folder: Path) -> dict[str, Path]:
    """One picture for each work, by its name."""
    folder.mkdir(parents=True, exist_ok=True)
    found = {}
    with mpl.rc_context({"font.size": 8, "axes.spines.top": False, "axes.spines.right": False}):
        for group in report.groups:
            if any(row.benchmarks for row in group.rows):
                figure = KINDS[group.plot](group)
                found[group.name] = folder / f"{group.name}.png"
                figure.savefig(found[group.name], dpi=110, metadata={"Software": None})
                plt.close(figure)
    return found


def grid(panels: Sequence[Panel], columns: int, height: float, **options: Any) -> Any:
    """Panels from left to right and down, each of so many inches of height."""
    rows = ceil(len(panels) / columns)
    figure, axes = plt.subplots(
        rows, columns, figsize=(WIDTH, rows * height + 0.5), squeeze=False, layout="constrained", **options
    )
    for axis, (title, fill) in zip(axes.flat, panels, strict=False):
        axis.set_title(title, loc="left", fontsize=8.5, fontweight="bold")
        fill(axis)
    for axis in axes.flat[len(panels) :]:
        axis.set_visible(False)
    return figure


def with_legend(figure: Any, wanted: Callable[[str], bool] = lambda label: True) -> Any:
    """One for all panels, below them, where it hides nothing.

    Args:
        wanted: which labels it has; others are in the legends of panels.
    """
    found: dict[str, Any] = {}
    for axis in figure.axes:
        handles, labels = axis.get_legend_handles_labels()
        found.update((label, handle) for label, handle in zip(labels, handles, strict=True) if wanted(label))
    if found:
        figure.legend(
            found.values(), found.keys(), loc="outside lower center", ncols=len(found), frameon=False
        )
    return figure


# ---------------------------------------------------------------- bars


def bars(group: Group) -> Any:
    """A panel for each row, a bar for each side."""
    found = [line for row in group.rows for line in lines_of(group.title, row)]
    most = max(len(line.row.benchmarks) + len(line.row.troubles) for line in found)
    panels = [(line.name, filled_with_bars(line, _all_sides(line))) for line in found]
    return with_legend(grid(panels, min(2, len(panels)), 0.16 * most + 0.8))


def bars_of_largest(group: Group) -> Any:
    """As `bars`, of the largest row in each panel, with one bar for each peer, that of its best form."""
    largest = {row.facts["panel"]: row for row in sorted(group.rows, key=lambda row: float(row.facts["x"]))}
    return _best_forms([Line(group.title, row) for row in largest.values()])


def bars_of_best(group: Group) -> Any:
    return _best_forms([Line(group.title, row) for row in group.rows])


def _best_forms(found: list[Line]) -> Any:
    most = max(len(best_forms(line)) for line in found)
    panels = [(line.name, filled_with_bars(line, best_forms(line))) for line in found]
    return with_legend(grid(panels, min(2, len(panels)), 0.16 * most + 0.8))


def _all_sides(line: Line) -> list[str]:
    return [side for side in [*line.row.benchmarks, *line.row.troubles] if not reference(side)]


def best_forms(line: Line) -> list[str]:
    """The fastest side of each peer, or one of those that have no figure."""
    found: dict[str, str] = {}
    for side in sorted(_all_sides(line), key=lambda side: (line.is_rough(side), _value(line, side))):
        found.setdefault(kind(side).family, side)
    return list(found.values())


def _value(line: Line, side: str) -> float:
    return line.value(side) if side in line.row.benchmarks else float("inf")


def filled_with_bars(line: Line, sides: Iterable[str]) -> Callable[[Any], None]:
    order = sorted(sides, key=lambda side: _value(line, side), reverse=True)

    def fill(axis: Any) -> None:
        values = [line.value(side) if side in line.row.benchmarks else 0.0 for side in order]
        limits = _limits(line)
        positive = [value for value in (*values, *limits.values()) if value > 0]
        _scale(axis, positive, line.row.facts["unit"])
        start = axis.get_xlim()[0]
        for place, (side, value) in enumerate(zip(order, values, strict=True)):
            if value:
                axis.barh(place, max(value, start) - start, left=start, height=0.72, **_bar_style(line, side))
                axis.annotate(_label(line, side), (max(value, start), place), **TEXT)
            else:
                axis.annotate(line.row.troubles[side][:38], (start, place), style="italic", **TEXT)
        for name, limit in limits.items():
            axis.axvline(limit, color="black", linestyle=LIMITS[name], linewidth=1, label=name, zorder=4)
        axis.set_yticks(range(len(order)), order, fontsize=7)
        for tick, side in zip(axis.get_yticklabels(), order, strict=True):
            tick.set_fontweight("bold" if ours(side) else "normal")
        axis.set_ylim(-0.6, len(order) - 0.4)

    return fill


def _limits(line: Line) -> dict[str, float]:
    """What could be reached, and what a loop takes."""
    serial = line.reference("serial")
    found = {"floor": line.floor, "ideal": line.ideal, "serial loop": line.value(serial) if serial else None}
    return {name: value for name, value in found.items() if value is not None}


def _scale(axis: Any, values: list[float], unit: str) -> None:
    """Logarithmic where the values are far apart, with room for the numbers at the ends of the bars."""
    name = "growth" if unit == "byte" else "time"
    least, most = min(values), max(values)
    if most > 12 * least:
        axis.set_xscale("log")
        least = max(least, most / 1e6)
        axis.set_xlim(least / 2, most * (most / least) ** 0.3)
        axis.set_xlabel(f"{name}, logarithmic")
    else:
        axis.set_xlim(0, most * 1.3)
        axis.locator_params(axis="x", nbins=5)
        axis.set_xlabel(name)
    if unit == "byte" and axis.get_xscale() == "log":
        left, right = axis.get_xlim()
        mebibytes = [2.0**20 * 10**power for power in range(-2, 5)]
        axis.set_xticks([tick for tick in mebibytes if left <= tick <= right])
        axis.minorticks_off()
    axis.xaxis.set_major_formatter(lambda value, _: number(value, unit))
    axis.xaxis.set_minor_formatter("")


def _bar_style(line: Line, side: str) -> dict[str, Any]:
    if ours(side):
        return {"color": BLUE, "edgecolor": "black", "label": "parallelkit"}
    if side == line.best_peer:
        return {"color": ORANGE, "edgecolor": "black", "hatch": "///", "label": "the best peer"}
    return {"color": GREY, "edgecolor": "#808080"}


def _label(line: Line, side: str) -> str:
    return ("~ " if line.is_rough(side) else "") + number(line.value(side), line.row.facts["unit"])


def number(value: float, unit: str) -> str:
    if unit == "byte":
        return f"{value / 2**20:.3g} MiB" if value < 1000 * 2**20 else f"{value / 2**20:,.0f} MiB"
    return time_text(value) if value > 0 else "0"


# ---------------------------------------------------------------- curves


def families(rows: Iterable[Row]) -> dict[str, list[str]]:
    """Peers with their sides that have figures, in the order of the table; no more than three at once."""
    there = {side for row in rows for side in row.benchmarks if not ours(side) and not reference(side)}
    found: dict[str, list[str]] = {}
    for side in sorted(there, key=lambda side: list(SIDES).index(side) if side in SIDES else len(SIDES)):
        family, again = kind(side).family, 1
        while len(found.get(name := family if again == 1 else f"{family}, {again}", ())) == 3:
            again += 1
        found.setdefault(name, []).append(side)
    return found


def curve(axis: Any, rows: Iterable[Row], side: str, y: Callable[[Line], float | None], **style: Any) -> None:
    points = []
    for row in rows:
        if side in row.benchmarks and (height := y(Line("", row))) is not None:
            points.append((float(row.facts["x"]), height / Line("", row).value(side)))
    if points:
        x, heights = zip(*sorted(points), strict=True)
        axis.plot(x, heights, markersize=4, label=side, **style)


def with_ours(
    rows: list[Row],
    sides: list[str],
    y: Callable[[Line], float | None],
    dress: Callable[[Any], None],
    legend: bool = True,
) -> Callable[[Any], None]:
    """parallelkit, the floor, and the forms of one peer, which are in the legend of the panel."""

    def fill(axis: Any) -> None:
        everybody = dict.fromkeys(side for row in rows for side in row.benchmarks)
        for side in everybody:
            if kind(side).family == "floor":
                curve(axis, rows, side, y, **FLOOR)
            elif ours(side):
                curve(axis, rows, side, y, **OURS)
        for side, style in zip(sides, FORMS, strict=False):
            curve(axis, rows, side, y, **style)
        dress(axis)
        axis.label_outer()
        handles, labels = axis.get_legend_handles_labels()
        forms = [handle for handle, label in zip(handles, labels, strict=True) if not common(label)]
        if legend and forms:
            axis.legend(handles=forms, fontsize=6, frameon=False, handlelength=3)

    return fill


def common(side: str) -> bool:
    """It is in all panels."""
    return ours(side) or reference(side)


def grain(group: Group) -> Any:
    """Efficiency against the time of an item, a panel for each peer."""

    def dress(axis: Any) -> None:
        axis.set_xscale("log")
        axis.set_ylim(0, 1.25)
        axis.axhline(1, color="#808080", linewidth=0.6)
        axis.xaxis.set_major_formatter(lambda value, _: time_text(value))
        axis.set_xlabel("time of an item")
        axis.set_ylabel("efficiency: ideal / measured")

    panels = [
        (family, with_ours(group.rows, sides, lambda line: line.ideal, dress))
        for family, sides in families(group.rows).items()
    ]
    return with_legend(grid(panels, 3, 1.9, sharey=True), common) if panels else bars(group)


def arrays(group: Group) -> Any:
    """GB/s against size: ways across, peers down; the large argument is in the tables alone."""
    rows = [row for row in group.rows if row.facts["payload"]]
    ways = list(dict.fromkeys(row.facts["panel"] for row in rows))

    def dress(axis: Any) -> None:
        axis.set_xscale("log", base=2)
        axis.set_yscale("log")
        axis.set_xticks([2**16, 2**20, 2**23, 2**26], ["64 KiB", "1 MiB", "8 MiB", "64 MiB"])
        axis.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axis.set_xlabel("size of an array")
        axis.set_ylabel("GB/s")

    panels = [
        (
            f"{family}: {way}",
            with_ours(
                [row for row in rows if row.facts["panel"] == way],
                sides,
                lambda line: float(line.row.facts["payload"]) / 1e9,
                dress,
                legend=way == ways[0],
            ),
        )
        for family, sides in families(rows).items()
        for way in ways
    ]
    if not panels:
        return bars(group)
    return with_legend(grid(panels, len(ways), 1.5, sharey=True, sharex=True), common)


def scale(group: Group) -> Any:
    """Efficiency against the number of workers, a panel for each law."""

    def dress(axis: Any) -> None:
        axis.set_xscale("log", base=2)
        axis.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axis.set_ylim(0, 1.1)
        axis.axhline(1, color="#808080", linewidth=0.6)
        axis.set_xlabel("workers, played")
        axis.set_ylabel("efficiency: bound / makespan")

    panels = []
    for law in dict.fromkeys(row.facts["panel"] for row in group.rows):
        rows = [row for row in group.rows if row.facts["panel"] == law]
        others = [side for sides in families(rows).values() for side in sides]
        panels.append((law, with_ours(rows, others, lambda line: line.ideal, dress, legend=False)))
    return with_legend(grid(panels, 3, 1.9, sharey=True)) if panels else bars(group)


KINDS: dict[str, Callable[[Group], Any]] = {
    "bars": bars,
    "tiny": bars_of_largest,
    "skew": bars_of_best,
    "grain": grain,
    "arrays": arrays,
    "scale": scale,
}
