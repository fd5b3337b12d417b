"""At which item the code is that asks: inside of others, in other threads, between items, after the end."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from threading import Event

import pytest

from parallelkit import Executor, Pool, ThreadPool, current_item, pmap, preduce
from parallelkit._worker import LocalClaim, Work, run_chunk


def test_inside_of_an_item_the_innermost_counts() -> None:
    def outer(item):
        with Executor("serial") as executor:
            inner = list(executor.map(lambda _: current_item(), "abc"))
            alone = executor.submit(current_item).result()
        return current_item(), inner, alone, current_item()

    for backend in ("serial", "thread"):
        results = pmap(outer, range(20), backend=backend, max_workers=2)
        assert results == [(item, [0, 1, 2], None, item) for item in range(20)]


def test_a_thread_with_the_items_context_knows_it_while_the_item_runs() -> None:
    ask, asked = Event(), Event()
    answers = []

    def ask_late(context):
        ask.wait()
        answers.append(context.run(current_item))
        asked.set()

    def function(item):
        answers.append(pool.submit(copy_context().run, current_item).result())
        answers.append(pool.submit(current_item).result())
        pool.submit(ask_late, copy_context())

    reports = []
    with ThreadPoolExecutor(2) as pool:
        try:
            run_chunk(Work(function), [None], 5, LocalClaim(1), lambda *report: reports.append(report))
            assert answers == [5, None]
            assert reports[-1][-1], "the last one"  # one that takes long is reported before that, too
        finally:
            ask.set()  # else the pool waits for it
        assert asked.wait(20)
    assert answers == [5, None, None], "the chunk is over"


def test_coroutines_keep_their_item_in_tasks_and_threads_of_theirs() -> None:
    async def function(item):
        task = asyncio.create_task(ask())
        return await asyncio.to_thread(current_item), await task, current_item()

    async def ask():
        await asyncio.sleep(0)
        return current_item()

    for backend in ("asyncio", "thread"):
        with Executor(backend, 2) as executor:
            results = list(executor.map(function, range(40)))
        assert results == [(item, item, item) for item in range(40)]


def test_what_a_report_runs_is_run_for_no_item() -> None:
    asked = []

    def worth_it(error):
        asked.append(current_item())
        return False

    def function(item):
        raise LookupError(item)

    for backend in ("serial", "thread", "asyncio"):
        pmap(function, range(5), backend=backend, retries=1, retry_on=worth_it, return_exceptions=True)
    assert asked == [None] * 15


def test_in_a_reduction_the_item_that_fails_is_the_one_that_ran() -> None:
    seen = []

    def combine(a, b):
        seen.append((b, current_item()))
        if b == 7:
            raise LookupError(b)
        return b

    for retries in (0, 1):
        seen.clear()
        with pytest.raises(LookupError, match="7") as caught:
            preduce(combine, range(20), backend="serial", chunksize=20, retries=retries)
        assert (7, 7) in seen
        assert all(item == b for b, item in seen if item is not None)
        assert "item 7" in caught.value.__notes__[0]


def where(item):
    return item, current_item()


def test_pools_count_like_the_input() -> None:
    for kind in (Pool, ThreadPool):
        with kind(2) as pool:
            expected = [(item, item) for item in range(50)]
            assert pool.map(where, range(50)) == expected
            assert list(pool.imap(where, iter(range(50)))) == expected
            assert pool.starmap(where, [(item,) for item in range(50)], chunksize=7) == expected
            assert pool.apply(where, (3,)) == (3, None)
