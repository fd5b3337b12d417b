"""Executors where 0, 1, 2, ... descriptors are left, until it is enough: without_descriptors.py METHOD.

After each try, with descriptors again, an executor must work at once.
"""

from __future__ import annotations

import os
import resource
import sys
from itertools import count

from parallelkit import Executor, InitializerFailed

method = sys.argv[1]


def use() -> None:
    with Executor("process", 2, method) as executor:
        assert list(executor.map(abs, range(-4, 0))) == [4, 3, 2, 1]


def is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


def limit_that_leaves(spare: int) -> int:
    limit = 0
    while spare or is_open(limit):
        spare -= not is_open(limit)
        limit += 1
    return limit


use()  # what is imported on first use is there from now on
soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
for spare in count():
    limit = limit_that_leaves(spare)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
        use()
    except (OSError, InitializerFailed) as error:
        if "Too many open files" not in str(error):
            raise
    else:
        break
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    use()
assert spare > 4
