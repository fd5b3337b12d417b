"""A parent whose two workers are busy for ever: python busy.py METHOD WORK.

It says "busy" once for each worker that is. (A line from each worker: its process id.)
"""

from __future__ import annotations

import os
import sys
import time

from parallelkit import Executor


def sleep(item: int) -> None:
    tell()
    time.sleep(1000)


def loop_in_python(item: int) -> None:
    tell()
    while True:
        item += 1


def compute_in_c(item: int) -> None:
    tell()
    sum(range(10**13))  # never lets go of the GIL, never looks for signals


def ignore_signals(item: int) -> None:
    import signal

    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE):
        signal.signal(number, signal.SIG_IGN)
    sleep(item)


def tell() -> None:
    os.write(1, f"{os.getpid()}\n".encode())


if __name__ == "__main__":
    method, work = sys.argv[1:]
    with Executor("process", 2, method) as executor:
        list(executor.map(globals()[work], range(2), chunksize=1))
