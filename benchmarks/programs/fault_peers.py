"""How each peer is called: two workers, its defaults otherwise, the calls as its own docs spell them.

A peer is opened by making one (with the initializer, where a fault needs one), and closed by leaving its
`with` block, which does what leaving the `with` block of the peer's own pool does.

    submit(function, item)          one call of its own; a handle
    get(handle, seconds)            what came of it; Missing if nothing came in that time
    map(function, items)            one call for all of them, as a list or an iterator of results
    stream(function, items)         as `map`, but results one after the other
    limited(function, items, s)     handles, or as `map`: no item may take longer than that
    call_within(function, items, s) as `map`, but the whole call may take no longer than that
"""

from __future__ import annotations

import concurrent.futures
import multiprocessing
from collections.abc import Callable
from itertools import islice
from typing import Any

WORKERS = 2


class Missing(Exception):
    """No answer came in time."""


class NotOffered(Exception):
    """The peer has no such call or option."""


class Peer:
    modules: tuple[str, ...] = ()
    """Distributions whose versions are told."""
    limits_a_map = False
    """Whether `limited` gives an iterator, and not handles."""
    pool: Any

    def __init__(self, initializer: Callable[[], object] | None = None):
        raise NotImplementedError

    def __enter__(self) -> Peer:
        self.pool.__enter__()
        return self

    def __exit__(self, *exc_info: Any) -> None:
        self.pool.__exit__(*exc_info)

    def submit(self, function: Any, item: Any) -> Any:
        raise NotOffered("one call an item")

    @staticmethod
    def get(handle: Any, seconds: float) -> Any:
        raise NotOffered("one call an item")

    def map(self, function: Any, items: list[Any]) -> Any:
        raise NotImplementedError

    def stream(self, function: Any, items: list[Any]) -> Any:
        return self.map(function, items)

    def limited(self, function: Any, items: list[Any], seconds: float) -> Any:
        raise NotOffered("a time limit of an item")

    def call_within(self, function: Any, items: list[Any], seconds: float) -> Any:
        raise NotOffered("a time limit of a call")

    def begin(self, function: Any, items: list[Any]) -> list[Any]:
        """Have all items under way without waiting for them."""
        return [self.submit(function, item) for item in items]


# ---------------------------------------------------------------- pools in the manner of multiprocessing


class MultiprocessingPool(Peer):
    def __init__(self, initializer: Callable[[], object] | None = None):
        self.pool = multiprocessing.Pool(WORKERS, initializer)

    def submit(self, function: Any, item: Any) -> Any:
        return self.pool.apply_async(function, (item,))

    @staticmethod
    def get(handle: Any, seconds: float) -> Any:
        handle.wait(seconds)
        if not handle.ready():
            raise Missing
        return handle.get()

    def map(self, function: Any, items: list[Any]) -> Any:
        return self.pool.map(function, items, chunksize=1)

    def stream(self, function: Any, items: list[Any]) -> Any:
        return self.pool.imap(function, items)

    def call_within(self, function: Any, items: list[Any], seconds: float) -> Any:
        return self.pool.map_async(function, items, chunksize=1).get(seconds)


class ParallelkitPool(MultiprocessingPool):
    modules = ("parallelkit",)

    def __init__(self, initializer: Callable[[], object] | None = None):
        import parallelkit

        self.pool = parallelkit.Pool(WORKERS, initializer)


class Billiard(MultiprocessingPool):
    modules = ("billiard",)

    def __init__(self, initializer: Callable[[], object] | None = None):
        import billiard

        self.pool = billiard.Pool(WORKERS, initializer)

    def limited(self, function: Any, items: list[Any], seconds: float) -> Any:
        """Limits of items are kept by pools that have one themselves, which no item reaches here."""
        import billiard

        self.pool.terminate()
        self.pool = billiard.Pool(WORKERS, timeout=1000)
        return [self.pool.apply_async(function, (item,), timeout=seconds) for item in items]


class Pathos(MultiprocessingPool):
    modules = ("pathos", "multiprocess")

    def __init__(self, initializer: Callable[[], object] | None = None):
        from pathos.pools import ProcessPool

        options = {} if initializer is None else {"initializer": initializer}
        self.pool = ProcessPool(WORKERS, **options)

    def __exit__(self, *exc_info: Any) -> None:
        """Its `with` block does nothing: pools are kept from one to the next. This is how they are ended."""
        self.pool.terminate()
        self.pool.join()
        self.pool.clear()

    def submit(self, function: Any, item: Any) -> Any:
        return self.pool.apipe(function, item)

    def map(self, function: Any, items: list[Any]) -> Any:
        return self.pool.map(function, items, chunksize=1)

    def call_within(self, function: Any, items: list[Any], seconds: float) -> Any:
        return self.pool.amap(function, items, chunksize=1).get(seconds)


class Mpire(MultiprocessingPool):
    modules = ("mpire",)

    def __init__(self, initializer: Callable[[], object] | None = None):
        import mpire

        self.pool = mpire.WorkerPool(WORKERS)
        self.options = {} if initializer is None else {"worker_init": initializer}

    def submit(self, function: Any, item: Any) -> Any:
        return self.pool.apply_async(function, (item,), **self.options)

    def map(self, function: Any, items: list[Any]) -> Any:
        return self.pool.map(function, [(item,) for item in items], chunk_size=1, **self.options)

    def stream(self, function: Any, items: list[Any]) -> Any:
        return self.pool.imap(function, [(item,) for item in items], chunk_size=1)

    def limited(self, function: Any, items: list[Any], seconds: float) -> Any:
        return [self.pool.apply_async(function, (item,), task_timeout=seconds) for item in items]

    def call_within(self, function: Any, items: list[Any], seconds: float) -> Any:
        raise NotOffered("a time limit of a call")


