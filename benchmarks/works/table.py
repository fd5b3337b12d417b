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
    """
    by_number = {str(work.number): work for work in WORKS.values()}
    if ":" in name:
        module, _, attribute = name.partition(":")
        work: Work = getattr(import_module(module), attribute)
        return replace(work, spelled=name)
    return by_number[name] if name in by_number else WORKS[name]
