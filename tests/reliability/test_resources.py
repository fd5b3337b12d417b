"""Executors by the thousand, submits, long streams: what a process holds stays the same."""

from __future__ import annotations

import json
import subprocess
from statistics import median

import pytest

from programs.watching import HERE, METHODS, kill_tree, start

KIB = 1024

EXECUTORS, SUBMITS, ITEMS = 1000, 10_000, 1_000_000
"""The full numbers; by default a part of them."""

MOST_GROWTH = 256 * KIB
"""Between the halves of a run, of the resident bytes of the parent; 40 KiB were seen, whatever the number.

The least that an executor could leave (a lock, a pipe, an entry in a table) is about 500 bytes, and there are
500 executors between the middles of the halves. Below it is the noise of the allocator, which asks the kernel
for 128 KiB at a time.
"""

MOST_GROWTH_OF_A_STREAM = 6 * 1024 * KIB
"""While a stream runs, it holds some of its items, and chunks grow in the first half: 3 MiB were seen.

To keep one object of each of a million items, or one reference to it, would take 8 MiB to 30 MiB more.
"""

pytestmark = pytest.mark.timeout(300)


def numbers(part: int, whole: int) -> list[object]:
    return [part, pytest.param(whole, marks=pytest.mark.slow)]


def check_flat(most_growth: int, *arguments: object) -> None:
    program = start([HERE / "resources.py", *arguments])
    try:
        said, complaints = program.communicate(timeout=280)
    except subprocess.TimeoutExpired:
        kill_tree(program)
        raise
    assert not complaints
    found = json.loads(said)
    assert not any(found["left"].values()), found["left"]
    samples = found["samples"]
    assert len(samples) > 20
    middle = len(samples) // 2
    growth = median(samples[middle:]) - median(samples[:middle])
    assert growth < most_growth, f"{growth} bytes more in the second half: {samples}"


@pytest.mark.parametrize("number", numbers(40, EXECUTORS))
@pytest.mark.parametrize("kind", ["thread", *[method for method in METHODS if method != "spawn"]])
def test_executors_leave_nothing(kind: str, number: int) -> None:
    check_flat(MOST_GROWTH, "executors", kind, number)


@pytest.mark.slow
def test_executors_of_spawned_workers_leave_nothing() -> None:
    check_flat(MOST_GROWTH, "executors", "spawn", 50)


@pytest.mark.parametrize("number", numbers(2500, SUBMITS))
@pytest.mark.parametrize("kind", ["thread", "process"])
def test_submits_leave_nothing(kind: str, number: int) -> None:
    check_flat(MOST_GROWTH, "submits", kind, number)


@pytest.mark.parametrize("number", numbers(100_000, ITEMS))
@pytest.mark.parametrize("kind", ["thread", "process"])
def test_a_stream_holds_as_much_at_its_end_as_at_its_beginning(kind: str, number: int) -> None:
    check_flat(MOST_GROWTH_OF_A_STREAM, "stream", kind, number)
