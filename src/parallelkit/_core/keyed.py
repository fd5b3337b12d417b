"""Reduction by key: a value of the fold is a dictionary, and two of them are merged key by key."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

__all__ = ["KeyedCombine", "KeyedMap"]


class KeyedMap:
    """Makes of an item the dictionary of its pairs, values of the same key combined in their order."""

    def __init__(
        self, mapper: Callable[[Any], Iterable[tuple[Any, Any]]], combine: Callable[[Any, Any], Any]
    ):
        self._mapper = mapper
        self._combine = combine

    def __call__(self, item: Any) -> dict[Any, Any]:
        combine = self._combine
        combined: dict[Any, Any] = {}
        for key, value in self._mapper(item):
            combined[key] = combine(combined[key], value) if key in combined else value
        return combined


class KeyedCombine:
    """Merges the right dictionary into the left one, which is its own to change."""

    def __init__(self, combine: Callable[[Any, Any], Any]):
        self._combine = combine

    def __call__(self, left: dict[Any, Any], right: dict[Any, Any]) -> dict[Any, Any]:
        combine = self._combine
        for key, value in right.items():
            left[key] = combine(left[key], value) if key in left else value
        return left
