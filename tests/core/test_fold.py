"""The canonical reduction tree: the same bits, whatever the chunks and whenever they come."""

from __future__ import annotations

import operator
import struct
from functools import reduce
from itertools import chain, count
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pieces import cut, cut_and_shuffled, folded, nodes_of, random_stretches

from parallelkit._core.fold import Fold, Node, fold_run, leaf_size

# Where leaves begin to grow, and their neighbours; a length whose leaves are of many sizes.
LENGTHS = [1, 2, 3, 1023, 1024, 1025, 2047, 2048, 2049, 4096, 4097]
LONG = 70_000


def tree(a, b):
    """Writes down in which order things were combined."""
    return f"({a}{b})"


def product(a, b):
    """Of 2x2 matrices of integers, which stay small: associative, not commutative, exact."""
    (p, q), (r, s) = a
    (t, u), (v, w) = b
    modulus = 1_000_003
    return (
        ((p * t + q * v) % modulus, (p * u + q * w) % modulus),
        ((r * t + s * v) % modulus, (r * u + s * w) % modulus),
    )


def specified_tree(length, combine, values):
    """The tree as the module tells it: leaves, then neighbours joined until none are left."""
    level = []
    position = 0
    while position < length:
        size = leaf_size(position)
        items = values[position : position + size]
        level.append((position, size, reduce(combine, items)))
        position += size
    at = 0
    while at + 1 < len(level):
        (start, size, left), (_, next_size, right) = level[at : at + 2]
        whole = start + 2 * size <= length  # the leaf that the end cuts short has no partner
        if size == next_size and start % (2 * size) == 0 and whole:
            level[at : at + 2] = [(start, 2 * size, combine(left, right))]
            at = max(0, at - 1)  # what grew may have a partner on its left now
        else:
            at += 1
    return reduce(combine, [value for _, _, value in level])


def nodes_of_run(start, stop):
    """The nodes of a run whose items are their own positions, summed up."""
    nodes = []
    fold_run(operator.add, nodes, start, stop, iter(range(start, stop)))
    return nodes


class TestLeaves:
    def test_are_fixed_places_in_the_input(self):
        position = 0
        while position < 300_000:
            size = leaf_size(position)
            assert position % size == 0
            assert leaf_size(position + size - 1) == size, "a leaf is of one size"
            position += size

    def test_grow_with_the_position_up_to_1024(self):
        sizes = [leaf_size(1 << bits) for bits in range(30)]
        assert sizes == sorted(sizes)
        assert (sizes[0], sizes[-1]) == (1, 1024)

    @pytest.mark.parametrize("position", [0, 1024, 4096, 65_536])
    def test_a_whole_leaf_is_one_node(self, position):
        size = leaf_size(position)
        (node,) = nodes_of_run(position, position + size)
        assert node == Node(position, position + size, sum(range(position, position + size)))

    def test_items_of_a_leaf_whose_front_is_elsewhere_travel_alone(self):
        assert leaf_size(5000) == 8
        nodes = nodes_of_run(5003, 5013)
        assert [(node.start, node.stop) for node in nodes] == [
            *((p, p + 1) for p in range(5003, 5008)),
            (5008, 5013),  # the front of the next leaf is here
        ]

    def test_the_leaves_behind_it_are_whole(self):
        singles = 5  # up to 5008, where the next leaf begins
        assert len(nodes_of_run(5003, 5003 + singles + 8 * 64)) < singles + 12

    @given(st.integers(0, 5000), st.lists(st.integers(1, 300), min_size=1, max_size=20))
    def test_where_runs_end_makes_no_difference(self, start, sizes):
        nodes, stop = [], start
        for size in sizes:
            fold_run(operator.add, nodes, stop, stop + size, iter(range(stop, stop + size)))
            stop += size
        assert nodes == nodes_of_run(start, stop)

    def test_a_long_chunk_is_few_nodes(self):
        assert len(nodes_of(operator.add, range(LONG), (0, LONG))) < 300
        assert len(nodes_of(operator.add, range(LONG), (0, 65_536))) == 1


