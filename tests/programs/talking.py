"""What tests send to workers: functions that log and warn."""

from __future__ import annotations

import logging
import logging.config
import logging.handlers
import os
import signal
import threading
import warnings
from itertools import count
from typing import Any

from parallelkit import Executor

from . import faults

log = logging.getLogger("talking")
log.addHandler(logging.NullHandler())  # as libraries do

_count = count()

LARGE = 300_000
"""More than a pipe holds."""


class Custom(UserWarning):
    """Takes two arguments, and keeps one of them."""

    def __init__(self, text: str, code: int):
        super().__init__(text)
        self.code = code

    def __reduce__(self) -> tuple[Any, ...]:
        return Custom, (str(self), self.code)


class CannotLeave(DeprecationWarning):
    def __reduce__(self) -> Any:
        raise ArithmeticError("refuses to leave")


class CannotArrive(UserWarning):
    def __reduce__(self) -> tuple[Any, ...]:
        return faults.explode, ()


# ---------------------------------------------------------------- records


def say(item: Any) -> Any:
    log.warning("item %s", item)
    return item


def say_at(level: int, item: Any) -> Any:
    log.log(level, "item %s", item)
    return item


def say_as(name: str, level: int, item: Any) -> bool:
    """Log under a name that may be new here; whether that is enabled."""
    logger = logging.getLogger(name)
    logger.log(level, "item %s", item)
    return logger.isEnabledFor(level)


def say_three(item: Any) -> Any:
    for part in "abc":
        log.warning("%s%s", item, part, extra={"count": next(_count)})
    return item


def say_much(item: int) -> int:
    try:
        raise LookupError("no such thing")
    except LookupError:
        log.exception(
            "spam and %s",
            "eggs",
            stack_info=True,
            extra={
                "number": 42,
                "things": [1, {"two": 3}],
                "stuck": threading.Lock(),
                "broken": faults.BreaksOnArrival(),
                "leaves": faults.ExitsOnArrival(),
            },
        )
    return item


def say_with_names_of_ours(item: int) -> None:
    log.warning("mine", extra={"item": "my item", "worker": ["my", "worker"]})


def say_until(path: str) -> None:
    while not os.path.exists(path):
        log.warning("still here")


def say_and_die(death: str, size: int, item: int) -> int:
    """Item 3 says something and ends the worker."""
    if item == 3:
        log.warning("%s", "x" * size)
        faults.DEATHS[death][0]()
    return item


def say_and_die_at(place: int, item: int) -> int:
    log.warning("%s", item)
    if item == place:
        faults.die_by_signal()
    return item


def say_and_be_stuck_at(place: int, item: int) -> int:
    log.warning("%s", item)
    if item == place:
        signal.pause()
    return item


def say_and_die_in_beginning(runs: str) -> None:
    faults.note(runs, os.getpid())
    log.warning("about to die")
    os._exit(1)


def say_in_beginning(text: str) -> None:
    log.warning("%s", text)


def say_in_threads(threads: int, each: int, item: int) -> bytes:
    """Threads of this item log, records of all sizes, while it reports results that are large."""

    def talk(number: int) -> None:
        for n in range(each):
            log.warning("%s", f"{number} {n} " + "x" * (1 << (n % 15)))

    running = [threading.Thread(target=talk, args=(number,)) for number in range(threads)]
    for thread in running:
        thread.start()
    if item % 2:
        for thread in running:
            thread.join()
    return bytes(LARGE)


def wait_for_threads(item: object) -> None:
    for thread in threading.enumerate():
        if thread is not threading.current_thread() and not thread.daemon:
            thread.join()


def say_what_cannot_be_said(item: int) -> int:
    class Silent:
        def __str__(self) -> str:
            raise ArithmeticError("no words")

    log.warning("%s", Silent())
    return item


def say_in_a_child(item: int) -> int:
    """The child of this item logs and warns; the item waits for it to end."""
    child = os.fork()
    if not child:
        log.warning("from the child of %s", item)
        log.info("too low for stderr")
        warnings.warn("warned in the child", stacklevel=1)
        os._exit(0)
    os.waitpid(child, 0)
    log.warning("from the item %s", item)
    return item


