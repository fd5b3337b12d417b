"""How things cross from the parent to a worker process and back.

What can be imported on the far side goes by reference, with the plain pickle of the
standard library. What cannot (all of `__main__`, lambdas, closures, local classes)
goes by value: see `by_value`, which is imported on first need, as cloudpickle costs
40 ms.
"""

from __future__ import annotations

import itertools
import os
import pickle
import sys
from collections.abc import Callable, Iterable, Sequence, Set
from contextlib import suppress
from operator import is_not
from types import BuiltinFunctionType, FunctionType, ModuleType
from typing import Any, NamedTuple, Protocol

from ..errors import SerializationError
from .heritage import Heritage

__all__ = [
    "FunctionPickles",
    "dumps",
    "dumps_in_pieces",
    "follow",
    "has_handles",
    "is_immutable",
    "is_plain",
    "loads",
    "salvage",
    "unpicklable",
]


class Buffers(Protocol):
    """What takes buffers out of a pickle, as its `buffer_callback`."""

    def __call__(self, buffer: pickle.PickleBuffer, /) -> object:
        """Something true where the buffer stays in the pickle."""
        ...

    def undo(self) -> None:
        """What was pickled so far is pickled in another way."""
        ...


def dumps(
    obj: object,
    to_parent: bool = False,
    heritage: Heritage | None = None,
    buffers: Buffers | None = None,
) -> bytes:
    """Pickle `obj`, by reference where that is enough, else by value.

    `to_parent` is for a worker's answers: what the worker got from its parent's
    `__main__` is then only named. Without it the answer is as good, only longer.
    `heritage` is what both sides have of the parent's `__main__` since a fork.
    `buffers` takes large buffers out of it: `loads` needs them, in turn.

    Raises what the pickler raises, unchanged.
    """
    pickled = dumps_by_reference(obj, heritage, buffers)
    if pickled is not None:
        return pickled
    from .by_value import dumps_by_value

    return dumps_by_value(obj, to_parent, buffers)


def dumps_in_pieces(
    obj: object,
    to_parent: bool = False,
    heritage: Heritage | None = None,
    buffers: Buffers | None = None,
) -> list[bytes]:
    """What `dumps` gives, in pieces. The large ones are bytes of `obj` itself: they are not copied.

    For what is small, this takes twice as long.
    """
    pieces = _Pieces()
    with suppress(Exception):
        pickle.Pickler(pieces, 5, buffer_callback=buffers).dump(obj)
        if all(is_plain(bytes(piece[:_NAMED_BYTES])) for piece in pieces):
            return pieces
    if buffers is not None:
        buffers.undo()
    return [dumps(obj, to_parent, heritage, buffers)]


class _Pieces(list[bytes]):
    write = list.append


# A frame of the pickler ends with what makes it longer than 64 KiB: what is longer has no names behind that.
_NAMED_BYTES = 1 << 17

loads: Callable[..., Any] = pickle.loads
"""Give it `buffers=` where `dumps` had some."""


def follow(parent: int) -> None:
    """Say, in a worker, which process (its id) sends the work, where that is not `os.getppid()`.

    Only the parent's shipments refresh the worker's `__main__`.
    """
    global _followed
    _followed = parent


def is_parent(sender: int) -> bool:
    """Whether process `sender` is the one that sends the work."""
    return sender == (os.getppid() if _followed is None else _followed)


_followed: int | None = None


def dumps_by_reference(
    obj: object, heritage: Heritage | None = None, buffers: Buffers | None = None
) -> bytes | None:
    """The plain pickle of `obj`, None where it fails or something in it must travel by value."""
    try:
        pickled = pickle.dumps(obj, 5, buffer_callback=buffers)
    except Exception:
        pickled = None
    if pickled is not None and is_plain(pickled):
        return pickled
    if buffers is not None:
        buffers.undo()
    if pickled is not None:
        if _registered_by_value() and _mentions_registered(pickled):
            return None
        if _MAIN not in pickled:
            return _dumps_handles(obj)
    return None if heritage is None else heritage.dumps(obj, buffers)


# A mention of a global holds the name of its module, "__main__" or "__mp_main__". These bytes may be there by
# chance, which costs time and nothing else.
_MAIN = b"_main__"
# A plain pickle of a connection has the number of a descriptor, which is another one elsewhere.
_HANDLES = b"multiprocessing"


def is_plain(pickled: bytes) -> bool:
    """Whether what `pickle.dumps` made can be read in another process as it is."""
    if _MAIN in pickled or has_handles(pickled):
        return False
    return not (_registered_by_value() and _mentions_registered(pickled))


def has_handles(pickled: bytes) -> bool:
    """Whether there may be descriptors in what `pickle.dumps` made."""
    return _HANDLES in pickled


def _dumps_handles(obj: object) -> bytes:
    """As multiprocessing pickles, which sends descriptors along."""
    from multiprocessing.reduction import ForkingPickler

    return bytes(ForkingPickler.dumps(obj, 5))


