"""The drivers of this process: disowned in a forked child, and found when the interpreter ends.

Another thread may fork at any moment. While it does, nobody may be in the middle of closing a descriptor: the
child would close its number once more, and by then that may be another one's.
"""

from __future__ import annotations

import os
import threading
import weakref
from typing import Protocol

__all__ = ["INHERITED", "closing_fds", "end_all", "is_over", "register"]

INHERITED = (
    "this Executor (or Pool) belongs to the parent process, from which this one was forked; "
    "make a new Executor here"
)
"""What is said of the use of a driver in a forked child."""


class Disownable(Protocol):
    """What belongs to the process that made it.

    Attributes:
        inherited: this process is another one.
    """

    inherited: bool

    def disown(self) -> None: ...


_all: weakref.WeakSet[Disownable] = weakref.WeakSet()
_over = False


def register(one: Disownable) -> None:
    _all.add(one)


def end_all() -> list[Disownable]:
    """The interpreter ends: no new calls are taken any more. Those of this process that are not gone."""
    global _over
    _over = True
    return [one for one in list(_all) if not one.inherited]


def is_over() -> bool:
    """Whether the interpreter ends."""
    return _over


closing_fds = threading.RLock()
"""Held while descriptors are closed that a forked child closes too, and while a fork is under way."""


def _before_fork() -> None:
    closing_fds.acquire()


def _after_fork() -> None:
    closing_fds.release()


def _disown_all() -> None:
    closing_fds.release()
    for one in list(_all):
        one.disown()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_disown_all)
