"""Users' code with pools, for the type checker only: what was typed for multiprocessing stays typed."""

from __future__ import annotations

import multiprocessing.pool
from typing import Any, assert_type

from parallelkit import Pool, ThreadPool, get_context
from parallelkit.pool import ApplyResult, AsyncResult, IMapIterator, MapResult


def length(word: str) -> int:
    return len(word)


def report(lengths: list[int]) -> None: ...


words = ["a", "bc"]

with Pool(2) as pool:
    assert_type(pool, Pool)
    assert_type(pool.map(length, words), list[int])
    assert_type(pool.map(length, words, chunksize=2), list[int])
    assert_type(pool.starmap(length, [("a",)]), list[int])
    assert_type(pool.apply(length, ("a",)), int)
    assert_type(pool.apply_async(length, ("a",), callback=print), ApplyResult[int])
    assert_type(pool.map_async(length, words, callback=report), MapResult[int])
    assert_type(pool.map_async(length, words).get(timeout=3), list[int])
    assert_type(pool.imap(length, iter(words)), IMapIterator[int])
    assert_type(next(pool.imap_unordered(length, words, 5)), int)

results: list[AsyncResult[int]] = [pool.apply_async(length, (word,)) for word in words]


def takes_theirs(pool: multiprocessing.pool.Pool) -> multiprocessing.pool.AsyncResult[int]:
    return pool.apply_async(length, ("a",))


takes_theirs(Pool())
takes_theirs(ThreadPool(3, print, ("hello",)))
theirs: multiprocessing.pool.ThreadPool = ThreadPool()
spawned: Pool = get_context("spawn").Pool(2, initializer=print, initargs=(1,), maxtasksperchild=10)


class Mine(Pool):
    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)


Mine(2).map(length, [3])  # type: ignore[arg-type]
Pool("2")  # type: ignore[arg-type]
ThreadPool(maxtasksperchild=3)  # type: ignore[call-arg]
pool.imap(length)  # type: ignore[call-arg]
