"""Runs of `benchmarks/chaos.py`: workers are killed at random moments, and every item is accounted for."""

from __future__ import annotations

import subprocess
import sys

import pytest

from programs.watching import HERE, METHODS, kill_tree, start

CHAOS = HERE.parents[1] / "benchmarks" / "chaos.py"

pytestmark = pytest.mark.timeout(300)


def check(method: str, kills: int, seed: int) -> None:
    program = start([CHAOS, "--kills", kills, "--seed", seed, "--method", method])
    try:
        out, err = program.communicate(timeout=280)
    except subprocess.TimeoutExpired:
        kill_tree(program)
        out, err = program.communicate()
    assert program.returncode == 0, f"{out}\n{err}"
    assert "nothing is left behind" in out
    assert not err, "nothing complains that ends well"


@pytest.mark.parametrize("method", [method for method in METHODS if method != "spawn"])
def test_a_short_chaos(method: str) -> None:
    check(method, kills=30, seed=1)


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_a_longer_chaos(method: str) -> None:
    check(method, kills=300, seed=sys.version_info.minor)  # each Python has its own
