"""The contract, on every backend of ours, under every start method, and on the fake."""

from __future__ import annotations

import multiprocessing
from typing import Any

import pytest

from parallelkit import Executor
from parallelkit.testing import BackendContract


class TestSerial(BackendContract):
    def new_executor(self, **options: Any) -> Executor:
        return Executor("serial", **options)


class TestThread(BackendContract):
    def new_executor(self, **options: Any) -> Executor:
        return Executor("thread", **options)


class TestAsyncio(BackendContract):
    def new_executor(self, **options: Any) -> Executor:
        return Executor("asyncio", **options)


class _ProcessContract(BackendContract):
    method: str

    def new_executor(self, **options: Any) -> Executor:
        return Executor("process", mp_context=self.method, **options)

    @classmethod
    def setup_class(cls) -> None:
        if cls.method not in multiprocessing.get_all_start_methods():
            pytest.skip(f"there is no start method {cls.method!r} here")
        super().setup_class()


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded, use of fork:DeprecationWarning")
class TestProcessFork(_ProcessContract):
    method = "fork"


class TestProcessForkserver(_ProcessContract):
    method = "forkserver"


class TestProcessSpawn(_ProcessContract):
    method = "spawn"
