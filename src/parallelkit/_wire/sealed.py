"""Items that are pickled ahead of their chunk."""

from __future__ import annotations

from pickle import PickleBuffer
from typing import Any

from .heritage import Heritage
from .originals import LEAST_BYTES
from .pickling import dumps, loads

__all__ = ["Sealed"]


class Sealed:
    """An object as it was when this was made; it travels as that. Raises what pickling it raises."""

    __slots__ = ("_buffers", "_pickled")

    def __init__(self, obj: object, heritage: Heritage | None):
        self._buffers = _Copies()
        self._pickled = dumps(obj, False, heritage, self._buffers)

    def __reduce__(self) -> tuple[Any, ...]:
        if not self._buffers:
            return loads, (self._pickled,)
        return _load, (self._pickled, list(map(PickleBuffer, self._buffers)))

    def __repr__(self) -> str:
        return repr(loads(self._pickled, buffers=self._buffers))


class _Copies(list[bytearray]):
    """Copies of the large buffers of a pickle."""

    def __call__(self, buffer: PickleBuffer) -> bool:
        with memoryview(buffer) as memory:
            if memory.nbytes < LEAST_BYTES or not memory.contiguous:
                return True
            self.append(bytearray(buffer.raw()))
        return False

    def undo(self) -> None:
        self.clear()


def _load(pickled: bytes, buffers: list[Any]) -> Any:
    return loads(pickled, buffers=buffers)
