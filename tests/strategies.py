"""What hypothesis draws from: inputs of every kind, and what may happen to them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from hypothesis import strategies as st


def as_generator(items: Iterable[Any]) -> Iterator[Any]:
    yield from items


KINDS: list[Callable[[Iterable[Any]], Iterable[Any]]] = [list, tuple, iter, as_generator]
"""Ways to hand over the same items: to be sliced, or only to be iterated over."""

kinds = st.sampled_from(KINDS)

lengths = st.one_of(st.integers(0, 10), st.integers(0, 300))

integers = st.lists(st.integers(-1000, 1000), max_size=100)

chunksizes = st.one_of(st.none(), st.integers(1, 150))

buffersizes = st.one_of(st.none(), st.integers(1, 40))

floats = st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=200)