class TestTheTree:
    @pytest.mark.parametrize("length", [*range(1, 40), 1023, 1024, 1025, 1026, 1030])
    def test_is_the_one_that_is_written_down(self, length):
        values = [f"{i}," for i in range(length)]
        assert folded(tree, values, [(0, length)]) == specified_tree(length, tree, values)

    @pytest.mark.parametrize("length", [2047, 2050, 2051, 4099, 5001, 9007])
    def test_has_leaves_of_several_items_too_and_perhaps_a_part_of_one(self, length):
        values = [chr(97 + i % 26) for i in range(length)]
        assert folded(tree, values, [(0, length)]) == specified_tree(length, tree, values)

    @given(st.data(), st.integers(1, 60))
    def test_is_the_same_for_any_chunks_in_any_order(self, data, length):
        values = [chr(97 + i % 26) for i in range(length)]
        stretches = data.draw(cut_and_shuffled(length))
        assert folded(tree, values, stretches) == specified_tree(length, tree, values)

    @given(st.sampled_from(LENGTHS), st.integers(0, 2**32))
    def test_is_the_same_around_the_places_where_leaves_grow(self, length, seed):
        random = Random(seed)
        values = [chr(97 + i % 26) for i in range(length)]
        runs = random.sample(range(length), min(length, 40))
        assert folded(tree, values, random_stretches(length, random), runs) == folded(
            tree, values, [(0, length)]
        )

    def test_is_the_same_where_every_item_travels_alone_and_backwards(self):
        length = 2 * 2049
        values = [chr(97 + i % 26) for i in range(length)]
        alone = [(i, i + 1) for i in reversed(range(length))]
        assert folded(tree, values, alone) == folded(tree, values, [(0, length)])

    def test_grows_deep_only_as_a_logarithm(self):
        def deeper(a, b):
            return max(a, b) + 1

        # Above the leaves, which are folded as functools.reduce folds them, and before the end.
        assert folded(deeper, [0] * 1024, [(0, 1024)]) == 10
        assert folded(deeper, [0] * LONG, [(0, LONG)]) < 256 + 20


FLOATS = [Random(3).uniform(-1, 1) * 10.0 ** Random(i).randint(-12, 12) for i in range(LONG)]


class TestBits:
    """Floating-point addition is not associative, so equal bits mean an equal tree."""

    @pytest.mark.parametrize("length", [*LENGTHS, LONG])
    def test_of_a_sum_of_floats(self, length):
        values = FLOATS[:length]
        bits = struct.pack("d", folded(operator.add, values, [(0, length)]))
        random = Random(length)
        for _ in range(5):
            runs = random.sample(range(length), min(length, 100))
            result = folded(operator.add, values, random_stretches(length, random), runs)
            assert struct.pack("d", result) == bits

    def test_would_differ_for_another_tree(self):
        whole = folded(operator.add, FLOATS, [(0, LONG)])
        assert reduce(operator.add, FLOATS) != whole, "these floats prove nothing"

    @given(st.lists(st.floats(allow_nan=False, width=64), min_size=1, max_size=50), st.data())
    def test_of_any_floats(self, values, data):
        stretches = data.draw(cut_and_shuffled(len(values)))
        whole = folded(operator.add, values, [(0, len(values))])
        assert struct.pack("d", folded(operator.add, values, stretches)) == struct.pack("d", whole)

    @pytest.mark.parametrize("size", [1, 3, 64, 255, 256, 257, 4096])
    def test_of_chunks_of_a_given_size(self, size):
        length = 20_001
        whole = folded(operator.add, FLOATS[:length], [(0, length)])
        stretches = cut(length, range(size, length, size))
        for order in (stretches, stretches[::-1], stretches[::2] + stretches[1::2]):
            assert folded(operator.add, FLOATS[:length], order).hex() == whole.hex()


