"""Loading a pickled list past the items that break.

The pure-Python unpickler of the standard library is run with its opcodes guarded:
what cannot be created becomes a placeholder, what breaks later is left half built,
and both are noted as broken. Then an item is lost if something broken can be
reached from it, which is found by pickling it: the pickler asks about every object.
"""

from __future__ import annotations

import functools
import io
import pickle
from collections.abc import Callable, Iterable
from typing import Any

from ..errors import SerializationError
from . import arrivals
from .by_value import ByValuePickler
from .pickling import as_exception


def salvage(data: bytes, buffers: Iterable[Any] = ()) -> tuple[list[object], dict[int, Exception]]:
    """What `pickling.salvage` promises."""
    broken = _BrokenObjects()
    try:
        items = _SalvagingUnpickler(data, broken, buffers).load()
    except BaseException as exc:
        raise SerializationError(f"a pickle from another process is damaged: {exc!r}") from exc
    if not isinstance(items, list):
        cause = broken.cause_within(items)
        raise SerializationError(f"a list from another process could not be rebuilt: {cause!r}") from cause
    causes = {offset: broken.cause_within(item) for offset, item in enumerate(items)}
    failures = {offset: cause for offset, cause in causes.items() if cause is not None}
    return [None if offset in failures else item for offset, item in enumerate(items)], failures


class _Placeholder:
    """In the place of an object that could not be created."""


class _BrokenObjects:
    """Which objects broke, and why."""

    def __init__(self) -> None:
        # By id, with the object itself, so that the id stays its own.
        self._causes: dict[int, tuple[object, Exception]] = {}

    def add(self, obj: object, exc: BaseException) -> None:
        self._causes.setdefault(id(obj), (obj, as_exception(exc)))

    def placeholder(self, exc: BaseException) -> _Placeholder:
        made = _Placeholder()
        self.add(made, exc)
        return made

    def cause_of(self, obj: object) -> Exception | None:
        found = self._causes.get(id(obj))
        return None if found is None else found[1]

    def cause_within(self, item: object) -> Exception | None:
        """Why the first broken object that can be reached from `item` broke; None if there is none."""
        finder = _Finder(self)
        try:
            finder.dump(item)
        except BaseException:
            # Other failures mean nothing: a healthy result need not be picklable any more.
            return finder.cause
        return None


class _Found(Exception):
    pass


class _Finder(ByValuePickler):
    """Pickles into nowhere, and stops at the first broken object."""

    def __init__(self, broken: _BrokenObjects):
        super().__init__(io.BytesIO(), arrivals.main_namespace(), defines_main=False)
        self._broken = broken
        self.cause: Exception | None = None

    def persistent_id(self, obj: object) -> None:
        self.cause = self._broken.cause_of(obj)
        if self.cause is not None:
            raise _Found


class _SalvagingUnpickler(pickle._Unpickler):
    # Attributes that typeshed leaves out.
    stack: list[Any]
    metastack: list[list[Any]]
    append: Callable[[Any], None]
    pop_mark: Callable[[], list[Any]]

    def __init__(self, data: bytes, broken: _BrokenObjects, buffers: Iterable[Any] = ()):
        super().__init__(io.BytesIO(data), buffers=buffers)
        self.broken = broken

    def find_class(self, module: str, name: str) -> Any:
        try:
            found = super().find_class(module, name)
        except BaseException as exc:
            return self.broken.placeholder(exc)
        if found is arrivals.unpack:
            return functools.partial(found, load=self._load_nested)
        return found

    def _load_nested(self, data: bytes, *, buffers: Iterable[Any] = ()) -> Any:
        return _SalvagingUnpickler(data, self.broken, buffers).load()

    def creating(self, opcode: Opcode, operands: int) -> None:
        """Run an opcode that takes a callable and its arguments off the stack, and puts an object there."""
        height = len(self.stack) - operands
        function, arguments, *keywords = self.stack[height:]
        parts = (function, *arguments, *(value for mapping in keywords for value in mapping.values()))
        placeholder = next((part for part in parts if isinstance(part, _Placeholder)), None)
        if placeholder is None:
            try:
                opcode(self)
                return
            except BaseException as exc:
                placeholder = self.broken.placeholder(exc)
        self.stack[height:] = [placeholder]

    def filling(self, opcode: Opcode, operands: int) -> None:
        """Run an opcode that takes operands off the stack, and puts them in the object below."""
        self._fill(opcode, self.stack, len(self.stack) - operands)

    def filling_from_mark(self, opcode: Opcode) -> None:
        """Like `filling`, with all values since the mark."""
        below = self.metastack[-1]
        self._fill(opcode, below, len(below))

    def _fill(self, opcode: Opcode, stack: list[Any], height: int) -> None:
        target = stack[height - 1]
        try:
            if isinstance(target, _Placeholder):
                raise TypeError("nothing to fill")
            opcode(self)
        except BaseException as exc:
            self.broken.add(target, exc)
            if self.stack is not stack:
                self.pop_mark()
            del stack[height:]

    def popping(self, opcode: Opcode) -> None:
        # A state setter is called for what it does to the object below it on the stack, and popped.
        if len(self.stack) > 1 and isinstance(self.stack[-1], _Placeholder):
            cause = self.broken.cause_of(self.stack[-1])
            if cause is not None:
                self.broken.add(self.stack[-2], cause)
        opcode(self)

    def freezing(self, opcode: Opcode) -> None:
        items = self.stack
        try:
            opcode(self)
        except BaseException as exc:
            if self.stack is items:
                self.pop_mark()
            self.append(self.broken.placeholder(exc))


Opcode = Callable[[_SalvagingUnpickler], None]


def _guarded_opcodes() -> dict[int, Any]:
    # The opcodes of protocol 5 that may run foreign code. OBJ, INST and DICT are of protocols 0 and 1.
    def guard(opcode: bytes, run: Callable[..., None], *operands: int) -> None:
        plain = opcodes[opcode[0]]
        opcodes[opcode[0]] = lambda unpickler: run(unpickler, plain, *operands)

    opcodes: dict[int, Any] = dict(pickle._Unpickler.dispatch)
    guard(pickle.REDUCE, _SalvagingUnpickler.creating, 2)
    guard(pickle.NEWOBJ, _SalvagingUnpickler.creating, 2)
    guard(pickle.NEWOBJ_EX, _SalvagingUnpickler.creating, 3)
    guard(pickle.BUILD, _SalvagingUnpickler.filling, 1)
    guard(pickle.APPEND, _SalvagingUnpickler.filling, 1)
    guard(pickle.SETITEM, _SalvagingUnpickler.filling, 2)
    guard(pickle.APPENDS, _SalvagingUnpickler.filling_from_mark)
    guard(pickle.SETITEMS, _SalvagingUnpickler.filling_from_mark)
    guard(pickle.ADDITEMS, _SalvagingUnpickler.filling_from_mark)
    guard(pickle.FROZENSET, _SalvagingUnpickler.freezing)
    guard(pickle.POP, _SalvagingUnpickler.popping)
    return opcodes


_SalvagingUnpickler.dispatch = _guarded_opcodes()
