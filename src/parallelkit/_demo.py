"""The demo: MapReduce over files that every machine has, and a table of how each backend did.

The files are the sources of the Python standard library, or those below a folder of the user's own.
`count_names` is the mapper: it tokenizes one file and gives (identifier, count) pairs, which
`pmap_reduce` adds up. A plain loop does the same first; what it finds, and how long it takes, is what
every backend is held against: the same counts, with the keys in the same order.
"""

from __future__ import annotations

import keyword
import os
import shutil
import sys
import sysconfig
import tokenize
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from operator import add
from time import perf_counter
from typing import Any

from .cpus import cpu_count
from .functional import pmap_reduce

__all__ = ["BACKENDS", "TOP", "count_names", "demo", "source_files", "standard_library"]

BACKENDS = ("serial", "thread", "process", "asyncio")
"""The backends to compare, where none are named."""

TOP = 20
"""How many of the commonest identifiers to show."""

FILES_AHEAD = 32
"""Files per core that may be handed out and not done: what a progress bar is ahead of the truth, at most.

About a tenth of a second of work, and enough to keep the workers busy. It is no more for a backend with
many more workers than cores, as asyncio has: the bar would be full before the work has well begun.
"""

# Counted beside the identifiers, which are never spelled like this.
READ = "<files read>"
SKIPPED = "<files skipped>"

LOOP = "serial loop"

Counts = dict[str, int]


@dataclass(frozen=True, slots=True)
class Run:
    """What became of one way to count: "equal" is the only good verdict on a backend."""

    name: str
    seconds: float | None
    verdict: str


def demo(
    folder: str,
    paths: Sequence[str],
    *,
    backends: Sequence[str] = BACKENDS,
    max_workers: int | None = None,
    top: int = TOP,
    progress: bool = True,
) -> bool:
    """Count the identifiers of all files, in a plain loop and on each backend, and print what came of it.

    Args:
        folder: where the files are from, for the headline.
        paths: the files.
        top: how many of the commonest identifiers to print.
        progress: show on stderr how far it is.

    Returns:
        Whether every backend gave what the loop gave.
    """
    kilobytes = _total_size(paths) / 1000
    print(f"Counting the identifiers in {_number(len(paths), 'Python file')}, {kilobytes:,.0f} kB,")
    print(f"below {folder}")
    print(f"with Python {sys.version.split()[0]} on {_number(cpu_count(), 'core')}.\n", flush=True)

    expected, seconds = _timed(LOOP, plain_loop, paths, progress)
    runs = [Run(LOOP, seconds, "the reference")]
    runs += [_try_backend(name, max_workers, paths, progress, expected) for name in backends]

    _print_runs(runs)
    _print_counts(expected, top)
    failed = [run.name for run in runs[1:] if run.verdict != "equal"]
    if failed:
        print(f"\nNot the same result as the loop's: {', '.join(failed)}.")
    return not failed


# The files


def standard_library() -> str:
    """The folder of the standard library of this Python."""
    return sysconfig.get_paths()["stdlib"]


def source_files(folder: str) -> list[str]:
    """The .py files below a folder, sorted folder by folder; no installed packages in the standard library's.

    Raises:
        ValueError: there is no such folder, or no such file in it.
    """
    if not os.path.isdir(folder):
        raise ValueError(
            f"there is no folder {folder!r}; name one that exists, or none for the standard library"
        )
    installed = {"site-packages", "dist-packages"} if folder == standard_library() else set()
    paths = []
    for place, folders, names in os.walk(folder):
        folders[:] = sorted(set(folders) - installed)
        found = [os.path.join(place, name) for name in sorted(names) if name.endswith(".py")]
        paths += [path for path in found if os.path.isfile(path)]  # a pipe would never end
    if not paths:
        raise ValueError(f"there are no .py files below {folder!r}; name a folder that has some")
    return paths


def _total_size(paths: Iterable[str]) -> int:
    """In bytes. Every file is read, so that the loop, which is first, does not wait for the disk alone."""
    total = 0
    for path in paths:
        try:
            with open(path, "rb") as stream:
                total += len(stream.read())
        except OSError:
            pass  # the mapper will find out, and count it
    return total


# The work


def count_names(path: str) -> Iterable[tuple[str, int]]:
    """How often each identifier occurs in a Python file, in order of first appearance.

    The first pair counts the file, as read or as skipped: a file that cannot be tokenized (a broken
    encoding, an unclosed bracket; the standard library's tests have some on purpose) counts for nothing else.
    """
    try:
        with tokenize.open(path) as stream:
            names = Counter(
                token.string
                for token in tokenize.generate_tokens(stream.readline)
                if token.type == tokenize.NAME and not keyword.iskeyword(token.string)
            )
    # Unreadable: OSError. An encoding that is not for text: LookupError. Not in its encoding: ValueError.
    except (OSError, SyntaxError, tokenize.TokenError, LookupError, ValueError):
        return [(SKIPPED, 1)]
    return [(READ, 1), *names.items()]


