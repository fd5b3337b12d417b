"""Not peers, but their rules for the size of chunks, on workers that are played: see `works/scale.py`.

Four equal chunks for each worker, as `Pool.map` makes them, and chunks of one, as `imap` and executors do.
"""

from __future__ import annotations

from typing import Any

from .base import Side


class Played(Side):
    """The core as it is."""

    family = "parallelkit"
    modules = ("numpy",)
    offers = frozenset({"played"})
    ours = True

    def open(self) -> None:
        pass

    def close(self) -> None:
        pass

    def rules(self, items: int, workers: int) -> dict[str, Any]:
        return {}


class FourChunks(Played):
    """`Pool.map`: four equal chunks for each worker, of which no rest is taken back."""

    family = "multiprocessing"
    ours = False

    def rules(self, items: int, workers: int) -> dict[str, Any]:
        from parallelkit._core.splitters import Fixed

        return {"splitter": Fixed(-(-items // (4 * workers))), "can_give_back": False}


class OneByOne(FourChunks):
    """`imap` and executors: chunks of one."""

    def rules(self, items: int, workers: int) -> dict[str, Any]:
        from parallelkit._core.splitters import Fixed

        return {"splitter": Fixed(1), "can_give_back": False}


SIDES: dict[str, type[Side]] = {
    "parallelkit's core, played": Played,
    "four chunks a worker, played": FourChunks,
    "chunks of one, played": OneByOne,
}
