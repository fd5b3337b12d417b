"""CPython's own tests of pools with ours in their place, each flavour in a process of its own."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib.util import find_spec

import pytest

from programs.watching import HERE, METHODS

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

LEAST_TESTS = {"threads": 25, "processes": 33}


@pytest.mark.skipif(
    not (find_spec("test") and find_spec("test._test_multiprocessing")),
    reason="this Python comes without its tests",
)
@pytest.mark.parametrize("flavour", ["threads", *METHODS])
def test_theirs_with_ours(flavour: str) -> None:
    done = subprocess.run(
        [sys.executable, HERE / "cpython_pools.py", flavour], capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 0, done.stderr
    (run,) = re.findall(r"^Ran (\d+) tests", done.stderr, re.MULTILINE)
    assert int(run) >= LEAST_TESTS["threads" if flavour == "threads" else "processes"]
