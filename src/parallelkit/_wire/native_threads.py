"""Thread pools of libraries inside of workers: each worker gets its share of the cores.

A matrix product in NumPy uses as many threads as there are cores. In as many workers that would be the square
of it, and all of them slower than one.
"""

from __future__ import annotations

import os
import sys
from typing import Any

__all__ = ["limit_native_threads", "said_by_user"]

VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "BLIS_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "NUMBA_NUM_THREADS",
    "POLARS_MAX_THREADS",
)
"""What libraries read when they are loaded."""

_limits: Any = None  # held: the limits end with it


def said_by_user() -> dict[str, str]:
    """What the user has said in the environment of this process."""
    return {name: os.environ[name] for name in VARIABLES if name in os.environ}


def limit_native_threads(threads: int, given: dict[str, str]) -> None:
    """From now on, in this process, libraries use so many threads, unless the user has said how many.

    Args:
        given: what the user has said in the parent, before this worker was started. A fork server has the
            environment of the time when it was started itself.

    What is loaded already, in a forked worker, can be told by threadpoolctl alone, if that is installed.
    """
    global _limits
    for name in VARIABLES:
        os.environ[name] = given.get(name, str(threads))
    if not given and "numpy" in sys.modules:
        try:
            from threadpoolctl import threadpool_limits
        except ImportError:
            return
        _limits = threadpool_limits(threads)
