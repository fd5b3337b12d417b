"""Users' code, for the type checker only: `mypy --strict` must know what each call returns."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, as_completed
from typing import assert_type

from parallelkit import (
    Executor,
    chunked,
    cpu_count,
    current_item,
    current_worker,
    pimap,
    pmap,
    pmap_reduce,
    preduce,
)


def length(word: str) -> int:
    return len(word)


async def fetch(word: str) -> bytes:
    return word.encode()


def pairs(word: str) -> Iterator[tuple[str, int]]:
    for letter in word:
        yield letter, 1


def plus(a: int, b: int) -> int:
    return a + b


words = ["a", "bc"]

assert_type(pmap(length, words), list[int])
assert_type(pmap(fetch, words, backend="asyncio", max_workers=8), list[bytes])
assert_type(pmap(length, words, return_exceptions=True), list[int | Exception])
assert_type(pmap_reduce(pairs, plus, words), dict[str, int])
assert_type(list(chunked(words, 2)), list[list[str]])
assert_type(cpu_count(physical=True), int)
assert_type(current_worker(), int | None)
assert_type(current_item(), int | None)

total: int = preduce(plus, words, map=length, initial=0)
stream: Iterator[int] = pimap(length, iter(words), ordered=False, buffersize=10)

with Executor("thread", max_workers=2) as executor:
    future = executor.submit(length, "abc")
    assert_type(future, Future[int])
    for done in as_completed([future]):
        assert_type(done.result(), int)
    lengths: list[int] = list(executor.map(length, words, retries=2, retry_on=(OSError, ValueError)))
    assert_type(executor.map_reduce(pairs, plus, words), dict[str, int])
