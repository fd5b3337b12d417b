"""What the tests of faults share: workers for many tests, and files that count."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from checks import check_usable, new_executor

from parallelkit import Executor
from programs.watching import METHODS


@pytest.fixture(scope="session", autouse=True)
def _no_core_files() -> None:
    """Hundreds of workers crash here on purpose."""
    resource = pytest.importorskip("resource", reason="no limits here, and no core files")
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))


@pytest.fixture(params=METHODS)
def method(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="session")
def _executors() -> Iterator[dict[str, Executor]]:
    executors: dict[str, Executor] = {}
    yield executors
    for executor in executors.values():
        executor.shutdown()


@pytest.fixture
def executor(_executors: dict[str, Executor], method: str) -> Iterator[Executor]:
    """Two workers, kept from test to test: what is done to them, they must survive.

    Processes of one start method after the other; where `method` says "thread" or "asyncio", those.
    """
    if method not in _executors:
        _executors[method] = new_executor(method)
    executor = _executors.pop(method)
    try:
        yield executor
        check_usable(executor)
    except BaseException:  # it is not used for the next test
        executor.kill_workers()
        raise
    _executors[method] = executor


@pytest.fixture
def runs(tmp_path: Path) -> str:
    """A file that counts runs, by `faults.note`."""
    path = tmp_path / "runs"
    path.touch()
    return str(path)


@pytest.fixture
def marker(tmp_path: Path) -> str:
    """A file that is not there yet: what made it has happened."""
    return str(tmp_path / "marker")
