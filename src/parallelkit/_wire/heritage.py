"""What a forked worker has from its parent: the main module as it was at the fork.

Functions and classes of it can then go by name, as multiprocessing sends them, and a large global that they
use does not travel. What was defined or changed later goes by value, as all of it does without a fork.
"""

from __future__ import annotations

import io
import pickle
import sys
from multiprocessing.reduction import ForkingPickler
from typing import Any

__all__ = ["Heritage"]

_MAIN_NAMES = ("__main__", "__mp_main__")


class Heritage:
    """The globals of `__main__` that have names of their own, as they are when this is made."""

    def __init__(self) -> None:
        self._globals = {
            name: value
            for name, value in vars(sys.modules["__main__"]).items()
            if _name_of(value) is not None
        }

    def dumps(self, obj: object, buffers: Any = None) -> bytes | None:
        """The plain pickle of `obj`; None where it fails, or mentions what was not inherited as it is."""
        file = io.BytesIO()
        try:
            _Pickler(file, self._globals, buffers).dump(obj)
        except Exception:
            if buffers is not None:
                buffers.undo()
            self._forget_what_changed()
            return None
        return file.getvalue()

    def _forget_what_changed(self) -> None:
        """Something goes by value, and may take along what has changed: that is no heritage any more."""
        now = vars(sys.modules["__main__"])
        for name, value in list(self._globals.items()):
            if now.get(name) is not value:
                self._globals.pop(name, None)


class _Pickler(ForkingPickler):
    def __init__(self, file: io.BytesIO, inherited: dict[str, object], buffers: Any):
        super().__init__(file, 5, True, buffers)
        self._inherited = inherited

    def reducer_override(self, obj: Any) -> Any:
        name = _name_of(obj)
        if name is not None:
            first = name.partition(".")[0]
            there = self._inherited.get(first)
            if there is None or vars(sys.modules["__main__"]).get(first) is not there:
                raise pickle.PicklingError(f"{name} was not inherited")
        return NotImplemented


def _name_of(obj: object) -> str | None:
    """The name by which a pickle mentions this function or class of `__main__`; None for all else."""
    if getattr(obj, "__module__", None) not in _MAIN_NAMES:
        return None
    name = getattr(obj, "__qualname__", None)
    return name if isinstance(name, str) else None
