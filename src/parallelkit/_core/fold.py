"""The canonical reduction tree: a reduce is a function of its input.

Floating-point addition is not associative, so a sum that is split as the workers happen to be
free changes in its last bits from run to run. Here the order of all combinations is fixed by the
length of the input alone. Nothing of it depends on chunks, workers or timing:

    leaves     The input is cut into leaves at fixed places. Item number p lies in a leaf of
               `leaf_size(p)` items: 1 in the first 1,024, then doubling with each doubling of p,
               256 at the most. Items of a leaf are combined from left to right, as
               `functools.reduce` does, at its speed.
    nodes      Two neighbours of equal size join when the left one begins at a multiple of twice
               that size: the aligned binary tree above the leaves.
    the end    When the length is known, what has no partner is combined from left to right.

A worker folds the whole leaves and nodes that lie inside its chunk; the items of a leaf that the
chunk's edge cuts travel uncombined and are folded where all of them have come together. Leaves grow
with the position so that few costly items are combined in parallel and many cheap ones fast, and
so that the edges of a chunk stay a small part of the input. As no leaf depends on the length, an
iterator of unknown length folds to the same bits as a list of its items.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import reduce
from typing import Any, NamedTuple

__all__ = ["Fold", "Node", "fold_run", "leaf_size"]

Combine = Callable[[Any, Any], Any]

_LARGEST_LEAF_BITS = 8


class Node(NamedTuple):
    """The combined value of the items `start` to `stop`."""

    start: int
    stop: int
    value: Any


def leaf_size(position: int) -> int:
    """The number of items in the leaf that the item at `position` lies in: a power of two.

    >>> [leaf_size(p) for p in (0, 1023, 1024, 2048, 100_000, 10**9)]
    [1, 1, 2, 4, 128, 256]
    """
    return 1 << min(_LARGEST_LEAF_BITS, max(0, position.bit_length() - 10))


def fold_run(
    combine: Combine, start: int, items: Sequence[Any], mapped: Callable[[Any], Iterable[Any]]
) -> list[Node]:
    """Fold consecutive items that begin at `start` into as few nodes as the tree allows.

    Args:
        combine: associative, of two values.
        start: the position of the first item in the whole input.
        items: sliceable.
        mapped: gives the values of some items, lazily; `iter` where items are values.
    """
    nodes: list[Node] = []
    stop = start + len(items)
    position = start
    while position < stop:
        size = leaf_size(position)
        end = position + size
        if position % size or end > stop:  # a leaf that the edge cuts: its items travel as they are
            end = min(end - position % size, stop)
            values = mapped(items[position - start : end - start])
            nodes += [Node(i, i + 1, value) for i, value in enumerate(values, position)]
        else:
            _push(
                combine,
                nodes,
                Node(position, end, reduce(combine, mapped(items[position - start : end - start]))),
            )
        position = end
    return nodes


def join(combine: Combine, nodes: list[Node], more: Iterable[Node]) -> None:
    """Append the nodes that follow `nodes`, combining what the tree combines."""
    for node in more:
        if node.stop - node.start < leaf_size(node.start):
            _push_item(combine, nodes, node)
        else:
            _push(combine, nodes, node)


def _push(combine: Combine, nodes: list[Node], node: Node) -> None:
    start, stop, value = node
    while nodes:
        left = nodes[-1]
        size = stop - start
        if left.stop != start or start - left.start != size or left.start % (2 * size):
            break
        nodes.pop()
        start, value = left.start, combine(left.value, value)
    nodes.append(Node(start, stop, value))


def _push_item(combine: Combine, nodes: list[Node], item: Node) -> None:
    """Append one item of a larger leaf; with the last one the leaf becomes a node."""
    nodes.append(item)
    size = leaf_size(item.start)
    if item.stop % size:
        return
    leaf = nodes[-size:]
    if len(leaf) == size and leaf[0].start == item.stop - size:
        del nodes[-size:]
        _push(combine, nodes, Node(leaf[0].start, item.stop, reduce(combine, [node.value for node in leaf])))


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
        values: list[Any] = []
        tail: list[Any] = []  # the items of the last leaf, which the end of the input cut short
        for node in nodes:
            (tail if node.stop - node.start < leaf_size(node.start) else values).append(node.value)
        if tail:
            values.append(reduce(self._combine, tail))
        return reduce(self._combine, values)
