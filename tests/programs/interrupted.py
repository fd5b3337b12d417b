"""A parent that waits for ever in one way or another: python interrupted.py METHOD WAY.

Each of its two workers says "ready" when it is busy.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from concurrent.futures import as_completed

from parallelkit import Executor, pimap, pmap, preduce

method, way = sys.argv[1:]


def stay(item: int) -> int:
    os.write(1, b"ready\n")
    time.sleep(1000)
    return item


def in_pmap() -> None:
    pmap(stay, range(4), max_workers=2)


def in_pimap() -> None:
    for _ in pimap(stay, iter(range(4)), max_workers=2):
        pass


def in_preduce() -> None:
    preduce(max, range(4), map=stay, max_workers=2)


def in_threads() -> None:
    pmap(stay, range(4), max_workers=2, backend="thread")


def in_threads_of_asyncio() -> None:
    pmap(stay, range(4), max_workers=2, backend="asyncio")


def in_coroutines() -> None:
    async def stay_awaiting(item: int) -> None:
        os.write(1, b"ready\n")
        await asyncio.sleep(1000)

    pmap(stay_awaiting, range(4), max_workers=2, backend="asyncio")


def in_map() -> None:
    with Executor("process", 2, method) as executor:
        list(executor.map(stay, range(4), chunksize=1))


def in_result() -> None:
    with Executor("process", 2, method) as executor:
        futures = [executor.submit(stay, item) for item in range(4)]
        futures[0].result()


def in_result_without_with() -> None:
    executor = Executor("process", 2, method)
    futures = [executor.submit(stay, item) for item in range(4)]
    futures[0].result()


def in_as_completed() -> None:
    with Executor("process", 2, method) as executor:
        next(as_completed([executor.submit(stay, item) for item in range(4)]))


def in_shutdown() -> None:
    executor = Executor("process", 2, method)
    futures = [executor.submit(stay, item) for item in range(4)]
    executor.shutdown()
    print(futures)


globals()[way]()
print("not interrupted")
