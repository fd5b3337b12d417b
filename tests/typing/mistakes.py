"""Mistakes that the type checker must find. An `ignore` that nothing needs is itself an error."""

from __future__ import annotations

from parallelkit import Executor, chunked, pimap, pmap, pmap_reduce, preduce


def length(word: str) -> int:
    return len(word)


def pairs(word: str) -> list[tuple[str, int]]:
    return [(letter, 1) for letter in word]


words = ["a", "bc"]

pmap()  # type: ignore[call-overload]
pmap(length, words, chunksize="3")  # type: ignore[call-overload]
pmap(length, words, chunk_size=3)  # type: ignore[call-overload]
pmap(length, words, task_timeout="1 s")  # type: ignore[call-overload]
pmap(length, words, max_workers="2")  # type: ignore[call-overload]
pmap(length, words, backend=3)  # type: ignore[call-overload]
pmap(words, length)  # type: ignore[call-overload]
pmap(length, 3)  # type: ignore[call-overload]
pmap(length, words, retry_on="OSError")  # type: ignore[call-overload]
numbers: list[str] = pmap(length, words)  # type: ignore[arg-type]
certain: list[int] = pmap(length, words, return_exceptions=True)  # type: ignore[assignment]

pimap(length, words, ordered="yes")  # type: ignore[arg-type]
pimap(length, words, chunk_size=3)  # type: ignore[call-arg]
pimap(length)
preduce(max)  # type: ignore[call-arg]
pmap_reduce(length, max, words)  # type: ignore[arg-type]
wrong: dict[int, int] = pmap_reduce(pairs, max, words)  # type: ignore[arg-type]
chunked(words)  # type: ignore[call-overload]
chunked(3, 2)  # type: ignore[call-overload]

Executor(3)  # type: ignore[arg-type]
Executor("process", "2")  # type: ignore[arg-type]
Executor("process", processes=2)  # type: ignore[call-arg]
with Executor() as executor:
    text: str = executor.submit(length, "a").result()  # type: ignore[assignment]
    executor.map(length, words, chunk_size=3)  # type: ignore[call-arg]
    executor.shutdown(True, True)  # type: ignore[call-arg]
