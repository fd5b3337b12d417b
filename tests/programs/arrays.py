"""What tests of large data have workers do, and how they see which memory is in use."""

from __future__ import annotations

import gc
import os
import signal
from typing import Any

import numpy as np
import pytest

from parallelkit import (
    Executor,
    Shared,
)
from parallelkit._wire.originals import LEAST_BYTES
from programs.watching import METHODS, wait_until

EACH_METHOD = [
    pytest.param(method, marks=() if method == "forkserver" else (pytest.mark.slow,)) for method in METHODS
]


WORKERS = 2


ITEMS = LEAST_BYTES // 8  # of an array of float64 that just goes through the arena


def backend_of(executor: Executor) -> Any:
    return executor._driver.backend


def in_use(executor: Executor) -> int:
    """How many blocks of all areas are in use."""
    arena = backend_of(executor)._packer.arena
    gc.collect()
    return sum(arena.tables[at] != 0 for area in range(arena.layout[0]) for at in arena.blocks(area))


def blocks_made(executor: Executor) -> int:
    arena = backend_of(executor)._packer.arena
    return sum(1 for area in range(WORKERS + 1) for _ in arena.blocks(area))


def all_come_back(executor: Executor) -> bool:
    """Whether all blocks become free; workers let go of what came last when something else comes."""

    def free() -> bool:
        for _ in range(WORKERS):
            executor.submit(abs, -1).result()
        return not in_use(executor)

    return wait_until(free)


def check_and_spoil(array: np.ndarray[Any, Any], number: int) -> np.ndarray[Any, Any]:
    """In a worker: it has what was sent, and may write to it; the result is another array."""
    assert (array == number).all()
    array[:] = -1
    return np.full_like(array, number + 1)


def is_writeable(array: np.ndarray[Any, Any]) -> bool:
    return array.flags.writeable


def fail_with(array: np.ndarray[Any, Any]) -> Any:
    raise ValueError(array.sum())


class CannotLeave:
    def __reduce__(self) -> Any:
        raise ArithmeticError("this does not leave")


class CannotArrive:
    def __reduce__(self) -> Any:
        return fail_with, (np.ones(ITEMS),)


def die_with(array: np.ndarray[Any, Any], number: int) -> np.ndarray[Any, Any]:
    if number == 5:
        os.kill(os.getpid(), signal.SIGKILL)
    return array + number


def look_up(table: np.ndarray[Any, Any], index: int) -> float:
    return float(table[index])


def look_up_shared(table: Shared[np.ndarray[Any, Any]], index: int) -> float:
    return float(table.value[index])


kept: list[Any] = []


def keep(*arguments: Any) -> None:
    kept[:] = arguments


def look_up_kept(index: int) -> float:
    table = kept[0].value if isinstance(kept[0], Shared) else kept[0]
    return float(table[index])