def _mentions_registered(pickled: bytes) -> bool:
    return any(name.encode() in pickled for name in _registered_by_value())


def _registered_by_value() -> Set[str]:
    # Not cloudpickle's public call, which copies the set: this runs for every pickle. While another
    # thread is importing cloudpickle, the set may not be there yet.
    cloudpickle = sys.modules.get("cloudpickle.cloudpickle")
    if cloudpickle is None:
        return _NO_MODULES
    registered: Set[str] = getattr(cloudpickle, "_PICKLE_BY_VALUE_MODULES", _NO_MODULES)
    return registered


_NO_MODULES: Set[str] = frozenset()


def unpicklable(items: Sequence[object]) -> dict[int, Exception]:
    """The offsets of the items that cannot be pickled, each with what `dumps` raises for it."""
    failures: dict[int, Exception] = {}
    for offset, item in enumerate(items):
        try:
            dumps(item)
        except KeyboardInterrupt:
            raise
        except BaseException as exc:
            failures[offset] = as_exception(exc)
    return failures


def as_exception(exc: BaseException) -> Exception:
    if isinstance(exc, Exception):
        return exc
    wrapped = SerializationError(
        f"{type(exc).__name__} was raised while this was pickled or unpickled: {exc}"
    )
    wrapped.__cause__ = exc
    return wrapped


# ---------------------------------------------------------------- functions, pickled once


class FunctionPickles:
    """Pickles functions, each once as long as its pickled form is a true picture of it.

    A function that travels by reference is known by its identity. One that travels
    by value is kept only if everything that it can reach is either immutable or
    watched: its code, defaults, closure and the globals that it names, and theirs.
    All else (partials, bound methods, closures over lists, mutable globals) is pickled
    at every call, under a new key.

    Not safe for threads: the caller holds a lock. At most `keep` functions are held
    (strongly), the ones used last.
    """

    def __init__(self, keep: int = 256, heritage: Heritage | None = None):
        self._keep = keep
        self._heritage = heritage
        self._entries: dict[int, _Entry] = {}
        self._keys: set[int] = set()
        self._retired: list[int] = []
        self._registered: Set[str] = frozenset()

    def known(self, function: Callable[..., Any]) -> tuple[int, bytes] | None:
        """The key and the pickle of a function that is kept, if that is still a true picture of it."""
        if _registered_by_value() != self._registered:
            self._forget_all()
        entry = self._entries.pop(id(function), None)
        if entry is None:
            return None
        self._entries[id(function)] = entry  # the last that was used
        if entry.picture is None or entry.picture.is_true():
            return entry.key, entry.pickled
        return None

    def of(self, function: Callable[..., Any], buffers: Buffers | None = None) -> tuple[int, bytes]:
        """The key (unique in this process) and the pickle of `function`.

        Where `buffers` took something out of it, it is not kept.

        Raises what `dumps` raises.
        """
        if (known := self.known(function)) is not None:
            return known
        entry = self._entries.pop(id(function), None)
        pickled, picture = _pickle_watched(function, self._heritage, buffers)
        if entry is not None:
            if (
                entry.pickled == pickled and picture is not None
            ):  # changed and restored, or no change that counts
                self._entries[id(function)] = entry._replace(picture=picture)
                return entry.key, pickled
            self._retire(entry)
        key = next(_keys)
        if picture is not None or _is_reference(pickled):
            self._remember(_Entry(function, key, pickled, picture))
        return key, pickled

    def keeps(self, key: int) -> bool:
        """Whether `of` may give out `key` again; if not, it is its caller's to retire."""
        return key in self._keys

    def retired(self) -> list[int]:
        """The kept keys that were given up since this was last asked."""
        retired, self._retired = self._retired, []
        return retired

    def _remember(self, entry: _Entry) -> None:
        self._entries[id(entry.function)] = entry
        self._keys.add(entry.key)
        if len(self._entries) > self._keep:
            self._retire(self._entries.pop(next(iter(self._entries))))

    def _retire(self, entry: _Entry) -> None:
        self._keys.discard(entry.key)
        self._retired.append(entry.key)

    def _forget_all(self) -> None:
        self._registered = frozenset(_registered_by_value())
        for entry in self._entries.values():
            self._retire(entry)
        self._entries.clear()


_keys = itertools.count()


class _Entry(NamedTuple):
    function: Callable[..., Any]  # held, so that its id stays its own
    key: int
    pickled: bytes
    picture: _Picture | None  # None: by reference


class _Absent:
    """Stands for a global that is not there, in a snapshot."""


