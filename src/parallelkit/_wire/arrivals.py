"""What the far side does with a shipment: see `by_value` for what is in one, and why.

Nothing here waits or locks: a lock could be held at the moment of a fork. Two threads
that take in the same shipment do the same work twice, with the same outcome.
"""

from __future__ import annotations

import builtins
import io
import pickle
import sys
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn

from cloudpickle import cloudpickle as _internals

from ..errors import SerializationError
from .pickling import is_parent

MAIN_NAMES = ("__main__", "__mp_main__")

# The owner of a plain global; the other owners are classes, by the id that cloudpickle tracks them under.
MAIN = ""

Fingerprint = tuple[int, int]


def main_namespace() -> dict[str, Any]:
    """The globals of this process's `__main__`."""
    return vars(sys.modules["__main__"])


class Stuck(str):
    """Instead of the pickle of a global: the reason why it could not be pickled."""

    __slots__ = ()

    @classmethod
    def of(cls, exc: Exception) -> Stuck:
        try:
            return cls(f"{type(exc).__name__}: {exc}")
        except Exception:
            return cls(type(exc).__name__)


# What this process got from its parent: the fingerprint of the code stream that set each name, and
# for data the fingerprint and the id of the object it became.
_code_received: dict[str, Fingerprint] = {}
_data_received: dict[tuple[str, str], tuple[Fingerprint, int]] = {}


def received_names() -> set[str]:
    """The globals of `__main__` that came from the parent."""
    return {*_code_received, *(name for owner, name in _data_received if owner == MAIN)}


def unpack(
    sender: int,
    names: tuple[str, ...],
    code: bytes,
    data: Mapping[tuple[str, str], bytes | Stuck],
    payload: bytes,
    buffers: Sequence[Any] = (),
    load: Callable[..., Any] = pickle.loads,
) -> Any:
    """Take a shipment in and give what it was made for; raises what unpickling raises."""
    if is_parent(sender):
        _refresh_code(names, code)
        _refresh_data(data)
    else:
        _add_code(names, code)
        _add_data(data)
    return load(payload, buffers=buffers)


def _fingerprint(pickled: bytes | Stuck) -> Fingerprint:
    # Not the bytes: that would keep a second copy of every large global. 64 keyed bits and the length
    # do not meet by accident.
    return len(pickled), hash(pickled)


def _refresh_code(names: tuple[str, ...], code: bytes) -> None:
    fingerprint = _fingerprint(code)
    if all(_code_received.get(name) == fingerprint for name in names):
        return
    for name, value in _load_code(len(names), code):
        main_namespace()[name] = value
        _code_received[name] = fingerprint
        _data_received.pop((MAIN, name), None)


def _refresh_data(data: Mapping[tuple[str, str], bytes | Stuck]) -> None:
    for key, pickled in data.items():
        fingerprint = _fingerprint(pickled)
        seen, installed = _data_received.get(key, (None, None))
        if seen == fingerprint:
            continue
        value = _rebuild(key, pickled)
        if isinstance(pickled, str) and _is_present(key) and id(_present(key)) != installed:
            continue  # forked with the process, or assigned here: better than what could not come
        _install(key, value)
        _data_received[key] = fingerprint, id(value)
        if key[0] == MAIN:
            _code_received.pop(key[1], None)


def _rebuild(key: tuple[str, str], pickled: bytes | Stuck) -> object:
    if isinstance(pickled, str):
        return Untravelled(_full_name(key), pickled)
    try:
        return pickle.loads(pickled)
    except Exception as exc:
        return Untravelled(_full_name(key), Stuck.of(exc))


def _add_code(names: tuple[str, ...], code: bytes) -> None:
    if all(name in main_namespace() for name in names):
        return
    for name, value in _load_code(len(names), code):
        main_namespace().setdefault(name, value)


def _add_data(data: Mapping[tuple[str, str], bytes | Stuck]) -> None:
    for key, pickled in data.items():
        if isinstance(pickled, bytes) and not _is_present(key):
            _install(key, pickle.loads(pickled))


def _load_code(count: int, code: bytes) -> Iterator[tuple[str, Any]]:
    unpickler = pickle.Unpickler(io.BytesIO(code))
    for _ in range(count):
        yield unpickler.load()


