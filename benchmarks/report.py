"""The report in Markdown: where parallelkit is behind, then a table and a picture for each work."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import groupby
from pathlib import Path

from .figures import Group, Report, ours, reference
from .measuring import time_text
from .verdicts import AHEAD, ALONE, AT_FLOOR, BEHIND, Line, lines, lines_of

METHOD = """\
Every side runs in a process of its own. In each round all sides of a row have their turn, one after the
other{rounds}. Then parallelkit, the three best peers, unless they take three times as long as the best, and
what all are compared with have more rounds{finals}, and these alone count for them: after a few rounds, the
best of twenty is above all the luckiest. What had the first rounds alone, at another time, has a ~. Figures
are medians ± the median absolute deviation, by [pyperf](https://pyperf.readthedocs.io). A short call is
made once without being timed, then repeated until a tenth of a second is over. After a round a peer that
takes ten times as long as the best has no more, after two one that takes three times as long. A side that
takes too long for a round{limit} is ended. Every result is compared with that of the serial loop (or of the
first side that answers, where there is none), or with what it must be. Work that uses the processor is a
fixed amount of checksums, not a wait for the clock. dask, Ray and others that use the processor while they
have nothing to do are stopped while others have their turn.

parallelkit is the same everywhere: so many processes, or as many threads or coroutines as the row says, and
no other option. Peers come with their defaults, and with what their docs recommend for such work:
*chunksize* and the like are chosen so that a chunk takes 10 ms, but for four chunks a worker at least.
*Floor*: the same work in plain processes that have their parts already, a bare pipe, or a copy of memory.
*Ideal*: no loss at all. A row is **behind** if any peer in any form is faster, unless parallelkit is within
3 % of the floor or the ideal."""


def markdown(report: Report, pictures: dict[str, str]) -> str:
    """Args: pictures: by the name of a work, the path from where the report is."""
    parts = [
        "# Benchmarks\n",
        f"Made by `{report.machine['command']}`; this file is written by it.\n",
        f"{machine(report)}\n",
        f"## Where parallelkit is behind\n\n{behind(report)}\n",
        f"## Method\n\n{method(report)}\n",
    ]
    for group in report.groups:
        parts.append(section(group, pictures.get(group.name, "")))
    return "\n".join(parts)


def method(report: Report) -> str:
    """With the numbers of this run."""
    rounds, finals, seconds = report.machine.get("rounds", (0, 0, 0.0))
    return METHOD.format(
        rounds=f" ({rounds})" if rounds else "",
        finals=f" ({finals})" if finals else "",
        limit=f" ({seconds:g} s, where a row has no limit of its own)" if seconds else "",
    )


def machine(report: Report) -> str:
    about = report.machine
    versions = about["versions"]
    absent = [name for name, version in versions.items() if version == "not installed"]
    present = ", ".join(f"{name} {versions[name]}" for name in versions if name not in absent)
    text = (
        f"{about['date']}. {about['processor']}, {about['cores']} cores as parallelkit counts them, "
        f"{about['memory_gib']} GiB, {about['system']}, {about['python']}; {about['workers']} workers. "
        f"Load at the start: {', '.join(map(str, about['load']))}. {present}."
    )
    text += f"\n\nNot installed: {', '.join(absent)}." if absent else ""
    done = {f"{group.number}. {group.title}" for group in report.groups}
    left = [title for title in about.get("wanted", ()) if title not in done]
    return text + (f"\n\n**It was stopped before its end. Not measured: {', '.join(left)}.**" if left else "")


# ---------------------------------------------------------------- behind


def behind(report: Report) -> str:
    """All rows in which it is, and how many there are in which it is not."""
    found = list(lines(report))
    counts = {verdict: sum(line.verdict == verdict for line in found) for verdict in (AHEAD, AT_FLOOR, ALONE)}
    rows = [line for line in found if line.verdict == BEHIND]
    summary = (
        f"Of {len(found)} rows: ahead of every peer in {counts[AHEAD]}, within 3 % of the floor in "
        f"{counts[AT_FLOOR]}, behind in {len(rows)}"
    )
    summary += f", and {counts[ALONE]} that no peer did." if counts[ALONE] else "."
    shown = [
        f"- {work}\n" + "\n".join(f"  - {behind_text(line)}" for line in of_work)
        for work, of_work in groupby(rows, key=lambda line: line.work)
    ]
    return "\n".join([summary, "", *shown]) if shown else summary


def behind_text(line: Line) -> str:
    if line.our_side is None:
        return f"{line.name}: {next(filter(None, our_troubles(line)), 'not measured')}"
    assert line.best_peer is not None
    assert line.ratio is not None
    mine, theirs = (amount(line.value(side), line) for side in (line.our_side, line.best_peer))
    doubt = "; within the spread" if line.doubtful else ""
    return f"{line.name}: {mine}, {line.best_peer} {theirs} ({line.ratio:.2f} times{doubt})"


def our_troubles(line: Line) -> Iterator[str]:
    return (trouble for side, trouble in line.row.troubles.items() if ours(side))


# ---------------------------------------------------------------- the section of a work


def section(group: Group, picture: str) -> str:
    parts = [f"## {group.number}. {group.title}\n\n{group.text}\n", f"{summary_table(group)}\n"]
    if picture:
        parts.append(f"![{group.title}]({picture})\n")
    parts.append(f"All sides:\n\n{table_of_sides(group)}\n")
    return "\n".join(parts)


def summary_table(group: Group) -> str:
    """Ours, the best peer, what could be reached, and who is ahead."""
    head = (
        "row",
        "parallelkit",
        "best peer",
        "ratio",
        "to the floor",
        "to the ideal",
        "serial loop",
        "verdict",
    )
    found = [line for row in group.rows for line in lines_of(group.title, row)]
    columns = [head, *map(summary_cells, found)]
    unused = [place for place in (4, 5, 6) if all(cells[place] == "-" for cells in columns[1:])]
    return table([[cell for place, cell in enumerate(cells) if place not in unused] for cells in columns])


def summary_cells(line: Line) -> tuple[str, ...]:
    mine, best, serial = line.our_side, line.best_peer, line.reference("serial")
    verdict = f"**{line.verdict}**" if line.verdict == BEHIND else line.verdict
    if line.verdict == BEHIND and line.doubtful:
        verdict += ", within the spread"
    if serial and mine and line.value(serial) < line.value(mine) and line.row.facts["unit"] == "second":
        verdict += "; the serial loop is faster"
    return (
        line.name,
        with_rate(mine, line) if mine else next(our_troubles(line), "-"),
        f"{best}: {with_rate(best, line)}" if best else "-",
        f"{line.ratio:.2f}" if line.ratio is not None else "-",
        _part(line, line.floor, f" ({line.row.facts['floor_name'] or line.reference('floor')})"),
        _part(line, line.ideal),
        with_spread(serial, line) if serial else "-",
        verdict,
    )


def _part(line: Line, least: float | None, what: str = "") -> str:
    """Ours as a multiple of what could be reached."""
    if least is None or line.our_side is None:
        return "-"
    return f"{line.value(line.our_side) / least:.2f} of {amount(least, line)}{what}"


def table_of_sides(group: Group) -> str:
    """Sides down and rows across, or the other way round where there are more rows."""
    found = [line for row in group.rows for line in lines_of(group.title, row)]
    sides = list(dict.fromkeys(side for line in found for side in [*line.row.benchmarks, *line.row.troubles]))
    sides.sort(key=lambda side: (not ours(side), not reference(side), side.lower()))
    cells = [["", *(line.name for line in found)]]
    cells += [
        [f"**{side}**" if ours(side) else side, *(cell(side, line) for line in found)] for side in sides
    ]
    return table(cells if len(found) <= len(sides) else [list(column) for column in zip(*cells, strict=True)])


def cell(side: str, line: Line) -> str:
    if side in line.row.benchmarks:
        text = ("~ " if line.is_rough(side) else "") + with_spread(side, line)
        return f"**{text}**" if side == line.best_peer and line.verdict == BEHIND else text
    return line.row.troubles.get(side, "-")


# ---------------------------------------------------------------- numbers and tables


def amount(value: float, line: Line) -> str:
    if line.row.facts["unit"] == "byte":
        return f"{value / 2**20:.3g} MiB" if value >= 2**20 / 100 else "0 MiB"
    return time_text(value)


def with_spread(side: str, line: Line) -> str:
    value, spread = line.value(side), line.spread(side)
    text = amount(value, line)
    if not spread or line.row.facts["unit"] == "byte":
        return text
    number, unit = text.split()
    scaled = spread * float(number) / value
    return f"{number} ± {scaled:.0f} {unit}" if scaled >= 1 else f"{number} ± {scaled:.1g} {unit}"


def with_rate(side: str, line: Line) -> str:
    """With GB/s, where bytes cross."""
    payload = line.row.facts["payload"]
    text = with_spread(side, line)
    return f"{text} ({payload / line.value(side) / 1e9:.2g} GB/s)" if payload else text


def table(rows: Iterable[Iterable[str]]) -> str:
    found = [[cell.replace("|", "\\|") for cell in row] for row in rows]
    found.insert(1, ["---"] * len(found[0]))
    return "\n".join(f"| {' | '.join(row)} |" for row in found)


def write(report: Report, path: Path, pictures: dict[str, str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(markdown(report, pictures))