class _Snapshot:
    """One function as it was, to be compared by identity."""

    def __init__(self, function: FunctionType, names: Iterable[str]):
        """Raises ValueError if a cell of the closure is empty."""
        self.function = function
        self.code = function.__code__
        self.defaults = function.__defaults__
        self.keyword_defaults = list((function.__kwdefaults__ or {}).items())
        self.annotations = list(function.__annotations__.items())
        self.labels = _labels_of(function)
        self.cells = [(cell, cell.cell_contents) for cell in function.__closure__ or ()]
        namespace = function.__globals__
        self.globals = [(name, namespace.get(name, _Absent)) for name in names]

    def holds_still(self) -> bool:
        """Whether the function itself carries nothing that may change inside."""
        values = [*(self.defaults or ()), *(v for _, v in self.keyword_defaults), *(v for _, v in self.cells)]
        return not self.function.__dict__ and all(map(is_immutable, values))

    def is_true(self) -> bool:
        function = self.function
        if (
            function.__code__ is not self.code
            or function.__defaults__ is not self.defaults
            or function.__dict__
        ):
            return False
        if not _same(function.__kwdefaults__, self.keyword_defaults):
            return False
        if self.annotations and not _same(function.__annotations__, self.annotations):
            return False
        if any(map(is_not, _labels_of(function), self.labels)):
            return False
        for cell, value in self.cells:
            try:
                if cell.cell_contents is not value:
                    return False
            except ValueError:  # emptied
                return False
        namespace = function.__globals__
        return all(namespace.get(name, _Absent) is value for name, value in self.globals)


class _Picture(NamedTuple):
    snapshots: list[_Snapshot]
    modules: int  # a function travels with the submodules that it uses, once they are imported

    def is_true(self) -> bool:
        return len(sys.modules) == self.modules and all(snapshot.is_true() for snapshot in self.snapshots)


def _pickle_watched(
    function: Callable[..., Any], heritage: Heritage | None, buffers: Buffers | None
) -> tuple[bytes, _Picture | None]:
    pickled = dumps_by_reference(function, heritage, buffers)
    if pickled is not None:
        return pickled, None
    from .by_value import dumps_by_value

    # The picture is taken before and checked after: another thread may rebind a global meanwhile.
    picture = _picture_of(function) if isinstance(function, FunctionType) else None
    pickled = dumps_by_value(function, buffers=buffers)
    return pickled, picture if picture is not None and picture.is_true() else None


def _picture_of(function: FunctionType) -> _Picture | None:
    """A snapshot of each function by value that can be reached; None if something else may change unseen."""
    from cloudpickle.cloudpickle import _extract_code_globals

    picture = _Picture([], len(sys.modules))
    reached = [function]
    seen: set[FunctionType] = set()
    while reached:
        current = reached.pop()
        if current in seen:
            continue
        seen.add(current)
        try:
            snapshot = _Snapshot(current, ("__package__", *_extract_code_globals(current.__code__)))
        except ValueError:
            return None
        values = [value for _, value in snapshot.globals if not _is_still(value)]
        if not snapshot.holds_still() or not all(isinstance(value, FunctionType) for value in values):
            return None
        picture.snapshots.append(snapshot)
        reached += values
    return picture


def _labels_of(function: FunctionType) -> tuple[object, ...]:
    return function.__name__, function.__qualname__, function.__module__, function.__doc__


def _same(now: dict[str, Any] | None, then: list[tuple[str, Any]]) -> bool:
    if not now:
        return not then
    return len(now) == len(then) and all(
        name is old_name and value is old_value
        for (name, value), (old_name, old_value) in zip(now.items(), then, strict=True)
    )


_SCALARS = frozenset({int, float, str, bytes, bool, complex, type(None)})


def is_immutable(value: object) -> bool:
    return type(value) in _SCALARS or (type(value) is tuple and all(map(is_immutable, value)))


def _is_still(value: object) -> bool:
    """Whether the far side's copy of this global stays true for as long as the global is this object."""
    if value is _Absent or is_immutable(value):
        return True
    if isinstance(value, ModuleType):
        return sys.modules.get(value.__name__) is value and not _is_registered(value.__name__)
    if not isinstance(value, (FunctionType, BuiltinFunctionType, type)):
        return False
    pickled = dumps_by_reference(value)
    return pickled is not None and _is_reference(pickled)


def _is_registered(module: str) -> bool:
    return any(f"{module}.".startswith(f"{name}.") for name in _registered_by_value())


def _is_reference(pickled: bytes) -> bool:
    """Whether this pickle, of something callable, is no more than the mention of a global."""
    # No pickle of a callable by value ends in these bytes: its last step is a call or a state.
    return pickled.endswith(pickle.STACK_GLOBAL + pickle.MEMOIZE + pickle.STOP)


# ---------------------------------------------------------------- lists that load in part


def salvage(data: bytes, buffers: Iterable[Any] = ()) -> tuple[list[object], dict[int, Exception]]:
    """Load the pickle of a list some of whose items break on loading.

    Returns the list, with None for each broken item, and the exceptions by offset.
    Raises SerializationError if nothing can be saved: the stream itself is damaged.
    """
    from . import salvaging

    return salvaging.salvage(data, buffers)
