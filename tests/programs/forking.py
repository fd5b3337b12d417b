"""A program that forks while its workers are busy: python forking.py METHOD WAY FILE.

Each item that is run is in FILE. The program says "right" when all was.
"""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from parallelkit import Executor, pmap
from programs import faults

LENGTH = 400


def work(item: int) -> int:
    time.sleep(0.001)
    faults.note(file, item)
    return item


@contextmanager
def busy() -> Iterator[Executor]:
    """An executor with a stream half read, and futures on their way; all of it must come right in the end."""
    with Executor("process", 2, method) as executor:
        stream = executor.map(work, iter(range(LENGTH)))
        assert next(stream) == 0
        futures: list[Future[Any]] = [executor.submit(work, LENGTH + item) for item in range(20)]
        before = workers(executor)
        yield executor
        assert list(stream) == list(range(1, LENGTH))
        assert [future.result() for future in futures] == list(range(LENGTH, LENGTH + 20))
        assert workers(executor) == before, "workers were replaced"


def workers(executor: Executor) -> list[int]:
    return [process.pid for process in executor._backend.handles()]


def forked(do: Callable[[], object]) -> int:
    """Do that in a forked child, which then ends as a program does; its exit code."""
    child = os.fork()
    if not child:
        do()
        raise EndOfChild
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


class EndOfChild(BaseException):
    """Leaves all that the parent was in the middle of."""


def use_afresh() -> None:
    with Executor("process", 1, method) as executor:
        assert list(executor.map(abs, range(-3, 0))) == [3, 2, 1]
        assert executor.submit(abs, -7).result() == 7
    assert pmap(abs, [-1, 2], max_workers=1) == [1, 2]


# ---------------------------------------------------------------- ways


def a_child_that_uses_it_afresh() -> None:
    with busy():
        assert forked(use_afresh) == 0


def a_child_that_ends_at_once() -> None:
    with busy():
        for _ in range(5):
            assert forked(lambda: None) == 0


def children_without_end() -> None:
    """Forked in the middle of anything: other threads submit, map and read meanwhile."""
    with busy() as executor:
        going = [True]

        def call() -> None:
            while going:
                assert list(executor.map(abs, range(50))) == list(range(50))
                assert executor.submit(abs, -1).result() == 1

        threads = [threading.Thread(target=call) for _ in range(3)]
        for thread in threads:
            thread.start()
        try:
            for _ in range(20):
                assert forked(lambda: None) == 0
        finally:
            going.clear()
            for thread in threads:
                thread.join()


def their_pools() -> None:
    """Of multiprocessing and of concurrent.futures, which fork, while ours is busy and before that."""
    context = multiprocessing.get_context("fork")
    with context.Pool(2) as early:
        assert early.map(abs, [-1, -2]) == [1, 2]
        with busy(), context.Pool(2) as late, ProcessPoolExecutor(2, context) as executor:
            for _ in range(3):
                assert early.map(abs, range(-50, 0)) == list(range(50, 0, -1))
                assert late.map(abs, range(-50, 0)) == list(range(50, 0, -1))
                assert list(executor.map(abs, range(-50, 0))) == list(range(50, 0, -1))


def a_process_of_theirs_that_uses_it() -> None:
    with busy():
        process = multiprocessing.get_context("fork").Process(target=use_afresh)
        process.start()
        process.join()
        assert process.exitcode == 0


def a_child_that_stays() -> None:
    """It outlives the executor, whose end must not wait for it."""
    gate, other_end = os.pipe()
    with busy():
        child = os.fork()
        if not child:
            os.close(other_end)
            os.read(gate, 1)
            os._exit(0)
    os.close(other_end)
    assert os.waitpid(child, 0)[1] == 0


def killed_with_a_child() -> None:
    stay_until_killed(lambda: os.fork() or time.sleep(1000) or 0)


def killed_with_a_program() -> None:
    stay_until_killed(lambda: subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1000)"]).pid)


def stay_until_killed(start: Callable[[], int]) -> None:
    """Say who stays beside the workers, and who the workers are."""
    with Executor("process", 2, method) as executor:
        assert sorted(executor.map(abs, range(100), chunksize=1)) == list(range(100))
        print(start(), *workers(executor), flush=True)
        executor.submit(time.sleep, 1000).result()


if __name__ == "__main__":
    method, way, file = sys.argv[1:]
    me = os.getpid()
    try:
        globals()[way]()
    except EndOfChild:
        assert os.getpid() != me
    else:
        print("right")