def say_in_a_child_that_comes_back(item: int) -> int | None:
    """The child returns from this item, and would go on as a worker."""
    child = os.fork()
    log.warning("%s of item %s", "parent" if child else "child", item)
    if child:
        os.waitpid(child, 0)
    return item


def say_in_an_executor(method: str, item: int) -> list[int]:
    with Executor("process", 1, method) as executor:
        log.warning("outer %s", item)
        return list(executor.map(say, [10, 11]))


def warn_in_an_executor(method: str, kind: type[Warning], item: int) -> str:
    with Executor("process", 1, method) as executor:
        return type(executor.submit(warn_of, kind, "inner", item).exception()).__name__


def say_when_signalled(item: int) -> bytes:
    """A signal handler logs, over and over, in the middle of whatever is going on here."""
    signals = 0

    def interrupt(*_: object) -> None:
        nonlocal signals
        signals += 1
        log.warning("handler %s", "x" * 3000)
        signal.setitimer(signal.ITIMER_REAL, 0.0005)

    signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, 0.0005)
    try:
        for n in range(300):
            log.warning("main %s %s", n, "x" * (5000 if n % 3 else 10))
    finally:
        signal.signal(signal.SIGALRM, signal.SIG_IGN)
    log.warning("count %s", signals)
    return bytes(LARGE)


def say_until_interrupted(item: int) -> int:
    """Logs until a signal handler raises, wherever that finds it."""

    class Interrupted(BaseException):  # else `logging` itself may catch it
        pass

    def interrupt(*_: object) -> None:
        raise Interrupted

    signal.signal(signal.SIGALRM, interrupt)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.002 + item * 0.0001)
        while True:
            log.warning("%s", "x" * (20_000 if item % 2 else 100))
    except Interrupted:
        return item


# ---------------------------------------------------------------- levels, and handlers of a worker's own


def set_level(name: str, level: int) -> None:
    logging.getLogger(name).setLevel(level)


def level_of(name: str) -> int:
    return logging.getLogger(name).level


def configure(way: str, path: str) -> None:
    """An initializer that sets up logging in the worker itself."""
    if way == "basicConfig":
        logging.basicConfig(filename=path, level=logging.DEBUG, format="worker %(message)s")
    elif way == "addHandler":
        handler = logging.FileHandler(path)
        handler.setFormatter(logging.Formatter("worker %(message)s"))
        logging.getLogger().addHandler(handler)
        logging.getLogger().setLevel(logging.DEBUG)
    else:
        logging.config.dictConfig(
            {
                "version": 1,
                "disable_existing_loggers": False,
                "formatters": {"plain": {"format": "worker %(message)s"}},
                "handlers": {
                    "file": {"class": "logging.FileHandler", "filename": path, "formatter": "plain"}
                },
                "root": {"handlers": ["file"], "level": "DEBUG"},
            }
        )


def send_to(queue: Any) -> None:
    """An initializer, as in the cookbook of logging."""
    root = logging.getLogger()
    root.addHandler(logging.handlers.QueueHandler(queue))
    root.setLevel(logging.DEBUG)


def handlers_of(name: str) -> list[str]:
    return [type(handler).__name__ for handler in logging.getLogger(name).handlers]


# ---------------------------------------------------------------- warnings


def warn(item: int) -> int:
    warnings.warn("careful", stacklevel=1)
    return item


def warn_of(kind: type[Warning], text: str, item: int) -> int:
    warnings.warn(text, kind, stacklevel=1)
    return item


def warn_each(item: int) -> int:
    warnings.warn(f"careful with {item}", stacklevel=1)
    return item


def warn_custom(item: int) -> int:
    warnings.warn(Custom("spam", 40 + item), stacklevel=1)
    return item


def warn_loudly(item: int) -> int:
    """This function has filters of its own for a while."""
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn("loud", DeprecationWarning, stacklevel=1)
    return item


def warn_into_a_list(item: int) -> list[str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        warnings.warn("kept", stacklevel=1)
    return [str(warning.message) for warning in caught]


def filter_in_worker(action: Any) -> None:
    warnings.simplefilter(action)


def warn_and_die(item: int) -> int:
    if item == 3:
        warnings.warn("last words", stacklevel=1)
        faults.die_by_signal()
    return item
