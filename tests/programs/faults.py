"""What tests send to workers: functions that misbehave, things that cannot travel, and some that watch."""

from __future__ import annotations

import ctypes
import faulthandler
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NoReturn

from parallelkit import Executor, Pool, current_worker

if TYPE_CHECKING:
    from parallelkit.testing import Gate, Notes

# ---------------------------------------------------------------- deaths


def die_by_signal() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def die_by_exit() -> None:
    os._exit(3)


def die_by_segfault() -> None:
    faulthandler.disable()  # a forked worker has pytest's, which would fill the terminal
    ctypes.string_at(0)


def die_by_abort() -> None:
    faulthandler.disable()
    os.abort()


DEATHS: dict[str, tuple[Callable[[], None], int, str]] = {
    "SIGKILL": (die_by_signal, -signal.SIGKILL, "SIGKILL"),
    "exit code": (die_by_exit, 3, "exit code 3"),
    "segfault": (die_by_segfault, -signal.SIGSEGV, "SIGSEGV"),
    "abort": (die_by_abort, -signal.SIGABRT, "SIGABRT"),
}
"""How a worker dies, its exit code, and what the error must say of it."""


def double_or_die(die: Callable[[], None], place: int, runs: str, item: int) -> int:
    """Twice the item, but the one at `place` ends the worker; `runs` is a file that counts."""
    note(runs, item)
    if item == place:
        die()
    return 2 * item


