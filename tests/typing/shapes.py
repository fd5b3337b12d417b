"""Users' code in its many shapes, for the type checker only: what is passed, and what comes out."""

from __future__ import annotations

import concurrent.futures
import functools
import multiprocessing
import operator
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any, Protocol, TypeVar, assert_type

from parallelkit import (
    Executor,
    InitializerFailed,
    ParallelError,
    RemoteError,
    SerializationError,
    TaskTimeout,
    WorkerDied,
    chunked,
    cpu_count,
    pimap,
    pmap,
    pmap_reduce,
    preduce,
)

T = TypeVar("T")
R = TypeVar("R")


class Model:
    def score(self, text: str) -> float:
        return float(len(text))

    def __call__(self, text: str) -> bool:
        return bool(text)

    async def fetch(self, text: str) -> bytes:
        return text.encode()


class Scorer(Protocol):
    def __call__(self, text: str, /) -> float: ...


def power(base: int, exponent: int) -> int:
    return int(base**exponent)


def lines_of(path: Path) -> Generator[tuple[str, int], None, None]:
    for line in path.read_text().splitlines():
        yield line, 1


def setup(name: str, level: int) -> None: ...


texts: Sequence[str] = ("a", "b")
model = Model()
scorer: Scorer = model.score

# Callables of all kinds keep what they return.
assert_type(pmap(model.score, texts), list[float])
assert_type(pmap(model, texts), list[bool])
assert_type(pmap(scorer, iter(texts)), list[float])
assert_type(pmap(model.fetch, texts), list[bytes])
assert_type(pmap(functools.partial(power, exponent=2), [1, 2]), list[int])
assert_type(pmap(str, [1, 2]), list[str])
assert_type(pmap(Path, texts), list[Path])
assert_type(pmap(lambda text: len(text), texts), list[int])
assert_type(pmap(power, [1, 2], [3, 4]), list[int])
assert_type(pmap(power, [1, 2], [3, 4], return_exceptions=True), list[int | Exception])

# Options.
assert_type(
    pmap(
        len,
        texts,
        backend="thread",
        max_workers=cpu_count(),
        chunksize=None,
        buffersize=100,
        timeout=10,
        task_timeout=1.5,
        retries=3,
        retry_on=(OSError, TimeoutError),
    ),
    list[int],
)
pmap(len, texts, retry_on=OSError)
pmap(len, texts, retry_on=lambda error: "again" in str(error))
for result in pimap(len, texts, ordered=False, return_exceptions=True):
    print(result)

# Reduces.
counts: dict[str, int] = pmap_reduce(lines_of, operator.add, [Path("a"), Path("b")])
longest: str = preduce(max, texts)
letters: int = preduce(operator.add, texts, map=len, initial=0)

# Chunks keep the type of a sequence.
assert_type(chunked([1, 2, 3], 2), Iterator[list[int]])
assert_type(chunked("abc", 2), Iterator[str])
assert_type(chunked(range(10), 2), Iterator[range])
assert_type(chunked(iter([1, 2, 3]), 2), Iterator[Sequence[int]])


# A user's own generic function over ours.
def squeeze(function: Callable[[T], R], items: Iterable[T]) -> list[R]:
    return pmap(function, items)


assert_type(squeeze(len, texts), list[int])


# The executor, where one of the standard library is asked for.
def run_all(executor: concurrent.futures.Executor, tasks: Iterable[str]) -> list[int]:
    return [future.result() for future in [executor.submit(len, task) for task in tasks]]


context = multiprocessing.get_context("spawn")
with Executor(
    "process", 2, context, setup, ("name", 3), finalizer=print, max_tasks_per_child=100
) as executor:
    assert_type(executor, Executor)
    assert_type(run_all(executor, texts), list[int])
    assert_type(executor.submit(power, 2, exponent=3), Future[int])
    assert_type(list(executor.starmap(power, [(1, 2), (3, 4)])), list[int])
    assert_type(executor.map_reduce(lines_of, max, [Path("a")]), dict[str, int])
    total: int = executor.reduce(operator.add, [1, 2], map=abs, initial=0)
    results: Iterator[Any] = executor.map(power, [1, 2], [3, 4], timeout=1, chunksize=2, buffersize=3)
    executor.shutdown(wait=False, cancel_futures=True)
    executor.terminate_workers()
    executor.kill_workers()

Executor("thread", thread_name_prefix="mine")
Executor(mp_context="fork", initializer=setup, initargs=("name", 3))

# Errors, and what they carry.
try:
    pmap(len, texts)
except WorkerDied as died:
    assert_type(died.exitcode, int | None)
    assert_type(list(died.indices), list[int])
except RemoteError as remote:
    assert_type((remote.type_name, remote.message), tuple[str, str])
except (TaskTimeout, SerializationError, InitializerFailed) as other:
    error: ParallelError = other
