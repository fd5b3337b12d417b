"""What all tests share."""

from __future__ import annotations

import gc
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import settings

pytest.register_assert_rewrite("parallelkit.testing.contract")

from parallelkit import Executor  # noqa: E402 - after the registration

# How long an example takes says nothing on a machine that others use too.
settings.register_profile("parallelkit", deadline=None)
settings.load_profile("parallelkit")

BACKENDS = ["serial", "thread", "process", "asyncio"]


def pytest_collection_finish() -> None:
    """Take what is there before the first test, modules as a rule, out of the garbage collector's sight.

    Tests collect garbage a thousand times, CPython's own among them, and these objects cost most of that
    time. What a test makes is seen as before.
    """
    gc.collect()
    gc.freeze()


@pytest.fixture(params=BACKENDS, scope="session")
def _executors(request: pytest.FixtureRequest) -> Iterator[Executor]:
    with Executor(request.param, max_workers=2) as executor:
        yield executor


@pytest.fixture
def executor(_executors: Executor) -> Executor:
    """Two workers on each backend in turn, which are kept from test to test: do not shut it down."""
    return _executors


@pytest.fixture
def run_program(tmp_path: Path) -> Callable[[str], str]:
    """Runs a program in a process of its own, which can be ended when it hangs; gives what it prints.

    From 3.12 on, os.fork() warns in a process that has threads.
    """

    def run(program: str) -> str:
        path = tmp_path / "program.py"
        path.write_text(program)
        done = subprocess.run(
            [sys.executable, "-W", "ignore::DeprecationWarning", path],
            capture_output=True,
            text=True,
            timeout=20,
        )
        assert done.returncode == 0, done.stderr
        assert not done.stderr
        return done.stdout

    return run