def die_the_first_time(marker: str, item: int) -> int:
    """Item 7 ends the worker, unless it did so before."""
    if item == 7:
        try:
            os.close(os.open(marker, os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            return 2 * item
        os.kill(os.getpid(), signal.SIGKILL)
    return 2 * item


def die_and_leave_a_child(item: object) -> None:
    """End this worker, but not a child of its own that has all its files open."""
    child = os.fork()
    if not child:
        time.sleep(1000)
        os._exit(0)
    note(str(item), child)
    os.kill(os.getpid(), signal.SIGKILL)


# ---------------------------------------------------------------- what cannot travel


def explode(*args: object) -> NoReturn:
    raise ArithmeticError("exploded on arrival")


class BreaksOnLeaving:
    """Raises when it is pickled."""

    def __reduce__(self) -> NoReturn:
        raise ArithmeticError("refuses to leave")


class BreaksOnArrival:
    """Raises when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return explode, ()


class BreaksOnState:
    """Raises when it is given its state."""

    def __init__(self) -> None:
        self.full = True

    def __setstate__(self, state: object) -> NoReturn:
        explode()


class ExitsOnArrival:
    """Raises SystemExit when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return sys.exit, (5,)


class KillsOnArrival:
    """Ends the process in which it is unpickled."""

    def __init__(self, runs: str):
        self.runs = runs

    def __reduce__(self) -> tuple[Any, ...]:
        return note_and_die, (self.runs,)

    def __call__(self, item: int) -> int:
        return item


def note_and_die(runs: str) -> None:
    note(runs, os.getpid())
    die_by_signal()


class BrokenFunction:
    """A function that cannot be unpickled."""

    def __call__(self, item: int) -> int:
        return item

    def __reduce__(self) -> tuple[Any, ...]:
        return explode, ()


BROKEN = {kind.__name__: kind for kind in (BreaksOnLeaving, BreaksOnArrival, BreaksOnState, ExitsOnArrival)}


def same(item: Any) -> Any:
    return item


def make_broken(name: str | None) -> Any:
    """The thing of that name, made in the worker; None gives None."""
    return None if name is None else BROKEN[name]()


# ---------------------------------------------------------------- what is raised


class Coded(Exception):
    """Carries more than its arguments."""

    def __init__(self, message: str, code: int = 0):
        super().__init__(message)
        self.code = code


class NeedsTwo(Exception):
    """Cannot be made again from its `args`."""

    def __init__(self, first: str, second: str):
        super().__init__(f"{first} and {second}")


class CannotLeave(Exception):
    def __reduce__(self) -> NoReturn:
        raise ArithmeticError("refuses to leave")


class CannotArrive(Exception):
    def __reduce__(self) -> tuple[Any, ...]:
        return explode, ()


class CannotBeFilled(Exception):
    def __setstate__(self, state: object) -> NoReturn:  # type: ignore[override]
        explode()


class TurnsIntoText(Exception):
    """What is rebuilt of it is not an exception."""

    def __reduce__(self) -> tuple[Any, ...]:
        return str, ("no exception",)


RAISED: dict[str, Callable[[], BaseException]] = {
    "NeedsTwo": lambda: NeedsTwo("spam", "eggs"),
    "CannotLeave": lambda: CannotLeave("spam and eggs"),
    "CannotArrive": lambda: CannotArrive("spam and eggs"),
    "CannotBeFilled": lambda: _with(CannotBeFilled("spam and eggs"), full=True),
    "TurnsIntoText": lambda: TurnsIntoText("spam and eggs"),
    "Coded": lambda: Coded("spam", code=42),
    "KeyError": lambda: KeyError("spam"),
    "ExceptionGroup": lambda: ExceptionGroup("several", [ValueError("one"), Coded("two", code=2)]),
    "SystemExit": lambda: SystemExit(7),
    "KeyboardInterrupt": KeyboardInterrupt,
    "GeneratorExit": GeneratorExit,
}


def _with(error: Exception, **attributes: object) -> Exception:
    vars(error).update(attributes)
    return error


def raise_what_is_named(name: str | None) -> int:
    """Raise the error of that name, from a cause; give the process id where there is none."""
    if name is not None:
        error = RAISED[name]()
        error.add_note("noted by the function")
        raise error from LookupError("the cause of it")
    return os.getpid()


# ---------------------------------------------------------------- what a worker is given


_given: Any = None


def keep(*things: Any) -> None:
    """An initializer: functions below find these things here."""
    global _given
    _given = things


def kept_length() -> int:
    """Of the first thing."""
    return len(_given[0])


def wait_for_gate(item: int) -> int:
    """Wait until the first of the things, an event, is set."""
    _given[0].wait()
    return item


def wait_for_gate_at_one(item: int) -> int:
    return wait_for_gate(item) if item == 1 else item


def meet(item: int) -> tuple[int | None, int]:
    """Wait for as many others as the barrier wants; who was here: (worker, process id)."""
    _given[0].wait()
    return current_worker(), os.getpid()


def share(item: int) -> None:
    """Use a lock, a value, an array and a queue."""
    lock, value, array, queue = _given
    with lock:
        value.value += 1
    array[item] = item
    queue.put(item)


def fail_to_begin(runs: str) -> None:
    note(runs, os.getpid())
    raise LookupError("no such configuration")


def die_in_beginning(runs: str) -> None:
    note(runs, os.getpid())
    os._exit(1)


# ---------------------------------------------------------------- watching


def note(path: str, line: object) -> None:
    """Append a line; short ones from several processes do not mix."""
    with open(path, "a") as file:
        file.write(f"{line}\n")


def noted(path: str, item: Any) -> Any:
    note(path, item)
    return item


def stuck_at(place: int, runs: str, item: int) -> int:
    note(runs, item)
    if item == place:
        time.sleep(1000)
    return item


def sleep_at(item: int) -> int:
    """Item 1 does not end."""
    if item == 1:
        time.sleep(1000)
    return item


def note_and_wait(gate: Gate, notes: Notes, item: int) -> int:
    """Note that it has begun, and wait until the gate is open."""
    notes.add(item)
    gate.pass_through()
    return item


def who(item: object) -> tuple[int | None, int]:
    return current_worker(), os.getpid()


def process_id(item: object) -> int:
    return os.getpid()


# ---------------------------------------------------------------- processes of a task's own


def in_a_process(item: int) -> int | None:
    process = multiprocessing.get_context("spawn").Process(target=sys.exit, args=(item,))
    process.start()
    process.join()
    return process.exitcode


def in_a_pool(item: int) -> int:
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(same, (item,))


def in_an_executor(item: int) -> int:
    with Executor("process", 1) as executor:
        return executor.submit(same, item).result()


def in_a_program(item: int) -> int:
    return subprocess.run([sys.executable, "-c", f"raise SystemExit({item})"]).returncode


# ---------------------------------------------------------------- in pools


def count_up(item: int) -> int:
    """Add one to the counter that `keep` has kept."""
    (counter,) = _given
    with counter.get_lock():
        counter.value += 1
    return item


def hold(item: int) -> int:
    """Have the lock that `keep` has kept for a moment."""
    with _given[0]:
        time.sleep(0.05)
    return item


def send_and_return(connection: Any, item: object) -> None:
    connection.send(item)


def process_name(item: object) -> tuple[str, int]:
    """The name of this process, and its number among those that its parent has started."""
    process = multiprocessing.current_process()
    time.sleep(0.001)
    return process.name, process._identity[0]


def in_a_pool_of_ours(item: int) -> list[int]:
    with Pool(1) as pool:
        return pool.map(same, [item])
