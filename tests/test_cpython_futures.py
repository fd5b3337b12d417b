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
    "test_saturation": "counts on a private semaphore or call queue",
    "test_max_tasks_per_child_defaults_to_spawn_context": "reads a private attribute",
    "test_python_finalization_error": "breaks a function of theirs by which ours does not start threads",
    "test_thread_names_default": "the names of our threads are others where no prefix is given",
    "test_shutdown_deadlock_pickle": "reads a private thread",
    "test_processes_terminate": "counts processes before their first chunk, which starts ours",
    "ProcessPoolShutdownTest.test_del_shutdown": "private threads and queues; ours: test_endings.py",
    "ProcessPoolShutdownTest.test_shutdown_no_wait": "private threads and queues; ours: test_endings.py",
    # Our promise is another one.
    "test_max_workers_negative": "the same ValueError, in other words",
    "test_killed_child": "a worker that dies costs its items, not the pool",
    "FailingInitializerMixin.test_initializer": "InitializerFailed has the cause; nothing is logged",
    "test_error_at_task_unpickle": "SerializationError for that item; the pool lives",
    "test_exit_at_task_unpickle": "SerializationError for that item; the pool lives",
    "test_error_during_result_unpickle_in_result_handler": "SerializationError for that item; the pool lives",
    "test_exit_during_result_unpickle_in_result_handler": "SerializationError for that item; the pool lives",
    "test_exit_during_result_pickle_on_worker": "SerializationError for that item; the pool lives",
    "test_exit_during_func_exec_on_worker": "RemoteError for that item; the pool lives",
}
LEFT_OUT_ON_FORK = {
    "test_max_tasks_per_child": "theirs forbids it with fork; ours replaces forked workers too",
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
    mixin: ClassVar[str]

    def setUp(self) -> None:
        left_out = LEFT_OUT | (LEFT_OUT_ON_FORK if self.method == "fork" else {})
        test = self._testMethodName
        if reason := left_out.get(test) or left_out.get(f"{self.mixin}.{test}"):
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
    return type(full_name, tuple(bases), {"method": method, "mixin": name, "__module__": __name__})


for _name, _backends in MIXINS.items():
    for _method in [None] * ("thread" in _backends) + multiprocessing.get_all_start_methods() * (
        "process" in _backends
    ):
        _class = made_anew(_name, _method)
        globals()[_class.__name__] = _class
del _class
