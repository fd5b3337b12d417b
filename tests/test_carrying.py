"""Thousands of chunks in a row that end while they are carried: refused, left out, or run at once."""

from __future__ import annotations

import threading
from concurrent.futures import wait
from unittest.mock import patch

import pytest

from parallelkit import Executor, InitializerFailed, SerializationError
from parallelkit._calls import MapCall
from parallelkit._core.outcome import Outcomes
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


def test_a_letter_that_comes_with_a_report_is_read_before_the_rest_of_the_chunk_is_run() -> None:
    """The item that fails is reported at once, and somebody drops the results in the middle of that."""
    run: list[int] = []

    def function(item: int) -> int:
        run.append(item)
        if item == 3:
            raise LookupError
        return item

    with Executor("serial") as executor:
        deliver = MapCall.deliver

        def deliver_and_stop(call: MapCall, outcomes: list[Outcomes]) -> None:
            deliver(call, outcomes)
            if outcomes[-1].failures:
                executor._driver.stop(call)  # under the lock: it leaves a letter

        with patch.object(MapCall, "deliver", deliver_and_stop):
            executor.map(function, range(64))
    assert len(run) < 64, "what was not started never will be"