# ---------------------------------------------------------------- executors of futures


class ProcessPoolExecutor(Peer):
    def __init__(self, initializer: Callable[[], object] | None = None):
        self.pool = concurrent.futures.ProcessPoolExecutor(WORKERS, initializer=initializer)

    def submit(self, function: Any, item: Any) -> Any:
        return self.pool.submit(function, item)

    @staticmethod
    def get(handle: Any, seconds: float) -> Any:
        try:
            return handle.result(seconds)
        except TimeoutError:
            if handle.done():
                raise
            raise Missing from None

    def map(self, function: Any, items: list[Any]) -> Any:
        return self.pool.map(function, items)

    def call_within(self, function: Any, items: list[Any], seconds: float) -> Any:
        return self.pool.map(function, items, timeout=seconds)


class Loky(ProcessPoolExecutor):
    """Its own spelling asks for the executor at each call, so that a broken one is replaced."""

    modules = ("loky",)

    def __init__(self, initializer: Callable[[], object] | None = None):
        self.initializer = initializer
        _ = self.pool

    @property
    def pool(self) -> Any:  # type: ignore[override]
        import loky

        return loky.get_reusable_executor(WORKERS, initializer=self.initializer)

    def begin(self, function: Any, items: list[Any]) -> list[Any]:
        executor = self.pool  # asking in the middle of a call would hide what became of it
        return [executor.submit(function, item) for item in items]


class Parallelkit(ProcessPoolExecutor):
    modules = ("parallelkit",)
    limits_a_map = True

    def __init__(self, initializer: Callable[[], object] | None = None):
        import parallelkit

        self.pool = parallelkit.Executor("process", WORKERS, initializer=initializer)

    def map(self, function: Any, items: list[Any]) -> Any:
        return self.pool.map(function, items, return_exceptions=True)

    def limited(self, function: Any, items: list[Any], seconds: float) -> Any:
        return self.pool.map(function, items, task_timeout=seconds, return_exceptions=True)


class Pebble(ProcessPoolExecutor):
    modules = ("Pebble",)

    def __init__(self, initializer: Callable[[], object] | None = None):
        import pebble

        self.pool = pebble.ProcessPool(WORKERS, initializer=initializer)

    def submit(self, function: Any, item: Any) -> Any:
        return self.pool.schedule(function, [item])

    def map(self, function: Any, items: list[Any]) -> Any:
        return self.pool.map(function, items).result()

    def limited(self, function: Any, items: list[Any], seconds: float) -> Any:
        return [self.pool.schedule(function, [item], timeout=seconds) for item in items]

    def call_within(self, function: Any, items: list[Any], seconds: float) -> Any:
        futures = self.begin(function, items)
        _, late = concurrent.futures.wait(futures, seconds)
        for future in late:
            future.cancel()  # which ends their workers, and is its way of saying so
        if late:
            raise TimeoutError
        return [future.result() for future in futures]


# ---------------------------------------------------------------- calls for all items only


class Joblib(Peer):
    modules = ("joblib",)
    limits_a_map = True

    def __init__(self, initializer: Callable[[], object] | None = None):
        import joblib

        if initializer is not None:
            raise NotOffered("an initializer")
        self.pool = joblib.Parallel(WORKERS)
        self.delayed = joblib.delayed

    def map(self, function: Any, items: list[Any]) -> Any:
        return list(self.pool(self.delayed(function)(item) for item in items))

    def limited(self, function: Any, items: list[Any], seconds: float) -> Any:
        """Its `timeout` is for each item, and ends the call."""
        self.pool.timeout = seconds
        try:
            return self.map(function, items)
        finally:
            self.pool.timeout = None

    def stream(self, function: Any, items: list[Any]) -> Any:
        """A `Parallel` gives lists or streams for its whole life: go on with one that streams."""
        self.pool.__exit__(None, None, None)
        self.pool = self.streaming()
        self.pool.__enter__()
        return self.pool(self.delayed(function)(item) for item in items)

    def begin(self, function: Any, items: list[Any]) -> list[Any]:
        stream = self.streaming()(self.delayed(function)(item) for item in items)
        return [stream] * len(items)

    def streaming(self) -> Any:
        import joblib

        return joblib.Parallel(WORKERS, return_as="generator")

    @staticmethod
    def get(handle: Any, seconds: float) -> Any:
        results = list(islice(handle, 1))
        if not results:
            raise Missing
        return results[0]


PEERS: dict[str, type[Peer]] = {
    "multiprocessing.Pool": MultiprocessingPool,
    "ProcessPoolExecutor": ProcessPoolExecutor,
    "loky": Loky,
    "joblib": Joblib,
    "mpire": Mpire,
    "pebble": Pebble,
    "billiard": Billiard,
    "pathos": Pathos,
    "parallelkit": Parallelkit,
    "parallelkit.Pool": ParallelkitPool,
}
