"""All works, by number and by name."""

from __future__ import annotations

from dataclasses import replace
from importlib import import_module

from . import arrays, calls, many, programs, scale, waiting, whole
from .base import Work

WORKS: dict[str, Work] = {
    work.name: work
    for module in (calls, many, arrays, whole, waiting, programs, scale)
    for work in module.WORKS
}


def work_named(name: str) -> Work:
    """A work by its name or number, or one of your own, as "package.module:NAME".

    Raises:
        KeyError: there is none.
        TypeError: it is no `Work`, or has the number or name of another.
    """
    by_number = {str(work.number): work for work in WORKS.values()}
    if ":" in name:
        module, _, attribute = name.partition(":")
        work = getattr(import_module(module), attribute)
        if not isinstance(work, Work):
            raise TypeError(f"{name} is no benchmarks.works.base.Work")
        if work.number in {other.number for other in WORKS.values()} or work.name in WORKS:
            raise TypeError(f"{name} must have another number and name than {work.number} and {work.name!r}")
        return replace(work, spelled=name)
    return by_number[name] if name in by_number else WORKS[name]
