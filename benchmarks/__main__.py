"""parallelkit against its peers on the same work, in one run: python -m benchmarks [--quick | --full]

Writes benchmarks.md, with tables and pictures, and beside it the figures as JSON. What is measured and how:
docs/benchmarks.md, which is such a report.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
from pathlib import Path
from time import perf_counter

from parallelkit import cpu_count

from .children import ROOT, surroundings
from .figures import Report, group_of, load, save
from .machine import described
from .peers.base import missing
from .peers.table import SIDES, side_named
from .report import write
from .running import LIMITS, WorkRun, chosen_sides
from .work import loops_per_second
from .works.base import DEFAULT, FULL, QUICK, Plan
from .works.table import WORKS, work_named

COMMAND = ("python", "-m", "benchmarks")


def parsed(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__.partition("\n")[0])
    level = parser.add_mutually_exclusive_group()
    level.add_argument("--quick", action="store_const", const=QUICK, dest="level", help="under 3 minutes")
    level.add_argument(
        "--full", action="store_const", const=FULL, dest="level", help="more sizes and rounds: an hour or two"
    )
    parser.add_argument(
        "--peer",
        default="",
        help="only these, as in loky,mpire or package.module:Class (see --list), and parallelkit, the serial "
        "loop and the floor, which are always there",
    )
    parser.add_argument(
        "--work", default="", help="only these works, as in 1,3,arrays or package.module:NAME (see --list)"
    )
    parser.add_argument("--out", type=Path, default=ROOT / "docs", help="folder for the report (docs/)")
    parser.add_argument("--workers", type=int, default=max(2, cpu_count()), help="processes (%(default)s)")
    parser.add_argument("--list", action="store_true", help="show peers and works, and end")
    parser.add_argument("--again", action="store_true", help="make the report anew from the figures in --out")
    parser.add_argument(
        "--update", action="store_true", help="measure the works of --work for the report that is in --out"
    )
    found = parser.parse_args(arguments)
    found.level = DEFAULT if found.level is None else found.level
    if found.workers < 1:
        parser.error(f"--workers must be at least 1, not {found.workers}")
    try:
        found.works = [work_named(name) for name in names(found.work)] or [*WORKS.values()]
        found.sides = sides_of(names(found.peer))
    except KeyError as error:
        parser.error(f"there is no peer or work {error}; --list shows them")
    except (ImportError, AttributeError) as error:
        parser.error(f"a peer or work of your own cannot be imported: {error}")
    except TypeError as error:
        parser.error(str(error))
    return found


def names(text: str) -> list[str]:
    """Of a list with commas, each once."""
    return list(dict.fromkeys(filter(None, (name.strip() for name in text.split(",")))))


def sides_of(wanted: list[str]) -> list[str]:
    """Those of some peers; parallelkit and the references are always there, to compare with."""
    if not wanted:
        return list(SIDES)
    found = [name for name, kind in SIDES.items() if kind.ours or kind.reference or kind.family in wanted]
    known = {kind.family for kind in SIDES.values()}
    for name in wanted:
        if name not in known and name not in found:
            side_named(name)
            found.append(name)
    return found


def show() -> None:
    print("works:")
    for work in WORKS.values():
        print(f"  {work.number:>2}  {work.name:<12}{work.title}")
    print("\npeers, with their sides:")
    families: dict[str, list[str]] = {}
    for name, kind in SIDES.items():
        if not kind.reference:
            absent = f" (not installed: {missing(kind)})" if missing(kind) else ""
            families.setdefault(kind.family, []).append(name + absent)
    for family, names in families.items():
        print(f"  {family:<20}{' · '.join(names)}")


def measure(given: argparse.Namespace, command: str) -> Report:
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # children that are stopped must be ended, too
    began = perf_counter()
    report = Report(described(command, given.workers, given.sides))
    limits = LIMITS[given.level]
    report.machine["rounds"] = [limits.rounds, limits.final_rounds, limits.round_seconds]
    report.machine["wanted"] = [f"{work.number}. {work.title}" for work in given.works]
    if given.update:
        report = continued(report, load(given.out / "benchmarks"))
    with surroundings() as (folder, environment):
        plan = Plan(given.level, given.workers, loops_per_second(), folder)
        for work in given.works:
            sides = chosen_sides(given.sides, plan, work)
            run = WorkRun(work, sides, plan, limits, environment, told)
            outcomes = run.run()
            report.put(group_of(work, run.cases, outcomes))
            save(report, given.out / "benchmarks")  # what is measured stays, if the rest is not waited for
            told(f"   {work.title}: done after {perf_counter() - began:.0f} s")
    return report


def continued(report: Report, earlier: Report) -> Report:
    """The earlier report, if it is of this machine, for works to be measured anew in it."""
    for fact in ("processor", "cores", "workers", "system", "python"):
        if report.machine[fact] != earlier.machine[fact]:
            was, now = earlier.machine[fact], report.machine[fact]
            sys.exit(f"the report in --out was made with another {fact}: {was}, not {now}")
    earlier.machine["command"] += f"`, and then `{report.machine['command']}"
    return earlier


def told(line: str) -> None:
    print(line, flush=True)


def main(arguments: list[str]) -> None:
    given = parsed(arguments)
    if given.list:
        show()
        return
    details = given.out / "benchmarks"
    try:
        details.mkdir(parents=True, exist_ok=True)
        report = load(details) if given.again else measure(given, " ".join([*COMMAND, *arguments]))
    except (OSError, json.JSONDecodeError) as error:
        sys.exit(f"--out {given.out}: {error}")
    except KeyboardInterrupt:
        again = " ".join([*COMMAND, "--again", "--out", str(given.out)])
        sys.exit(f"stopped; of the works that were done, `{again}` makes a report")
    write(report, given.out / "benchmarks.md", pictures(report, details))
    told(f"written: {given.out / 'benchmarks.md'}")


def pictures(report: Report, folder: Path) -> dict[str, str]:
    """Their paths from where the report is; none without matplotlib."""
    try:
        from .plots import draw
    except ImportError as error:
        told(f"no pictures: {error}")
        return {}
    return {name: f"{folder.name}/{path.name}" for name, path in draw(report, folder).items()}


if __name__ == "__main__":
    main(sys.argv[1:])
