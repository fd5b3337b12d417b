"""CPython's own tests of concurrent.futures, as the running interpreter brings them, with our Executor.

Nothing is copied: the test classes are imported from the `test` package and made anew with our executors in
the place of theirs. What looks into private parts is left out by name, with the reason; where our promise is
another one, the reason says which.
"""

from __future__ import annotations

import concurrent.futures
import multiprocessing
import pkgutil
import sys
import unittest
from importlib import import_module
from types import ModuleType
from typing import Any, ClassVar
from unittest import mock

import pytest

from parallelkit import Executor

theirs = pytest.importorskip("test.test_concurrent_futures")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(120),
    pytest.mark.filterwarnings("default"),  # they are run with their own rules
]


def modules() -> list[ModuleType]:
    """A package from 3.12 on, before that one module."""
    if not hasattr(theirs, "__path__"):
        return [theirs]
    return [
        import_module(f"{theirs.__name__}.{found.name}") for found in pkgutil.iter_modules(theirs.__path__)
    ]


MODULES = modules()


def their(name: str) -> type[Any]:
    return next(getattr(module, name) for module in MODULES if hasattr(module, name))


class _Adapted(Executor):
    """Shows what CPython's tests look at from behind."""

    backend: ClassVar[str]

    @property
    def _max_workers(self) -> int:
        return self._backend._max_workers  # type: ignore[attr-defined,no-any-return]

    @property
    def _broken(self) -> Exception | None:
        return self._driver._broken


class ThreadPoolExecutor(_Adapted):
    def __init__(
        self,
        max_workers: int | None = None,
        thread_name_prefix: str = "",
        initializer: Any = None,
        initargs: tuple[Any, ...] = (),
    ):
        super().__init__(
            "thread", max_workers, None, initializer, initargs, thread_name_prefix=thread_name_prefix
        )

    @property
    def _threads(self) -> set[Any]:
        return set(self._backend._threads.values())  # type: ignore[attr-defined]


class ProcessPoolExecutor(_Adapted):
    def __init__(
        self,
        max_workers: int | None = None,
        mp_context: Any = None,
        initializer: Any = None,
        initargs: tuple[Any, ...] = (),
        *,
        max_tasks_per_child: int | None = None,
    ):
        super().__init__(
            "process", max_workers, mp_context, initializer, initargs, max_tasks_per_child=max_tasks_per_child
        )

    @property
    def _processes(self) -> dict[int, Any]:
        peers = self._backend._peers  # type: ignore[attr-defined]
        return {peer.process.pid: peer.process for peer in list(peers.values())}


SUBSTITUTE = """
import sys
sys.path[:0] = {path!r}
import concurrent.futures
import parallelkit
class ThreadPoolExecutor(parallelkit.Executor):
    def __init__(self, max_workers=None):
        super().__init__("thread", max_workers)
class ProcessPoolExecutor(parallelkit.Executor):
    def __init__(self, max_workers=None, mp_context=None):
        super().__init__("process", max_workers, mp_context)
concurrent.futures.ThreadPoolExecutor = ThreadPoolExecutor
concurrent.futures.ProcessPoolExecutor = ProcessPoolExecutor
"""


def run_with_ours(*arguments: str, **options: Any) -> Any:
    """Their `assert_python_ok`, for a program in which the names of their executors are ours."""
    from test.support.script_helper import assert_python_ok

    *flags, program = arguments
    return assert_python_ok(*flags, SUBSTITUTE.format(path=sys.path) + program, **options)


LEFT_OUT = {
    # They look into private parts.
    "test_traceback": "compares with a private class of theirs",
}

MIXINS = {
    "ExecutorTest": "thread process",
    "ThreadPoolExecutorTest": "thread",
    "ProcessPoolExecutorTest": "process",
    "AsCompletedTests": "thread process",
    "WaitTests": "thread process",
    "ThreadPoolShutdownTest": "thread",
    "ProcessPoolShutdownTest": "process",
    "InitializerMixin": "thread process",
    "FailingInitializerMixin": "thread process",
    "ExecutorDeadlockTest": "process",
}


class _Ours(unittest.TestCase):
    """Put before their setUp(): ours in the place of theirs."""

    method: ClassVar[str | None] = None

    def setUp(self) -> None:
        if reason := LEFT_OUT.get(self._testMethodName):
            self.skipTest(reason)
        self.executor_type = ThreadPoolExecutor if self.method is None else ProcessPoolExecutor
        if self.method is not None:
            self.ctx = self.method
        patches: list[Any] = [
            mock.patch.object(concurrent.futures, kind.__name__, kind)
            for kind in (ThreadPoolExecutor, ProcessPoolExecutor)
        ]
        patches += [
            mock.patch.object(module, "assert_python_ok", run_with_ours)
            for module in MODULES
            if hasattr(module, "assert_python_ok")
        ]
        for patch in patches:
            patch.start()
            self.addCleanup(patch.stop)
        super().setUp()

    def get_context(self) -> Any:
        return multiprocessing.get_context(self.method)


def made_anew(name: str, method: str | None) -> type[unittest.TestCase]:
    mixin, executor_mixin, base = their(name), their("ExecutorMixin"), their("BaseTestCase")
    bases = [_Ours, mixin]
    bases += [kind for kind in (executor_mixin, base) if not issubclass(mixin, kind)]
    # _Ours has TestCase for a base: its setUp() comes first, the others' by super().
    full_name = f"Test{name.removesuffix('Tests').removesuffix('Test')}_{method or 'thread'}"
    return type(full_name, tuple(bases), {"method": method, "__module__": __name__})


for _name, _backends in MIXINS.items():
    for _method in [None] * ("thread" in _backends) + multiprocessing.get_all_start_methods() * (
        "process" in _backends
    ):
        _class = made_anew(_name, _method)
        globals()[_class.__name__] = _class
del _class
