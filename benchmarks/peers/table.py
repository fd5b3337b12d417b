"""All sides by name: parallelkit, its peers in their forms, and what is no peer but a reference."""

from __future__ import annotations

from importlib import import_module

from . import clusters, executors, ours, played, pools, waiting
from .base import Side

SIDES: dict[str, type[Side]] = {
    **ours.SIDES,
    **pools.SIDES,
    **executors.SIDES,
    **clusters.SIDES,
    **waiting.SIDES,
    **played.SIDES,
}


def side_named(name: str) -> type[Side]:
    """A side of the table, or one of your own, as "package.module:Class".

    Raises:
        KeyError: there is none of that name.
        TypeError: it is no `Side`.
    """
    if name in SIDES or ":" not in name:
        return SIDES[name]
    module, _, attribute = name.partition(":")
    side = getattr(import_module(module), attribute)
    if not (isinstance(side, type) and issubclass(side, Side)):
        raise TypeError(f"{name} is no subclass of benchmarks.peers.base.Side")
    return side
