"""A program that ends while its workers are busy: python ending.py METHOD WAY FILE.

The workers say in FILE which item they run, or in which process they stay for ever.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from itertools import count
from typing import Any, NoReturn

from parallelkit import Executor
from parallelkit.testing import Notes

LENGTH = 20


def stay(item: int) -> NoReturn:
    notes.add(os.getpid())
    while True:
        time.sleep(1000)


def work(item: int) -> int:
    time.sleep(0.01)
    notes.add(item)
    return item


def busy_for_ever() -> Executor:
    """An executor of two workers, of which none will ever be done."""
    executor = Executor("process", 2, method)
    kept.extend(executor.submit(stay, item) for item in range(6))
    kept.append(executor)
    notes.wait_for(2)
    return executor


def busy_for_a_while() -> Executor:
    executor = Executor("process", 2, method)
    kept.extend(executor.submit(work, item) for item in range(LENGTH))
    kept.append(executor)
    return executor


# ---------------------------------------------------------------- as it will, or as it must


def exit_in_with() -> None:
    with busy_for_ever():
        sys.exit(3)


def exit_in_with_and_map() -> None:
    with busy_for_ever() as executor:
        executor.map(stay, count())
        sys.exit(3)


def interrupt_in_with() -> None:
    with busy_for_ever():
        raise KeyboardInterrupt


def error_in_with() -> None:
    with busy_for_a_while():
        raise LookupError("no such thing")


def error_without_with() -> None:
    busy_for_a_while()
    raise LookupError("no such thing")


def exit_without_with() -> None:
    busy_for_a_while()
    sys.exit(3)


def exit_with_a_message() -> None:
    busy_for_a_while()
    sys.exit("that is all")


def exit_at_once() -> None:
    busy_for_ever()
    os._exit(5)


def abort() -> None:
    busy_for_ever()
    os.abort()


def terminate_itself() -> None:
    executor = busy_for_ever()
    os.kill(os.getpid(), signal.SIGTERM)
    list(executor.map(stay, range(4)))


def exit_in_a_handler() -> None:
    """As servers do: SIGTERM makes the main thread raise SystemExit, wherever it is."""
    signal.signal(signal.SIGTERM, lambda *arguments: sys.exit(4))
    with busy_for_ever() as executor:
        os.kill(os.getpid(), signal.SIGTERM)
        list(executor.map(stay, range(4)))


# ---------------------------------------------------------------- with Ctrl-C, once or twice


def say(word: str) -> None:
    print(word, flush=True)


def wait_in_result() -> None:
    """Until the first Ctrl-C."""
    try:
        say("waiting")
        kept[0].result()
    except KeyboardInterrupt:
        pass
    say("interrupted")


def caught_and_left() -> None:
    with busy_for_ever():
        wait_in_result()


def caught_and_shut_down() -> None:
    executor = busy_for_ever()
    wait_in_result()
    executor.shutdown()


def caught_and_at_an_end() -> None:
    busy_for_ever()
    wait_in_result()


def caught_and_waiting_again() -> None:
    busy_for_ever()
    wait_in_result()
    kept[1].result()


def caught_in_a_map() -> None:
    with busy_for_ever() as executor:
        try:
            say("waiting")
            list(executor.map(stay, range(4)))
        except KeyboardInterrupt:
            pass
        say("interrupted")
        list(executor.map(stay, count()))


def not_caught() -> None:
    with busy_for_ever():
        say("waiting")
        kept[0].result()


def caught_and_given_a_time() -> None:
    executor = busy_for_ever()
    wait_in_result()
    executor.shutdown(timeout=0.2)
    say(" ".join(sorted({type(future.exception()).__name__ for future in kept[:6]})))


method, way, file = sys.argv[1:]
notes = Notes(os.path.dirname(file), os.path.basename(file))
kept: list[Any] = []

if __name__ == "__main__":
    globals()[way]()
