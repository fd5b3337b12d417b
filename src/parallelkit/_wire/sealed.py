"""Items that are pickled ahead of their chunk."""

from __future__ import annotations

from typing import Any

from .pickling import loads

__all__ = ["Sealed"]


class Sealed:
    """An object as it was when it was pickled; it travels as that."""

    __slots__ = ("_pickled",)

    def __init__(self, pickled: bytes):
        self._pickled = pickled

    def __reduce__(self) -> tuple[Any, ...]:
        return loads, (self._pickled,)

    def __repr__(self) -> str:
        return repr(loads(self._pickled))