class TestAssociativeCombines:
    """What is exactly associative gives what functools.reduce gives."""

    @pytest.mark.parametrize("length", [*LENGTHS, LONG])
    @pytest.mark.parametrize(
        ("combine", "value"),
        [
            (operator.add, lambda i: i * i - 7),
            (max, lambda i: (i * 7919) % 104_729),
            (product, lambda i: ((i % 5, 1), (1, i % 3))),
        ],
        ids=["sum", "max", "matrices"],
    )
    def test_numbers(self, length, combine, value):
        values = [value(i) for i in range(length)]
        random = Random(length)
        expected = reduce(combine, values)
        for _ in range(2):
            assert folded(combine, values, random_stretches(length, random)) == expected

    @given(st.lists(st.text(max_size=3), min_size=1, max_size=50), st.data())
    def test_strings_keep_their_order(self, values, data):
        assert folded(operator.add, values, data.draw(cut_and_shuffled(len(values)))) == "".join(values)

    def test_a_combine_may_change_its_left_value(self):
        def extend(left, right):
            left += right
            return left

        values = [[i] for i in range(3000)]
        copies = [list(value) for value in values]
        assert folded(extend, copies, random_stretches(3000, Random(1))) == list(chain(*values))


class TestStreams:
    """Of an iterator nobody knows the length before it ends: the tree must not depend on it earlier."""

    @pytest.mark.parametrize("length", [*LENGTHS, 10_000])
    def test_an_input_that_ends_sooner_has_a_tree_of_its_own_length(self, length):
        fold = Fold(operator.add)
        numbers = count()
        position = 0
        for size in [*range(1, 200), *[97] * 1000]:  # pulled in pieces, folded as they come
            stop = min(length, position + size)
            items = [FLOATS[next(numbers)] for _ in range(position, stop)]
            nodes = []
            if items:
                fold_run(operator.add, nodes, position, stop, iter(items))
            fold.add(nodes)
            position = stop
        assert fold.result(length) == folded(operator.add, FLOATS[:length], [(0, length)])

    def test_what_is_held_stays_small(self):
        fold = Fold(operator.add)
        most = 0
        for start in range(0, LONG, 100):
            fold.add(nodes_of_run(start, start + 100))
            most = max(most, sum(len(nodes) for nodes in fold._runs.values()))
        assert most < 256 + 20, "a leaf that is not whole, and one node for each size"


class TestCollecting:
    def test_one_item(self):
        assert folded(operator.add, ["a"], [(0, 1)]) == "a"

    def test_no_nodes_are_nothing(self):
        fold = Fold(operator.add)
        fold.add([])
        fold.add([Node(0, 1, 5)])
        assert fold.result(1) == 5

    def test_nodes_are_combined_once_both_have_come(self):
        seen = []

        def combine(a, b):
            seen.append((a, b))
            return a + b

        fold = Fold(combine)
        fold.add([Node(1, 2, "b")])
        fold.add([Node(3, 4, "d")])
        assert seen == []
        fold.add([Node(0, 1, "a")])
        assert seen == [("a", "b")]
        fold.add([Node(2, 3, "c")])
        assert seen == [("a", "b"), ("c", "d"), ("ab", "cd")]

    @pytest.mark.parametrize("length", [1, 7, 1500, 5000])
    @pytest.mark.parametrize("missing", [1, 2])
    def test_too_few_values_are_noticed(self, length, missing):
        values = iter(range(max(0, length - missing)))
        with pytest.raises(RuntimeError, match="StopIteration"):
            fold_run(operator.add, [], 0, length, values)

    @pytest.mark.parametrize("length", [40, 1500, 5000])
    @pytest.mark.parametrize("at", [0, 5, 15, 16, 38])
    def test_a_function_that_raises_stop_iteration_is_noticed(self, length, at):
        def function(item):
            if item == at:
                raise StopIteration
            return item

        with pytest.raises(RuntimeError, match="StopIteration"):
            fold_run(operator.add, [], 0, length, map(function, range(length)))

    @pytest.mark.parametrize("at", [1, 8, 15, 20])
    def test_so_is_a_combine_that_does(self, at):
        def combine(left, right):
            if next(calls) == at:
                raise StopIteration
            return left + right

        calls = count()
        with pytest.raises(StopIteration):
            fold_run(combine, [], 0, 100, iter(range(100)))

    @pytest.mark.parametrize("missing", [0, 3, 9])
    def test_a_missing_item_is_noticed(self, missing):
        fold = Fold(operator.add)
        for i in range(10):
            if i != missing:
                fold.add([Node(i, i + 1, i)])
        with pytest.raises((AssertionError, ValueError)):
            fold.result(10)
