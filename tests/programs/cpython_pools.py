"""CPython's own tests of pools, as the running interpreter brings them, with ours in the place of theirs.

    python tests/programs/cpython_pools.py fork|forkserver|spawn|threads

Nothing is copied: their own `install_tests_in_module_dict` makes the test classes, of which those that are
about pools are run. `tests/test_cpython_pools.py` runs this, for a flavour each.
"""

from __future__ import annotations

import multiprocessing.pool
import sys
import unittest
from multiprocessing.managers import PoolProxy, SyncManager
from pathlib import Path
from typing import Any

from test import _test_multiprocessing as theirs
from test import support
from test.support import script_helper

import parallelkit

FLAVOUR = sys.argv[1]

TESTS = {
    "threads": ["WithThreadsTestPool"],
    "processes": [
        "WithProcessesTestPool",
        "WithProcessesTestPoolWorkerErrors",
        "WithProcessesTestPoolWorkerLifetime",
        "TestInitializers.test_pool_initializer",
        "TestPoolNotLeakOnFailure",
        "TestStdinBadfiledescriptor.test_pool_in_process",
    ],
}
OF_NEWER_VERSIONS = ["MiscTestCase.test_large_pool"]  # in the middle of 3.12

LEFT_OUT = {
    "TestPoolNotLeakOnFailure.test_release_unused_processes": "its fake process has neither pid nor "
    "sentinel, which only the private loop of theirs does without; ours: test_pool.py, with real processes",
}

SUBSTITUTE = f"""
import sys
sys.path[:0] = {sys.path!r}
import multiprocessing.pool
import parallelkit
multiprocessing.pool.Pool = parallelkit.Pool
multiprocessing.pool.ThreadPool = parallelkit.ThreadPool
"""


def run_with_ours(*arguments: str) -> Any:
    """Their `assert_python_ok`, for a program in which the names of their pools are ours."""
    *flags, last = arguments
    if flags:
        last = SUBSTITUTE + last
    else:
        path = Path(last)
        path.write_text(SUBSTITUTE + path.read_text(encoding="utf-8"), encoding="utf-8")
    return run_python(*flags, last)


run_python: Any = script_helper.assert_python_ok


def unpickleable_result() -> object:
    """Instead of theirs, which returns a lambda: with ours, lambdas travel."""
    return (item for item in ())


def take_our_place() -> None:
    """From now on, who asks multiprocessing for a pool gets one of ours."""
    multiprocessing.pool.Pool = parallelkit.Pool  # type: ignore[misc]
    multiprocessing.pool.ThreadPool = parallelkit.ThreadPool  # type: ignore[misc]
    # A manager names its pools by their class, which must be found where it says it is.
    SyncManager.register("Pool", parallelkit.Pool, PoolProxy)
    theirs.unpickleable_result = unpickleable_result
    script_helper.assert_python_ok = run_with_ours


def their_tests() -> unittest.TestSuite:
    method = "fork" if FLAVOUR == "threads" else FLAVOUR
    theirs.install_tests_in_module_dict(globals(), method)
    for name, reason in LEFT_OUT.items():
        kind, _, test = name.partition(".")
        setattr(globals()[kind], test, unittest.skip(reason)(getattr(globals()[kind], test)))
    names = TESTS["threads" if FLAVOUR == "threads" else "processes"]
    for name in OF_NEWER_VERSIONS if FLAVOUR != "threads" else ():
        kind, _, test = name.partition(".")
        if hasattr(globals()[kind], test):
            names = [*names, name]
    return unittest.defaultTestLoader.loadTestsFromNames(names, sys.modules[__name__])


def main() -> int:
    take_our_place()
    result = unittest.TextTestRunner(verbosity=2).run(their_tests())
    if support.environment_altered:
        print("something was left behind: see the warnings above", file=sys.stderr)
    return 0 if result.wasSuccessful() and not support.environment_altered else 1


if __name__ == "__main__":
    sys.exit(main())
