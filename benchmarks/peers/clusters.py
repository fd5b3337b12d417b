"""Schedulers of clusters, on this one machine: dask.distributed and Ray, which has a Pool as well."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from .base import Function, Side, sum_in_chunks

OBJECT_STORE_BYTES = 2 << 30
"""Of Ray: enough for the arrays; it takes a third of the memory if it is not told."""

ALL = frozenset({"start", "map", "stream", "call", "shared", "reduce"})


class Dask(Side):
    """`client.map` and `gather`: a task for each item."""

    family = "dask"
    modules = ("distributed",)
    distribution = "distributed"
    offers = ALL | {"merge"}
    restless = True

    def open(self) -> None:
        import dask
        from distributed import Client, LocalCluster

        dask.config.set({"temporary-directory": tempfile.gettempdir()})
        self.cluster = LocalCluster(
            n_workers=self.workers, threads_per_worker=1, dashboard_address=None, silence_logs=50
        )
        self.pool = Client(self.cluster)

    def close(self) -> None:
        self.pool.close()
        self.cluster.close()

    def map(self, function: Function, items: Iterable[Any]) -> list[Any]:
        futures = self.pool.map(function, list(items), pure=False)
        return self.pool.gather(futures)  # type: ignore[no-any-return]

    def stream(self, function: Function, items: Iterable[Any]) -> Iterator[Any]:
        for future in self.pool.map(function, list(items), pure=False):
            yield future.result()

    def call(self, function: Function, item: Any) -> Any:
        return self.pool.submit(function, item, pure=False).result()

    def shared(self, function: Callable[[Any, Any], Any], thing: Any, items: Sequence[Any]) -> list[Any]:
        """Its docs ask for large arguments to be scattered first."""
        placed = self.pool.scatter(thing, broadcast=True)
        futures = [self.pool.submit(function, placed, item, pure=False) for item in items]
        return self.pool.gather(futures)  # type: ignore[no-any-return]


class Ray(Side):
    """A task for each item; the function is remote once."""

    family = "ray"
    modules = ("ray",)
    distribution = "ray"
    offers = ALL | {"merge"}
    restless = True

    def open(self) -> None:
        import ray

        ray.init(
            address="local",
            num_cpus=self.workers,
            object_store_memory=OBJECT_STORE_BYTES,
            include_dashboard=False,
            log_to_driver=False,
            logging_level="error",
        )
        self.ray = ray
        self.known: dict[int, tuple[Any, Any]] = {}

    def close(self) -> None:
        self.ray.shutdown()

    def remote(self, function: Callable[..., Any]) -> Any:
        """Made once for each function, which is kept so that no other gets its number."""
        if id(function) not in self.known:
            plain = function if hasattr(function, "__code__") else Plain(function).__call__
            self.known[id(function)] = function, self.ray.remote(lambda *args: plain(*args))
        return self.known[id(function)][1]

    def map(self, function: Function, items: Iterable[Any]) -> list[Any]:
        remote = self.remote(function)
        return self.ray.get([remote.remote(item) for item in items])  # type: ignore[no-any-return]

    def stream(self, function: Function, items: Iterable[Any]) -> Iterator[Any]:
        remote = self.remote(function)
        for reference in [remote.remote(item) for item in items]:
            yield self.ray.get(reference)

    def call(self, function: Function, item: Any) -> Any:
        return self.ray.get(self.remote(function).remote(item))

    def shared(self, function: Callable[[Any, Any], Any], thing: Any, items: Sequence[Any]) -> list[Any]:
        """Its docs ask for large arguments to be put into the object store first."""
        placed, remote = self.ray.put(thing), self.remote(function)
        return self.ray.get([remote.remote(placed, item) for item in items])  # type: ignore[no-any-return]


class InPieces(Side):
    """A task for each piece of the items, as the docs of both ask for where items are small."""

    offers = frozenset({"map", "reduce"})

    def map(self, function: Function, items: Iterable[Any]) -> list[Any]:
        return joined(super().map(Each(function), pieces(self, items)))

    def reduce(self, add: Callable[[Any, Any], Any], function: Function, items: range) -> Any:
        self.item_seconds = 1.0  # the pieces are made already
        return sum_in_chunks(self, add, function, items)


class TunedDask(InPieces, Dask):
    pass


class TunedRay(InPieces, Ray):
    pass


class RayPool(Ray):
    """`ray.util.multiprocessing.Pool`, with its own chunks; a stream is `imap`, with chunks of one."""

    offers = ALL

    def open(self) -> None:
        from ray.util.multiprocessing import Pool

        super().open()
        self.pool = Pool(self.workers)

    def close(self) -> None:
        self.pool.terminate()
        super().close()

    def map(self, function: Function, items: Iterable[Any]) -> list[Any]:
        return self.pool.map(function, items)  # type: ignore[no-any-return]

    def stream(self, function: Function, items: Iterable[Any]) -> Iterator[Any]:
        return self.pool.imap(function, items)  # type: ignore[no-any-return]

    def call(self, function: Function, item: Any) -> Any:
        return self.pool.apply(function, (item,))

    def shared(self, function: Callable[[Any, Any], Any], thing: Any, items: Sequence[Any]) -> list[Any]:
        return Side.shared(self, function, thing, items)


class Plain:
    """A callable object."""

    def __init__(self, function: Callable[..., Any]):
        self.function = function

    def __call__(self, *args: Any) -> Any:
        return self.function(*args)


class Each:
    """The function of a piece that maps a function of its items."""

    def __init__(self, function: Function):
        self.function = function

    def __call__(self, piece: Sequence[Any]) -> list[Any]:
        return [self.function(item) for item in piece]


def pieces(side: Side, items: Iterable[Any]) -> list[Sequence[Any]]:
    whole = items if isinstance(items, Sequence) else list(items)
    size = side.chunksize(whole)
    return [whole[start : start + size] for start in range(0, len(whole), size)]


def joined(lists: list[list[Any]]) -> list[Any]:
    return [result for one in lists for result in one]


SIDES: dict[str, type[Side]] = {
    "dask": Dask,
    "dask, in pieces": TunedDask,
    "Ray": Ray,
    "Ray, in pieces": TunedRay,
    "Ray Pool": RayPool,
}
