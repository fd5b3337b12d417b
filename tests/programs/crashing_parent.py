"""Calls whose parent crashes, each in a child of this program: python crashing_parent.py METHOD.

A line for each cell: how the parent ended (as `Popen.returncode`), how many processes were left, and what
crashed how in which call.
"""

from __future__ import annotations

import os
import sys
from functools import partial
from operator import add
from pathlib import Path

import psutil

sys.path.insert(0, str(Path(__file__).parents[1]))

from parallelkit import Executor
from programs import crashes
from programs.watching import wait_until_gone

CALLS = ["submit", "map", "stream", "reduce"]
CELLS = [
    (place, way, call)
    for place in ("task pickle", "result unpickle")
    for way in crashes.ENDINGS
    for call in CALLS
]
SECONDS = 15
"""After so long a parent hangs, and ends by SIGALRM."""


def crash_in(call: str, place: str, way: str, method: str) -> None:
    function = partial(crashes.double, 7, place, way, os.devnull, None)
    items = crashes.items_with(7, place, way, None, 20)
    with Executor("process", 2, method) as executor:
        if call == "submit":
            futures = [executor.submit(function, item) for item in items]
            print([future.exception() for future in futures])
        elif call == "reduce":
            print(executor.reduce(add, items, map=function))
        else:
            print(list(executor.map(function, items if call == "map" else iter(items))))


def session_of(leader: int) -> list[psutil.Process]:
    def is_of_it(process: psutil.Process) -> bool:
        try:
            return os.getsid(process.pid) == leader
        except (ProcessLookupError, PermissionError):
            return False

    return [process for process in psutil.process_iter() if is_of_it(process)]


def main(method: str) -> None:
    for place, way, call in CELLS:
        sys.stdout.flush()
        child = os.fork()
        if not child:
            os.setsid()
            crashes.arm_alarm(SECONDS)
            crash_in(call, place, way, method)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        left = wait_until_gone(session_of(child))
        print(os.waitstatus_to_exitcode(status), len(left), place, way, call, sep=",")


if __name__ == "__main__":
    main(sys.argv[1])
