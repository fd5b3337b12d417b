"""The canonical reduction tree: a reduce is a function of its input.

Floating-point addition is not associative, so a sum that is split as the workers happen to be
free changes in its last bits from run to run. Here the order of all combinations is fixed by the
length of the input alone. Nothing of it depends on chunks, workers or timing:

    leaves     The input is cut into leaves at fixed places. Item number p lies in a leaf of
               `leaf_size(p)` items: 1 in the first 1,024, then doubling with each doubling of p,
               1,024 at the most. Items of a leaf are combined from left to right, as
               `functools.reduce` does, at its speed.
    nodes      Two neighbours of equal size join when the left one begins at a multiple of twice
               that size: the aligned binary tree above the leaves.
    the end    When the length is known, what has no partner is combined from left to right.

A worker folds the leaves and nodes that lie inside its chunk, and the front of a leaf whose rest lies
behind the chunk. The rest of a leaf whose front lies before the chunk travels as single items, which
are combined, from left to right again, where the front has come. Leaves grow
with the position so that few costly items are combined in parallel and many cheap ones fast, and
so that the edges of a chunk stay a small part of the input. As no leaf depends on the length, an
iterator of unknown length folds to the same bits as a list of its items.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import reduce
from itertools import islice
from typing import Any, NamedTuple

__all__ = ["BLOCK", "LARGEST_LEAF", "Fold", "Node", "fold_run", "join", "leaf_size"]

Combine = Callable[[Any, Any], Any]

LARGEST_LEAF = 1024  # benchmarks/constants.py
"""Items. A leaf costs 2.5 µs beside its items: with leaves of 256 that would be 10 ns an item."""

BLOCK = 16  # benchmarks/constants.py
"""Leaves that are combined level by level, not one by one: it takes a fifth of the time. So many values are
in memory at once. Sizes change at powers of two alone, so the leaves of a block are all equal."""

_STOPPED = "the function raised StopIteration"

_LARGEST_LEAF_BITS = LARGEST_LEAF.bit_length() - 1


class Node(NamedTuple):
    """The combined value of the items `start` to `stop`."""

    start: int
    stop: int
    value: Any


def leaf_size(position: int) -> int:
    """The number of items in the leaf that the item at `position` lies in: a power of two.

    >>> [leaf_size(p) for p in (0, 1023, 1024, 2048, 100_000, 10**9)]
    [1, 1, 2, 4, 128, 1024]
    """
    return 1 << min(_LARGEST_LEAF_BITS, max(0, position.bit_length() - 10))


def fold_run(combine: Combine, nodes: list[Node], start: int, stop: int, values: Iterator[Any]) -> None:
    """Fold the items `start` to `stop`, at least one, behind `nodes`, which end at `start` or are empty.

    Args:
        combine: associative, of two values.
        start, stop: positions in the whole input.
        values: gives the value of each item, lazily.

    Raises:
        RuntimeError: there are too few values.
    """
    position = start
    last = stop - 1
    while position < last:
        size = leaf_size(position)
        first = position - position % size
        end = min(first + size, last)
        if not position % (BLOCK * size) and position + BLOCK * size <= last:
            end = position + BLOCK * size
            _push(combine, nodes, position, end, _fold_block(combine, size, values))
        elif position == first:
            front = _next_of(values)
            _push(combine, nodes, first, end, reduce(combine, islice(values, end - first - 1), front))
        elif nodes and nodes[-1].start == first:
            front = nodes.pop().value
            _push(combine, nodes, first, end, reduce(combine, islice(values, end - position), front))
        else:  # the front of this leaf is elsewhere
            some = islice(values, end - position)
            nodes += map(Node, range(position, end), range(position + 1, end + 1), some)
        position = end
    # Of values that are too few, the last is missing: islice() goes on with those that are there.
    join(combine, nodes, [Node(last, stop, _next_of(values))])


def _fold_block(combine: Combine, size: int, values: Iterator[Any]) -> Any:
    """The node of the next `BLOCK` leaves of so many items."""
    if size == 1:
        nodes = list(islice(values, BLOCK))
        if len(nodes) < BLOCK:
            raise RuntimeError(_STOPPED)
    else:
        nodes = [reduce(combine, islice(values, size - 1), _next_of(values)) for _ in range(BLOCK)]
    while len(nodes) > 1:
        # Not map(), which would take a StopIteration of the user's for the end.
        nodes = [combine(left, right) for left, right in zip(nodes[::2], nodes[1::2], strict=True)]
    return nodes[0]


def _next_of(values: Iterator[Any]) -> Any:
    try:
        return next(values)
    except StopIteration:
        raise RuntimeError(_STOPPED) from None  # which map() takes for the end


def join(combine: Combine, nodes: list[Node], more: Iterable[Node]) -> None:
    """Append the nodes that follow `nodes`, combining what the tree combines."""
    for node in more:
        first = node.start - node.start % leaf_size(node.start)
        if node.start == first:
            _push(combine, nodes, *node)
        elif nodes and nodes[-1].start == first:
            _push(combine, nodes, first, node.stop, combine(nodes.pop().value, node.value))
        else:
            nodes.append(node)


def _push(combine: Combine, nodes: list[Node], start: int, stop: int, value: Any) -> None:
    """Append a node that begins where a leaf begins; a part of a leaf has no partner yet."""
    size = stop - start
    if size >= leaf_size(start):
        while nodes and start - nodes[-1].start == size and nodes[-1].start % (2 * size) == 0:
            start, _, left = nodes.pop()
            value = combine(left, value)
            size *= 2
    nodes.append(Node(start, stop, value))


class Fold:
    """Collects nodes in any order of arrival into the one value of the whole input.

    >>> fold = Fold(lambda a, b: f"({a}{b})")
    >>> fold.add([Node(2, 3, "c")])
    >>> fold.add([Node(0, 2, "(ab)")])
    >>> fold.result(3)
    '((ab)c)'
    """

    def __init__(self, combine: Combine) -> None:
        self._combine = combine
        self._runs: dict[int, list[Node]] = {}  # maximal stretches of known items, by first position
        self._ends: dict[int, int] = {}  # the same stretches: position behind the last -> first

    def add(self, nodes: list[Node]) -> None:
        """Take in consecutive nodes of items that are new."""
        if not nodes:
            return
        start, stop = nodes[0].start, nodes[-1].stop
        before = self._ends.pop(start, None)
        if before is not None:
            earlier = self._runs.pop(before)
            join(self._combine, earlier, nodes)
            start, nodes = before, earlier
        after = self._runs.pop(stop, None)
        if after is not None:
            stop = after[-1].stop
            join(self._combine, nodes, after)
        self._runs[start] = nodes
        self._ends[stop] = start

    def result(self, length: int) -> Any:
        """The value of all `length` items, at least 1, when all have come."""
        (nodes,) = self._runs.values()
        assert nodes[0].start == 0 and nodes[-1].stop == length, "some items have not come"
        return reduce(self._combine, [node.value for node in nodes])
