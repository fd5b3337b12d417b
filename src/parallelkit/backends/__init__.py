"""Backends by name. A backend is imported when it is first asked for.

A third party adds one as an entry point of the group `parallelkit.backends`, whose value is a subclass of
`parallelkit.backends.base.Backend`:

    [project.entry-points."parallelkit.backends"]
    mycluster = "mypackage.backend:MyBackend"
"""

from __future__ import annotations

import os
from importlib import import_module
from typing import Any

from .base import Backend

__all__ = ["ENTRY_POINTS", "Backend", "backend_names", "new_backend"]

ENTRY_POINTS = "parallelkit.backends"

_OURS = {
    "serial": ("serial", "SerialBackend"),
    "thread": ("thread", "ThreadBackend"),
    "process": ("process", "ProcessBackend"),
    "asyncio": ("asyncio", "AsyncioBackend"),
}


def backend_names() -> list[str]:
    """The names of all backends that can be had here: ours, and those that installed packages bring."""
    from importlib.metadata import entry_points  # slow; most programs use a backend of ours

    return [*_OURS, *sorted({entry.name for entry in entry_points(group=ENTRY_POINTS)} - set(_OURS))]


def new_backend(name: str, max_workers: int | None, options: dict[str, Any]) -> Backend:
    """A new backend.

    Args:
        max_workers: None for as many as suit the backend.
        options: what only some backends take; those that are None are left out.

    Raises:
        ValueError: there is no backend of that name.
        TypeError: this backend does not take one of the options.
    """
    kind = _find(name)
    given = {option: value for option, value in options.items() if value is not None}
    for option in given:
        if not _takes(kind, option):
            raise TypeError(
                f"the {name!r} backend takes no {option}; leave it out, or choose another backend"
            )
    backend: Backend = kind(kind.default_workers() if max_workers is None else max_workers, **given)
    return backend


def _takes(kind: type[Any], option: str) -> bool:
    """Whether the class can be made with this keyword."""
    if option in (getattr(kind.__init__, "__kwdefaults__", None) or ()):
        return True  # so it is with ours, and inspect takes 10 ms to import
    from inspect import signature

    parameters = signature(kind).parameters
    return option in parameters or any(p.kind is p.VAR_KEYWORD for p in parameters.values())


def _find(name: str) -> type[Any]:
    if not isinstance(name, str):
        raise TypeError(f"backend must be a name such as 'process' or 'thread', not {name!r}")
    if name == "process" and os.name == "nt":
        raise RuntimeError(
            "the backend 'process' needs pipes and record locks of POSIX, so it does not run on Windows yet; "
            "choose 'thread', 'asyncio' or 'serial'"
        )
    if name in _OURS:
        module, kind = _OURS[name]
        return getattr(import_module(f".{module}", __name__), kind)  # type: ignore[no-any-return]
    from importlib.metadata import entry_points

    for entry in entry_points(group=ENTRY_POINTS, name=name):
        return entry.load()  # type: ignore[no-any-return]
    known = ", ".join(repr(known) for known in backend_names())
    raise ValueError(f"there is no backend {name!r}; there are {known}")
