"""How exceptions cross from a worker to the parent, whatever their classes do."""

from __future__ import annotations

import traceback
from typing import NamedTuple

from ..errors import RemoteError, RemoteTraceback
from .pickling import dumps, loads

__all__ = ["Packed", "pack_exception", "unpack_exception"]

MOST_LINKS = 100
"""Exceptions of a chain that travel; tracebacks show as many."""


class Packed(NamedTuple):
    """An exception: its type and message, its pickle if there is one, and what led to it.

    Attributes:
        parts: those of a group.
        quiet: the context is not shown.
        text: the traceback of the whole; only the first exception has one.
    """

    type_name: str
    message: str
    pickled: bytes | None
    cause: Packed | None = None
    context: Packed | None = None
    parts: tuple[Packed | None, ...] = ()
    quiet: bool = False
    text: str = ""


def pack_exception(exc: BaseException) -> Packed:
    """Any exception, whatever its class does, with its traceback and what led to it."""
    packed = _pack(exc, [])
    assert packed is not None
    text = _traceback_text(exc) or f"{packed.type_name}: {packed.message}\n"
    return packed._replace(text=text)


def unpack_exception(packed: Packed) -> Exception:
    """What to raise here for an exception that was packed in a worker.

    The exception itself where it can be rebuilt, with its causes and contexts, else a RemoteError. For a
    SystemExit and the like, which would end more than one item here, a RemoteError whose `__cause__` is the
    original. At the end of the chain of causes is a RemoteTraceback.
    """
    error = _unpack(packed)
    if not isinstance(error, Exception):
        stand_in = RemoteError(packed.type_name, packed.message)
        stand_in.__cause__ = error
        error = stand_in
    last: BaseException = error
    while last.__cause__ is not None:
        last = last.__cause__
    _set(last, "__cause__", RemoteTraceback(packed.text))
    return error


def _pack(exc: BaseException | None, seen: list[BaseException]) -> Packed | None:
    if exc is None or exc in seen or len(seen) > MOST_LINKS:
        return None
    seen.append(exc)
    quiet = exc.__suppress_context__
    context = None if exc.__context__ is exc.__cause__ else exc.__context__
    return Packed(
        _type_name(exc),
        _message(exc),
        _pickled(exc),
        _pack(exc.__cause__, seen),
        _pack(context, seen),
        tuple([_pack(part, seen) for part in exc.exceptions]) if isinstance(exc, BaseExceptionGroup) else (),
        quiet,
    )


def _unpack(packed: Packed) -> BaseException:
    exc = None if packed.pickled is None else _load(packed.pickled)
    if exc is None:
        exc = RemoteError(packed.type_name, packed.message)
    _lead_to(exc, packed)
    return exc


def _lead_to(exc: BaseException, packed: Packed) -> None:
    """Give an exception that was rebuilt what led to it, and to the parts of it."""
    if isinstance(exc, BaseExceptionGroup) and len(exc.exceptions) == len(packed.parts):
        for part, packed_part in zip(exc.exceptions, packed.parts, strict=True):
            if packed_part is not None:
                _lead_to(part, packed_part)
    if packed.context is not None:
        _set(exc, "__context__", _unpack(packed.context))
    if packed.cause is not None:
        cause = _unpack(packed.cause)
        _set(exc, "__cause__", cause)
        if packed.context is None:
            _set(exc, "__context__", cause)
    _set(exc, "__suppress_context__", packed.quiet)


def _set(exc: BaseException, name: str, value: object) -> None:
    """Past the `__setattr__` of its class: an exception may be a frozen dataclass."""
    BaseException.__setattr__(exc, name, value)


def _type_name(exc: BaseException) -> str:
    cls = type(exc)
    try:
        name = cls.__qualname__ if cls.__module__ == "builtins" else f"{cls.__module__}.{cls.__qualname__}"
    except BaseException:
        name = type.__repr__(cls)
    return name


def _message(exc: BaseException) -> str:
    try:
        return "".join((str(exc),))  # joined: an instance of a subclass of str becomes a str
    except BaseException:
        return "<its message could not be made>"


def _traceback_text(exc: BaseException) -> str:
    try:
        return "".join(traceback.format_exception(exc))
    except BaseException:
        return ""


def _pickled(exc: BaseException) -> bytes | None:
    try:
        pickled = dumps(exc, to_parent=True)
    except BaseException:
        return None
    # A class whose __init__ takes other arguments than its `args` fails only on loading.
    return None if _load(pickled) is None else pickled


def _load(pickled: bytes) -> BaseException | None:
    try:
        loaded = loads(pickled)
    except BaseException:
        return None
    return loaded if isinstance(loaded, BaseException) else None
