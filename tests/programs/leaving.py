"""A program that ends with work under way: python leaving.py METHOD WAY FILE.

What the work does goes to FILE.
"""

from __future__ import annotations

import os
import sys
import time
from itertools import count

from parallelkit import Executor, pimap, pmap

method, way, file = sys.argv[1:]


def note(item: object) -> object:
    time.sleep(0.001)  # so that the program is at its end before the work is
    with open(file, "a") as notes:
        notes.write(f"{item}\n")
    return item


def submitted_without_shutdown() -> None:
    executor = Executor("process", 2, method)
    for item in range(50):
        executor.submit(note, item)
    globals()["kept"] = executor


def shutdown_without_waiting() -> None:
    executor = Executor("process", 2, method)
    for item in range(50):
        executor.submit(note, item)
    executor.shutdown(wait=False)


def dropped() -> None:
    for first in range(0, 50, 10):
        executor = Executor("process", 2, method)
        for item in range(first, first + 10):
            executor.submit(note, item)


def submitted_by_a_callback() -> None:
    with Executor("process", 2, method) as executor:
        future = executor.submit(note, 0)
        future.add_done_callback(lambda done: [note(item) for item in range(1, 50)])


def map_of_a_list() -> None:
    with Executor("process", 2, method) as executor:
        executor.map(note, list(range(50)))


def map_of_a_generator() -> None:
    with Executor("process", 2, method) as executor:
        executor.map(note, (item for item in range(50)))


def map_kept_unread() -> None:
    with Executor("process", 2, method) as executor:
        globals()["kept"] = executor.map(note, (item for item in range(50)))


def map_unread_without_shutdown() -> None:
    executor = Executor("process", 2, method)
    globals()["kept"] = executor, executor.map(note, (item for item in range(50)))


def exit_in_pimap() -> None:
    for item in pimap(note, count(), max_workers=2):
        if item == 5:
            sys.exit()


def exit_in_map() -> None:
    with Executor("process", 2, method) as executor:
        for item in executor.map(note, count()):
            if item == 5:
                sys.exit()


def exit_in_map_without_shutdown() -> None:
    executor = Executor("process", 2, method)
    for item in executor.map(note, count()):
        if item == 5:
            sys.exit()


def error_in_pimap() -> None:
    results = pimap(note, count(), max_workers=2)
    next(results)
    globals()["kept"] = results  # still open when the interpreter goes down


def helper_used() -> None:
    pmap(note, range(50), max_workers=2)


def os_exit() -> None:
    pmap(note, range(50), max_workers=2)
    os._exit(0)


globals()[way]()
