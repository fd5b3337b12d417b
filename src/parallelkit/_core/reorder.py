"""Completion order -> input order."""

from __future__ import annotations

from .outcome import Outcomes

__all__ = ["Reorder"]


class Reorder:
    """Holds outcomes that came early; lets them go when everything before them has come."""

    def __init__(self) -> None:
        self._next = 0
        self._early: dict[int, Outcomes] = {}

    def add(self, outcomes: Outcomes) -> list[Outcomes]:
        """Take in outcomes of items that are new; return those that are now in turn."""
        self._early[outcomes.start] = outcomes
        in_turn = []
        while (following := self._early.pop(self._next, None)) is not None:
            in_turn.append(following)
            self._next = following.stop
        return in_turn
