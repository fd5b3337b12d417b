"""The errors that parallelkit raises, as one tree.

    Exception
     ├─ ParallelError                   everything below is one of these
     │   ├─ WorkerDied                  a worker ended while it was running items
     │   ├─ InitializerFailed           the initializer raised, or workers die before they are ready
     │   ├─ TaskTimeout                 one item ran longer than task_timeout
     │   ├─ SerializationError          something could not travel to a worker or back
     │   └─ RemoteError                 stands in for an exception that could not be rebuilt here
     └─ RemoteTraceback                 the text of a worker's traceback, as the last cause of an error

Each is also what code written for the standard library expects to catch:
`WorkerDied` and `InitializerFailed` are `BrokenProcessPool` (so a
`BrokenExecutor`), `TaskTimeout` is a `TimeoutError`, `SerializationError` is a
`pickle.PicklingError`. A plain error of the user's own function keeps its type, its attributes
and notes, and what led to it; where it crossed a process border, its last `__cause__` is a
`RemoteTraceback`. What is no `Exception` (SystemExit, KeyboardInterrupt) is the `__cause__` of a
`RemoteError`, so that it cannot end the caller's program.
"""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from concurrent.futures.process import BrokenProcessPool

__all__ = [
    "InitializerFailed",
    "ParallelError",
    "RemoteError",
    "RemoteTraceback",
    "SerializationError",
    "TaskTimeout",
    "WorkerDied",
]


class ParallelError(Exception):
    """The base of every error that parallelkit itself raises about a call."""


class WorkerDied(ParallelError, BrokenProcessPool):
    """A worker ended while it was running items; only those items fail.

    Attributes:
        exitcode: the exit code of the process, negative for a signal (as in
            `multiprocessing.Process.exitcode`), None where it is not known.
        indices: the positions, in the input, of the items that were lost with
            the worker: the one it was running; several, where they are coroutines,
            take next to no time, or are combined in a reduction.
    """

    def __init__(self, message: str, exitcode: int | None = None, indices: Sequence[int] = ()):
        super().__init__(message, exitcode, indices)
        self.exitcode = exitcode
        self.indices = indices

    def __str__(self) -> str:
        return str(self.args[0])


class InitializerFailed(ParallelError, BrokenProcessPool):
    """No worker can start: the initializer raised (then it is the `__cause__`) or the start crashed."""


class TaskTimeout(ParallelError, TimeoutError):
    """One item ran longer than its `task_timeout` (seconds)."""


class SerializationError(ParallelError, pickle.PicklingError):
    """A function, an item, a result or an exception could not travel; the message says which and why.

    Attributes:
        part: what could not be pickled, where it is known: "function", "item" or "result".
        value, reason: of such a result, its `repr()`, and that of the exception that pickling it raised.
    """

    def __init__(
        self, message: str, *, part: str | None = None, value: str | None = None, reason: str | None = None
    ):
        super().__init__(message)
        self.part = part
        self.value = value
        self.reason = reason


class RemoteError(ParallelError):
    """Stands in for what was raised in a worker and could not be rebuilt here, or is no `Exception`.

    Attributes:
        type_name: the qualified name of the original class.
        message: `str()` of the original.
    """

    def __init__(self, type_name: str, message: str):
        super().__init__(type_name, message)
        self.type_name = type_name
        self.message = message

    def __str__(self) -> str:
        return f"{self.type_name}: {self.message}" if self.message else self.type_name


class RemoteTraceback(Exception):
    """The text of a traceback in a worker: the last of the causes of an error that came from there."""

    def __init__(self, text: str):
        super().__init__(text)
        self.text = text

    def __str__(self) -> str:
        return f"\n{self.text.rstrip()}"
