"""Rows of the table that need a fresh interpreter for every measurement: memory, import, start."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import psutil

if __package__:
    from .measuring import Row, interleaved, middle, time_text
else:
    from measuring import Row, interleaved, middle, time_text

PROGRAMS = Path(__file__).parent / "programs"
MIB = 2**20


@contextmanager
def compiled() -> Iterator[dict[str, str]]:
    """An environment in which all modules are compiled once, as an installed package is."""
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "PYTHONPYCACHEPREFIX": folder}
        environment.pop("PYTHONDONTWRITEBYTECODE", None)
        yield environment


def answer(environment: dict[str, str], *arguments: str) -> Any:
    """What a Python program prints, as JSON."""
    done = subprocess.run(
        [sys.executable, *arguments], env=environment, stdout=subprocess.PIPE, text=True, check=True
    )
    return json.loads(done.stdout)


# ---------------------------------------------------------------- 5: memory


def memory(quick: bool) -> Iterator[Row]:
    """Two million items of a generator: how much parent and workers grow over the idle pool."""
    items = 200_000 if quick else 2_000_000
    with compiled() as environment:
        grown = [growth(environment, items) for _ in range(1 if quick else 3)]
    parent, worker, together = (median(values) for values in zip(*grown, strict=True))
    what = f"5. pimap over a generator of {items:,}, peak growth"
    beside = f"parent {parent:.1f} MiB, the largest worker {worker:.1f} MiB; ratio: all together / 30 MiB"
    yield Row(what, f"{together:.1f} MiB", "limit 30 MiB", together / 30, "<= 1.00", beside)


def growth(environment: dict[str, str], items: int) -> tuple[float, float, float]:
    """The peak growth in MiB of the parent, of the worker that grew most, and of all processes together."""
    program = subprocess.Popen(
        [sys.executable, str(PROGRAMS / "memory.py"), str(items)],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert program.stdin is not None
    assert program.stdout is not None
    assert program.stdout.readline() == "idle\n"
    parent = psutil.Process(program.pid)
    watch = PeakWatch([parent, *parent.children(recursive=True)])
    program.stdin.write("go\n")
    program.stdin.flush()
    assert program.stdout.readline() == "done\n"
    grown = watch.end()
    program.communicate("go\n")
    assert program.returncode == 0
    return grown[0], max(grown[1:]), sum(grown)


class PeakWatch:
    """How far some processes grow: sampled every 5 ms, and from the kernel's own mark where it has one."""

    def __init__(self, processes: list[psutil.Process]):
        self._processes = processes
        self._idle = [process.memory_info().rss for process in processes]
        self._peak = list(self._idle)
        for process in processes:
            try:
                Path(f"/proc/{process.pid}/clear_refs").write_text("5")  # the mark begins anew
            except OSError:  # then the mark may be of the start: too high, never too low
                pass
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._sample)
        self._thread.start()

    def _sample(self) -> None:
        while not self._over.wait(0.005):
            for place, process in enumerate(self._processes):
                self._peak[place] = max(self._peak[place], process.memory_info().rss)

    def end(self) -> list[float]:
        """The growth of each process, in MiB."""
        self._over.set()
        self._thread.join()
        marks = [high_water_mark(process.pid) for process in self._processes]
        return [
            (max(peak, mark) - idle) / MIB
            for peak, mark, idle in zip(self._peak, marks, self._idle, strict=True)
        ]


def high_water_mark(pid: int) -> int:
    """The largest resident size in bytes that the kernel has seen; 0 where it does not say."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM")), 0)


# ---------------------------------------------------------------- 6: import


def importing(quick: bool) -> Iterator[Row]:
    """Import in a fresh interpreter, timed inside of it."""
    modules = {"ours": "parallelkit", "theirs": "concurrent.futures.process"}
    program = "from time import perf_counter as now; a = now(); import {}; print(now() - a)"
    with compiled() as environment:
        sides = {
            side: partial(answer, environment, "-c", program.format(module))
            for side, module in modules.items()
        }
        for side in sides.values():
            side()
        took = interleaved(10 if quick else 60, sides)
    ours, theirs = took["ours"], took["theirs"]
    what, against = "6. import parallelkit", f"c.f.process {middle(theirs)}"
    yield Row(what, middle(ours), against, median(ours) / median(theirs), "<= 1.30")


# ---------------------------------------------------------------- 7: start


def starting(quick: bool) -> Iterator[Row]:
    """A pool of two, two items, its end: cold in a fresh interpreter, then warm in the same."""
    for method in ("fork", "forkserver", "spawn"):
        for kind, of in (("builtin", "abs"), ("own", "own function")):
            with compiled() as environment:
                program = str(PROGRAMS / "start.py")
                sides = {
                    side: partial(answer, environment, program, side, method, kind)
                    for side in ("ours", "pool", "futures")
                }
                for run in sides.values():
                    run()
                took: Any = interleaved(2 if quick else 7, sides)
            for place, state in enumerate(("cold", "warm")):
                ours, theirs, others = ([pair[place] for pair in took[side]] for side in sides)
                what = f"7. start, map two items, end: {method}, {state}, {of}"
                against = f"Pool {time_text(median(theirs))}"
                yield Row(
                    what,
                    middle(ours),
                    against,
                    median(ours) / median(theirs),
                    "<= 1.00",
                    f"ProcessPoolExecutor {middle(others)}",
                )
