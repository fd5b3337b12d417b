"""Peers for work that waits: pools of threads, and coroutines of one event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator
from functools import partial
from typing import Any

from .base import Function, Side
from .executors import Joblib, Pebble
from .ours import Parallelkit, Serial
from .pools import Mpire

THREADS = frozenset({"threads"})
COROUTINES = frozenset({"coroutines", "loops"})


class ThreadPoolExecutor(Side):
    family = "concurrent.futures"
    processes = False
    offers = THREADS

    def open(self) -> None:
        import concurrent.futures

        self.pool = concurrent.futures.ThreadPoolExecutor(self.workers)

    def map(self, function: Function, items: Iterable[Any]) -> list[Any]:
        return list(self.pool.map(function, items))


class ThreadPool(Side):
    """`map` with chunks of one: with its own chunks, items that wait would wait for each other."""

    family = "multiprocessing"
    processes = False
    offers = THREADS

    def open(self) -> None:
        import multiprocessing.pool

        self.pool = multiprocessing.pool.ThreadPool(self.workers)

    def map(self, function: Function, items: Iterable[Any]) -> list[Any]:
        return self.pool.map(function, items, chunksize=1)  # type: ignore[no-any-return]


class PathosThreads(ThreadPool):
    family = "pathos"
    modules = ("pathos",)
    distribution = "pathos"

    def open(self) -> None:
        from pathos.pools import ThreadPool

        self.pool = ThreadPool(self.workers)

    def close(self) -> None:
        self.pool.close()
        self.pool.join()
        self.pool.clear()


class PebbleThreads(Pebble):
    processes = False
    offers = THREADS

    def open(self) -> None:
        import pebble

        self.pool = pebble.ThreadPool(self.workers)


class JoblibThreads(Joblib):
    processes = False
    offers = THREADS
    options = {"backend": "threading"}  # noqa: RUF012 - a constant

    def close(self) -> None:
        self.pool.__exit__(None, None, None)


class MpireThreads(Mpire):
    processes = False
    offers = THREADS
    options = {"start_method": "threading", "keep_alive": True}  # noqa: RUF012 - a constant


class ParallelkitThreads(Parallelkit):
    processes = False
    offers = THREADS
    backend = "thread"


class PlainThreads(Serial):
    """Threads that take items from one iterator: as little as can be done."""

    family = "floor"
    offers = THREADS
    processes = False

    def map(self, function: Function, items: Iterable[Any]) -> list[Any]:
        import threading

        left, results = iter(enumerate(items)), {}

        def work() -> None:
            for place, item in left:  # `next` of an enumerate is one step for the interpreter
                results[place] = function(item)

        threads = [threading.Thread(target=work) for _ in range(self.workers)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return [results[place] for place in range(len(results))]


# ---------------------------------------------------------------- coroutines


class Loop(Side):
    """Coroutines in one event loop, at most `workers` of them at once."""

    family = "asyncio"
    processes = False
    offers = COROUTINES

    def open(self) -> None:
        self.pool = asyncio.Runner().__enter__()

    def map(self, function: Callable[[Any], Awaitable[Any]], items: Iterable[Any]) -> list[Any]:
        return self.pool.run(self.gather(function, items))  # type: ignore[no-any-return]

    async def gather(self, function: Callable[[Any], Awaitable[Any]], items: Iterable[Any]) -> list[Any]:
        raise NotImplementedError

    def limited(self, function: Callable[[Any], Awaitable[Any]]) -> Callable[[Any], Any]:
        room = asyncio.Semaphore(self.workers)

        async def call(item: Any) -> Any:
            async with room:
                return await function(item)

        return call


class Gather(Loop):
    async def gather(self, function: Callable[[Any], Awaitable[Any]], items: Iterable[Any]) -> list[Any]:
        return list(await asyncio.gather(*map(self.limited(function), items)))


class TaskGroup(Loop):
    async def gather(self, function: Callable[[Any], Awaitable[Any]], items: Iterable[Any]) -> list[Any]:
        limited = self.limited(function)
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(limited(item)) for item in items]
        return [task.result() for task in tasks]


class ParallelkitAsyncio(Parallelkit):
    processes = False
    offers = frozenset({"coroutines"})  # where there is computing too, ours are processes
    backend = "asyncio"


class Aiometer(Loop):
    """`run_all` with `max_at_once`."""

    family = "aiometer"
    modules = ("aiometer",)
    distribution = "aiometer"

    async def gather(self, function: Callable[[Any], Awaitable[Any]], items: Iterable[Any]) -> list[Any]:
        import aiometer

        calls = [partial(function, item) for item in items]
        return await aiometer.run_all(calls, max_at_once=self.workers)  # type: ignore[no-any-return]


class PlainTasks(Loop):
    """Tasks that take items from one iterator: as little as can be done."""

    family = "floor"
    reference = True

    async def gather(self, function: Callable[[Any], Awaitable[Any]], items: Iterable[Any]) -> list[Any]:
        left: Iterator[tuple[int, Any]] = iter(enumerate(items))
        results = {}

        async def work() -> None:
            for place, item in left:
                results[place] = await function(item)

        await asyncio.gather(*(work() for _ in range(self.workers)))
        return [results[place] for place in range(len(results))]


SIDES: dict[str, type[Side]] = {
    "parallelkit, threads": ParallelkitThreads,
    "parallelkit, asyncio": ParallelkitAsyncio,
    "ThreadPoolExecutor": ThreadPoolExecutor,
    "ThreadPool": ThreadPool,
    "pathos ThreadPool": PathosThreads,
    "pebble.ThreadPool": PebbleThreads,
    "joblib, threading": JoblibThreads,
    "mpire, threading": MpireThreads,
    "plain threads": PlainThreads,
    "asyncio.gather": Gather,
    "asyncio.TaskGroup": TaskGroup,
    "aiometer": Aiometer,
    "plain tasks": PlainTasks,
}
