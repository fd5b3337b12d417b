"""Executors of futures, and joblib: concurrent.futures, loky, pebble, joblib, aiomultiprocess."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Iterator
from typing import Any

from .base import Function, Side, sum_in_chunks

STREAM_CHUNK = 1000
ALL = frozenset({"start", "map", "stream", "call", "shared", "reduce", "merge"})
TUNED = frozenset({"map", "stream", "shared", "reduce", "merge"})


class ProcessPoolExecutor(Side):
    """`map` with chunks of one."""

    family = "concurrent.futures"
    offers = ALL

    def open(self) -> None:
        import concurrent.futures

        self.pool = concurrent.futures.ProcessPoolExecutor(self.workers)

    def map(self, function: Function, items: Iterable[Any]) -> list[Any]:
        return list(self.pool.map(function, items))

    def stream(self, function: Function, items: Iterable[Any]) -> Iterator[Any]:
        return self.pool.map(function, items)  # type: ignore[no-any-return]

    def call(self, function: Function, item: Any) -> Any:
        return self.pool.submit(function, item).result()


class TunedProcessPoolExecutor(ProcessPoolExecutor):
    offers = TUNED

    def map(self, function: Function, items: Iterable[Any]) -> list[Any]:
        return list(self.pool.map(function, items, chunksize=self.chunksize(items)))

    def stream(self, function: Function, items: Iterable[Any]) -> Iterator[Any]:
        return self.pool.map(function, items, chunksize=self.chunksize(items, STREAM_CHUNK))  # type: ignore[no-any-return]

    def reduce(self, add: Callable[[Any, Any], Any], function: Function, items: range) -> Any:
        return sum_in_chunks(self, add, function, items)


class Loky(ProcessPoolExecutor):
    family = "loky"
    modules = ("loky",)
    distribution = "loky"

    def open(self) -> None:
        import loky

        self.pool = loky.ProcessPoolExecutor(self.workers)


class TunedLoky(TunedProcessPoolExecutor):
    family = "loky"
    modules = ("loky",)
    distribution = "loky"

    def open(self) -> None:
        import loky

        self.pool = loky.ProcessPoolExecutor(self.workers)


class Pebble(ProcessPoolExecutor):
    """`ProcessPool.map`, whose result is a future of an iterator."""

    family = "pebble"
    modules = ("pebble",)
    distribution = "Pebble"

    def open(self) -> None:
        import pebble

        self.pool = pebble.ProcessPool(self.workers)

    def close(self) -> None:
        self.pool.close()
        self.pool.join()

    def map(self, function: Function, items: Iterable[Any]) -> list[Any]:
        return list(self.stream(function, items))

    def stream(self, function: Function, items: Iterable[Any]) -> Iterator[Any]:
        return self.pool.map(function, items).result()  # type: ignore[no-any-return]

    def call(self, function: Function, item: Any) -> Any:
        return self.pool.schedule(function, [item]).result()


class TunedPebble(Pebble):
    offers = TUNED

    def stream(self, function: Function, items: Iterable[Any]) -> Iterator[Any]:
        chunksize = self.chunksize(items, STREAM_CHUNK)
        return self.pool.map(function, items, chunksize=chunksize).result()  # type: ignore[no-any-return]

    def reduce(self, add: Callable[[Any, Any], Any], function: Function, items: range) -> Any:
        return sum_in_chunks(self, add, function, items)


class Joblib(Side):
    """`Parallel` in a `with` block, which keeps its workers; a stream is `return_as="generator"`."""

    family = "joblib"
    modules = ("joblib",)
    distribution = "joblib"
    offers = ALL
    options: dict[str, Any] = {}  # noqa: RUF012 - a constant

    def open(self) -> None:
        import joblib

        self.delayed = joblib.delayed
        self.pool = self.parallel().__enter__()

    def parallel(self, **options: Any) -> Any:
        import joblib

        return joblib.Parallel(n_jobs=self.workers, **self.options, **options)

    def close(self) -> None:
        from joblib.externals.loky import get_reusable_executor

        super().close()
        get_reusable_executor().shutdown(wait=True)

    def map(self, function: Function, items: Iterable[Any]) -> list[Any]:
        return self.pool(self.delayed(function)(item) for item in items)  # type: ignore[no-any-return]

    def stream(self, function: Function, items: Iterable[Any]) -> Iterator[Any]:
        parallel = self.parallel(return_as="generator")
        return parallel(self.delayed(function)(item) for item in items)  # type: ignore[no-any-return]

    def call(self, function: Function, item: Any) -> Any:
        return self.map(function, [item])[0]


class TunedJoblib(Joblib):
    """`batch_size` by hand, all calls dispatched at once, no memory maps where arrays are used once."""

    offers = TUNED - {"stream", "merge"}

    def map(self, function: Function, items: Iterable[Any]) -> list[Any]:
        parallel = self.parallel(batch_size=self.chunksize(items), pre_dispatch="all", max_nbytes=None)
        return parallel(self.delayed(function)(item) for item in items)  # type: ignore[no-any-return]

    def reduce(self, add: Callable[[Any, Any], Any], function: Function, items: range) -> Any:
        return sum_in_chunks(self, add, function, items)


class Aiomultiprocess(Side):
    """Its pool takes `async def` alone: a plain function travels inside of one."""

    family = "aiomultiprocess"
    modules = ("aiomultiprocess",)
    distribution = "aiomultiprocess"
    offers = frozenset({"start", "map", "call", "shared", "coroutines", "loops"})
    restless = True
    options: dict[str, Any] = {}  # noqa: RUF012 - a constant

    def open(self) -> None:
        import asyncio

        import aiomultiprocess

        self.loop = asyncio.new_event_loop()

        async def opened() -> Any:
            return await aiomultiprocess.Pool(processes=self.workers, **self.options).__aenter__()

        self.pool = self.loop.run_until_complete(opened())

    def close(self) -> None:
        async def closed() -> None:
            self.pool.close()
            await self.pool.join()

        self.loop.run_until_complete(closed())
        self.loop.close()

    def map(self, function: Function, items: Iterable[Any]) -> list[Any]:
        return self.coroutines(Awaited(function), items)

    def call(self, function: Function, item: Any) -> Any:
        async def called() -> Any:
            return await self.pool.apply(Awaited(function), (item,))

        return self.loop.run_until_complete(called())

    def coroutines(self, function: Callable[[Any], Awaitable[Any]], items: Iterable[Any]) -> list[Any]:
        async def mapped() -> list[Any]:
            return list(await self.pool.map(function, items))

        return self.loop.run_until_complete(mapped())


class TunedAiomultiprocess(Aiomultiprocess):
    """A hundred coroutines at once in two processes."""

    offers = frozenset({"coroutines", "loops"})
    options = {"childconcurrency": 50}  # noqa: RUF012 - a constant


class Awaited:
    """A plain function as an async one."""

    def __init__(self, function: Function):
        self.function = function

    async def __call__(self, item: Any) -> Any:
        return self.function(item)


SIDES: dict[str, type[Side]] = {
    "ProcessPoolExecutor": ProcessPoolExecutor,
    "ProcessPoolExecutor, chunksize": TunedProcessPoolExecutor,
    "loky": Loky,
    "loky, chunksize": TunedLoky,
    "pebble": Pebble,
    "pebble, chunksize": TunedPebble,
    "joblib": Joblib,
    "joblib, batch_size": TunedJoblib,
    "aiomultiprocess": Aiomultiprocess,
    "aiomultiprocess, childconcurrency": TunedAiomultiprocess,
}
