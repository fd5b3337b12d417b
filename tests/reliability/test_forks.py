"""A parent that forks while workers are busy: by itself, or by another pool. Nobody is disturbed.

Children of the other backends, and those that an item forks, are in tests/test_bad_input.py and
tests/test_endings.py.
"""

from __future__ import annotations

import os
import signal

import psutil
import pytest
from checks import counted, on_each_method

from programs.watching import HERE, finish, kill_tree, start, wait_until_gone

pytestmark = [
    pytest.mark.timeout(60),
    pytest.mark.skipif(not hasattr(os, "fork"), reason="nothing can be forked here"),
]

PROGRAM = HERE / "forking.py"
# From 3.12 on, os.fork() warns in a process that has threads.
FLAGS = ["-W", "ignore::DeprecationWarning"]

WAYS = [
    "a_child_that_uses_it_afresh",
    "a_child_that_ends_at_once",
    "children_without_end",
    "their_pools",
    "a_process_of_theirs_that_uses_it",
    "a_child_that_stays",
]


@pytest.mark.parametrize(
    ("method", "way"), on_each_method([(way,) for way in WAYS], daily=lambda way: way.endswith("afresh"))
)
def test_parent_and_child_go_on(method: str, runs: str, way: str) -> None:
    program = start([*FLAGS, PROGRAM, method, way, runs])
    out, err = finish(program, patience=50)
    assert program.returncode == 0, err
    assert out == "right\n"
    assert not err
    assert counted(runs) == dict.fromkeys(range(420), 1), "each item ran once"


@pytest.mark.parametrize(
    ("method", "way"), on_each_method([("killed_with_a_child",), ("killed_with_a_program",)])
)
def test_workers_go_with_their_parent_although_a_child_of_it_stays(method: str, runs: str, way: str) -> None:
    """The child has copies of what the parent had open."""
    program = start([*FLAGS, PROGRAM, method, way, runs])
    assert program.stdout is not None
    try:
        child, *workers = map(psutil.Process, map(int, program.stdout.readline().split()))
        assert len(workers) == 2
        program.send_signal(signal.SIGKILL)
        assert not wait_until_gone(workers)
        assert child.is_running()
    finally:
        kill_tree(program)
        program.communicate()