def _tracked_class(tracker: str) -> Any:
    return _internals._DYNAMIC_CLASS_TRACKER_BY_ID.get(tracker)


def _present(key: tuple[str, str]) -> Any:
    owner, name = key
    return main_namespace()[name] if owner == MAIN else vars(_tracked_class(owner))[name]


def _is_present(key: tuple[str, str]) -> bool:
    owner, name = key
    if owner == MAIN:
        return name in main_namespace()
    # A class that is not tracked here goes by its name, and is complete.
    cls = _tracked_class(owner)
    return cls is None or name in vars(cls)


def _full_name(key: tuple[str, str]) -> str:
    owner, name = key
    return name if owner == MAIN else f"{_tracked_class(owner).__qualname__}.{name}"


def _install(key: tuple[str, str], value: object) -> None:
    owner, name = key
    if owner == MAIN:
        main_namespace()[name] = value
    else:
        setattr(_tracked_class(owner), name, value)


def main_global(name: str) -> Any:
    try:
        return main_namespace()[name]
    except KeyError:
        raise SerializationError(
            f"{name!r} is not, or no longer, a global of __main__ in this process"
        ) from None


def main_class(name: str, tracker: str) -> Any:
    # By its id first: the name may have been given to another class since.
    known = _tracked_class(tracker)
    return main_global(name) if known is None else known


def fill_function(func: types.FunctionType, state: Any) -> None:
    _internals._function_setstate(func, state)
    # cloudpickle leaves the dict of the builtins here; in `__main__` it is the module.
    func.__globals__["__builtins__"] = builtins


# Classes that were made here and wait for their attributes.
_unfilled: set[type] = set()


def make_class(tracker: str, make: Callable[..., type], arguments: tuple[Any, ...]) -> type:
    known: type | None = _tracked_class(tracker)
    if known is not None:
        return known
    bases = next(part for part in arguments if isinstance(part, tuple))
    with _without_hooks(bases):
        made = make(*arguments)
    _unfilled.add(made)
    return made


@contextmanager
def _without_hooks(bases: tuple[Any, ...]) -> Iterator[None]:
    # The `__init_subclass__` of a class of `__main__` has run in the parent, and what it did travels;
    # the globals that it uses (a registry, as a rule) are not here yet.
    owners = {
        ancestor: ancestor.__dict__["__init_subclass__"]
        for base in types.resolve_bases(bases)
        for ancestor in getattr(base, "__mro__", ())
        if ancestor.__module__ in MAIN_NAMES and "__init_subclass__" in ancestor.__dict__
    }
    for owner in owners:
        del owner.__init_subclass__
    try:
        yield
    finally:
        for owner, hook in owners.items():
            owner.__init_subclass__ = hook


def fill_class(cls: type, state: Any) -> None:
    sender, setstate, attributes = state
    if cls in _unfilled or is_parent(sender):
        _unfilled.discard(cls)
        setstate(cls, attributes)


class Untravelled:
    """In the worker, in the place of a global that could not be pickled: any use of it says so."""

    def __init__(self, name: str, reason: str):
        self.__dict__.update(_name=name, _reason=reason)

    def __reduce__(self) -> NoReturn:
        self._complain()

    def __repr__(self) -> str:
        return f"<{self.__dict__['_name']}: could not travel to this worker>"

    def _complain(self, *args: object, **kwargs: object) -> NoReturn:
        name, reason = self.__dict__["_name"], self.__dict__["_reason"]
        raise SerializationError(
            f"{name!r}, a global of __main__, could not travel to this worker ({reason}). "
            f"Make it in the worker: assign it in an initializer, or inside the function."
        )


_OPERATIONS = """
    getattr setattr delattr call getitem setitem delitem contains iter next len bool enter exit hash int float
    index aenter aexit await aiter anext eq ne lt le gt ge add radd sub rsub mul rmul truediv rtruediv
    floordiv rfloordiv mod rmod pow rpow matmul rmatmul and rand or ror xor rxor neg pos abs invert
"""
for _operation in _OPERATIONS.split():
    setattr(Untravelled, f"__{_operation}__", Untravelled._complain)