def plain_loop(paths: Iterable[str]) -> Counts:
    """What `pmap_reduce(count_names, add, paths)` must give."""
    counts: Counts = {}
    for path in paths:
        for name, count in count_names(path):
            counts[name] = counts.get(name, 0) + count
    return counts


def _try_backend(
    name: str, max_workers: int | None, paths: Sequence[str], progress: bool, expected: Counts
) -> Run:
    def on_backend(paths: Iterable[str]) -> Counts:
        return pmap_reduce(
            count_names,
            add,
            paths,
            backend=name,
            max_workers=max_workers,
            buffersize=FILES_AHEAD * cpu_count(),
        )

    try:
        counts, seconds = _timed(name, on_backend, paths, progress)
    except Exception as error:  # the others are still worth trying
        return Run(name, None, f"FAILED: {type(error).__name__}: {error}")
    return Run(name, seconds, verdict(counts, expected))


def _timed(
    label: str, count: Callable[[Iterable[str]], Counts], paths: Sequence[str], progress: bool
) -> tuple[Counts, float]:
    """The counts, and how many seconds they took."""
    with closing(_with_progress(paths, label) if progress else (path for path in paths)) as source:
        began = perf_counter()
        counts = count(source)
        return counts, perf_counter() - began


def verdict(counts: Counts, expected: Counts) -> str:
    """How two results compare, order of keys included."""
    wrong = sum(1 for name in counts.keys() | expected.keys() if counts.get(name) != expected.get(name))
    if wrong:
        return f"DIFFERS: {_number(wrong, 'count')}"
    return "equal" if list(counts) == list(expected) else "DIFFERS: the order of the keys"


# Progress


def _with_progress(paths: Sequence[str], label: str) -> Any:
    """An iterator over the paths that shows, on stderr, how many were handed out; it can be closed."""
    try:
        from tqdm import tqdm
    except ImportError:  # the extra [progress] is not installed
        tqdm = None
    if tqdm is None or not sys.stderr.isatty():
        return _plain_progress(paths, label)
    layout = "{desc}{percentage:4.0f}% |{bar:30}| {n_fmt} of {total_fmt} files, {elapsed}"
    # tqdm shows nothing on a terminal that does not tell its size, unless it is told one.
    columns, lines = shutil.get_terminal_size()
    return tqdm(
        paths, desc=f"{label:<{len(LOOP)}}", bar_format=layout, ncols=columns, nrows=lines, file=sys.stderr
    )


def _plain_progress(paths: Sequence[str], label: str) -> Iterator[str]:
    """One line: on a terminal it grows, in a file or a pipe it is written when it is full."""
    total = len(paths)
    terminal = sys.stderr.isatty()
    for done, path in enumerate(paths, start=1):
        yield path
        percent = done * 100 // total
        full = done == total
        if full or (terminal and percent > (done - 1) * 100 // total):
            bar = "#" * (percent * 30 // 100)
            line = f"{label:<{len(LOOP)}}{percent:4}% |{bar:<30}| {done} of {total} files"
            print("\r" * terminal + line, end="\n" * full, file=sys.stderr, flush=True)


# The report


def _print_runs(runs: Sequence[Run]) -> None:
    width = max(len(run.name) for run in runs)
    (loop,) = [run.seconds for run in runs if run.name == LOOP]
    assert loop is not None
    heading = f"{'':<{width}}  {'seconds':>8}  {'speed-up':>8}  result"
    print(f"\n{heading}\n{'-' * (len(heading) + 7)}")
    for run in runs:
        seconds = "-" if run.seconds is None else f"{run.seconds:.2f}"
        gain = "-" if run.seconds is None else f"{loop / run.seconds:.2f}"
        print(f"{run.name:<{width}}  {seconds:>8}  {gain:>8}  {run.verdict}")
    print("\nThe speed-up is against the serial loop. Starting the workers is included.")
    if cpu_count() == 1:
        print("There is one core, so nothing can be faster than the loop.")
    elif getattr(sys, "_is_gil_enabled", lambda: True)():
        print("Only one thread of a process runs Python code at a time: here only processes can be faster.")


def _print_counts(counts: Counts, top: int) -> None:
    names = {name: count for name, count in counts.items() if name not in (READ, SKIPPED)}
    read, skipped = counts.get(READ, 0), counts.get(SKIPPED, 0)
    print(f"\n{_number(read, 'file')} read, {skipped:,} skipped that cannot be tokenized: ", end="")
    print(f"{_number(len(names), 'different identifier')}, {sum(names.values()):,} in all.")
    commonest = sorted(names.items(), key=lambda pair: -pair[1])[:top]
    if not commonest:
        return
    print("The commonest:\n")
    width = max(len(name) for name, _ in commonest)
    most = commonest[0][1]
    for rank, (name, count) in enumerate(commonest, start=1):
        print(f"{rank:>4}  {name:<{width}}  {count:>9,}  {'#' * -(-count * 30 // most)}")


def _number(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'s' * (count != 1)}"
