"""An input cut into consecutive pieces, and the pieces in some order: what workers make of it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise
from random import Random
from typing import Any

from hypothesis import strategies as st

from parallelkit._core.fold import Combine, Fold, Node, fold_run

Stretch = tuple[int, int]


def cut(length: int, places: Iterable[int]) -> list[Stretch]:
    """The stretches (first, behind the last) between the places."""
    return list(pairwise([0, *sorted(places), length]))


@st.composite
def cut_and_shuffled(draw: st.DrawFn, length: int) -> list[Stretch]:
    """Any stretches that make up `length` items, in any order."""
    places = draw(st.sets(st.integers(1, length - 1), max_size=30)) if length > 1 else set()
    return draw(st.permutations(cut(length, places)))


def random_stretches(length: int, random: Random) -> list[Stretch]:
    """Some dozen stretches, short and long ones, in any order."""
    places = random.sample(range(1, length), min(length - 1, random.randint(0, 25)))
    if places:
        places += [place + 1 for place in places[:5] if place + 1 < length]  # stretches of a single item
    stretches = cut(length, set(places))
    random.shuffle(stretches)
    return stretches


def nodes_of(
    combine: Combine, values: Sequence[Any], stretch: Stretch, runs: Iterable[int] = ()
) -> list[Node]:
    """What a worker reports of its chunk, after claiming it in runs that end at these places."""
    start, stop = stretch
    nodes: list[Node] = []
    for first, behind in pairwise([start, *sorted(p for p in runs if start < p < stop), stop]):
        fold_run(combine, nodes, first, behind, iter(values[first:behind]))
    return nodes


def folded(
    combine: Combine, values: Sequence[Any], stretches: Iterable[Stretch], runs: Iterable[int] = ()
) -> Any:
    """The value of a reduce whose chunks arrive as these stretches, each folded by a worker."""
    fold = Fold(combine)
    for stretch in stretches:
        fold.add(nodes_of(combine, values, stretch, runs))
    return fold.result(len(values))
