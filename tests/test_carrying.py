"""Thousands of chunks in a row that end while they are carried: refused, left out, or run at once."""

from __future__ import annotations

import threading
from concurrent.futures import wait
from itertools import count
from typing import Any

import pytest

from parallelkit import Executor, InitializerFailed, SerializationError, pmap
from parallelkit.backends import process

pytestmark = pytest.mark.timeout(60)

MANY = 3000  # more than Python lets calls be in each other


@pytest.mark.parametrize("backend", ["thread", "process"])
def test_many_futures_are_cancelled(backend: str) -> None:
    with Executor(backend, max_workers=1) as executor:
        gate = threading.Event()
        first = executor.submit(gate.wait if backend == "thread" else abs, 60)
        futures = [executor.submit(abs, -number) for number in range(MANY)]
        cancelled = [future for future in futures if future.cancel()]
        gate.set()
        assert executor.submit(abs, -1).result(30) == 1
        assert first.result(30)
        assert not wait(futures, 30).not_done
        assert all(future.cancelled() for future in cancelled)


def test_many_items_cannot_travel() -> None:
    locks = [threading.Lock() for _ in range(MANY)]
    with Executor("process", max_workers=2) as executor:
        results = list(executor.map(id, locks, chunksize=1, return_exceptions=True))
    assert [type(result) for result in results] == [SerializationError] * MANY


def test_no_worker_can_be_started_for_many_items(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(server: bool) -> None:
        raise OSError(24, "Too many open files")

    with Executor("process", max_workers=2) as executor:
        with monkeypatch.context() as patch:
            patch.setattr(process, "prepare_start", fail)
            results = list(executor.map(abs, range(MANY), chunksize=1, return_exceptions=True))
        assert [type(result) for result in results] == [InitializerFailed] * MANY
        assert executor.submit(abs, -1).result(30) == 1, "it tries again for the next"


@pytest.mark.parametrize("items", [range(10**12), count()], ids=["range", "iterator"])
def test_a_serial_call_without_end_is_given_up_in_time(items: Any) -> None:
    with pytest.raises(TimeoutError, match=r"timeout=0\.1"):
        pmap(abs, items, backend="serial", timeout=0.1)


def test_a_serial_stream_without_end_is_given_up_in_time() -> None:
    with Executor("serial") as executor:
        results = executor.map(abs, count(), timeout=0.1)
        found = []
        with pytest.raises(TimeoutError, match=r"timeout=0\.1"):
            for result in results:
                found.append(result)
        assert found == list(range(len(found)))
        assert executor.submit(abs, -1).result() == 1
