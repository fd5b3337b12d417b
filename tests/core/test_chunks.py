"""Chunks, slices that keep their type, and how a chunk in flight is shortened."""

from __future__ import annotations

import array
import itertools
import pickle
from collections import UserList, deque

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from parallelkit._core.chunks import (
    Chunk,
    Zipped,
    chunked,
    half,
    half_but_first,
    if_unstarted,
    leaving,
    sliceable,
    unstarted,
)


class TestChunk:
    def test_has_the_items_of_its_source(self):
        chunk = Chunk(range(100), 0, 20, 25)
        assert len(chunk) == 5
        assert chunk.items == range(20, 25)

    def test_finds_items_in_a_source_that_begins_in_the_middle_of_the_input(self):
        assert Chunk(["f", "g", "h"], base=5, start=6, stop=8).items == ["g", "h"]

    def test_a_part_shares_the_source(self):
        chunk = Chunk([10, 11, 12, 13], 0, 0, 4)
        part = chunk.between(1, 3)
        assert part.items == [11, 12]
        assert part.source is chunk.source

    def test_a_part_keeps_the_number_of_attempts_unless_told(self):
        chunk = Chunk(range(9), 0, 0, 9, attempts=1)
        assert chunk.between(2, 3).attempts == 1
        assert chunk.between(2, 3, 2).attempts == 2


@pytest.mark.parametrize(
    "source",
    [
        range(5, 55, 5),
        [1, 2, 3, 4],
        (1, 2, 3),
        "text",
        b"bytes",
        bytearray(b"abc"),
        array.array("d", [1, 2, 3]),
    ],
    ids=lambda source: type(source).__name__,
)
class TestTheTypeSurvives:
    def test_in_a_chunk(self, source):
        items = Chunk(source, 0, 1, 3).items
        assert type(items) is type(source)
        assert list(items) == list(source)[1:3]

    def test_in_chunked(self, source):
        pieces = list(chunked(source, 2))
        assert {type(piece) for piece in pieces} == {type(source)}
        assert list(itertools.chain(*pieces)) == list(source)

    def test_so_it_is_sliceable(self, source):
        assert sliceable(source)


def test_slices_of_an_array_are_views():
    matrix = np.arange(12).reshape(6, 2)
    assert sliceable(matrix)
    assert np.shares_memory(Chunk(matrix, 0, 2, 4).items, matrix)
    assert all(np.shares_memory(piece, matrix) for piece in chunked(matrix, 4))
    assert [piece.shape for piece in chunked(matrix, 4)] == [(4, 2), (2, 2)]


class IteratesOtherwise(list):
    def __iter__(self):
        return iter("abc")


class ReadsFiles(UserList):
    pass


@pytest.mark.parametrize(
    "source",
    [{1: 2}, {1, 2}, deque([1]), iter([1]), IteratesOtherwise([1, 2]), ReadsFiles([1]), np.array(3), None],
    ids=lambda source: type(source).__name__,
)
def test_what_is_not_known_to_slice_as_it_iterates_is_not_sliced(source):
    assert not sliceable(source)


def test_a_subclass_that_changes_nothing_is_sliced():
    assert sliceable(type("Names", (list,), {})(["a"]))


class TestZipped:
    def test_is_what_zip_gives(self):
        zipped = Zipped([range(3), "abcd"])
        assert len(zipped) == 3
        assert list(zipped) == [(0, "a"), (1, "b"), (2, "c")]
        assert zipped[1] == (1, "b")

    def test_slices_are_as_sliceable_as_the_columns(self):
        part = Zipped([range(10), list("abcdefghij")])[2:4]
        assert isinstance(part, Zipped)
        assert part.columns == (range(2, 4), ["c", "d"])

    def test_travels_as_its_columns(self):
        travelled = pickle.loads(pickle.dumps(Zipped([range(10**9), range(10**9)])[5:8]))
        assert list(travelled) == [(5, 5), (6, 6), (7, 7)]
        assert len(pickle.dumps(Zipped([range(10**9)]))) < 200


class TestChunked:
    @given(st.lists(st.integers(), max_size=40), st.integers(1, 50))
    def test_loses_nothing_and_fills_every_piece_but_the_last(self, items, size):
        for pieces in (list(chunked(items, size)), list(chunked(iter(items), size))):
            assert list(itertools.chain(*pieces)) == items
            assert all(len(piece) == size for piece in pieces[:-1])
            assert all(1 <= len(piece) <= size for piece in pieces[-1:])

    def test_takes_from_an_endless_input_only_what_it_gives(self):
        numbers = itertools.count()
        pieces = chunked(numbers, 3)
        assert [next(pieces), next(pieces)] == [[0, 1, 2], [3, 4, 5]]
        assert next(numbers) == 6

    @pytest.mark.parametrize("size", [0, -1])
    def test_refuses_an_empty_piece(self, size):
        with pytest.raises(ValueError, match="at least 1 item"):
            chunked([1], size)

    @pytest.mark.parametrize("size", [1.5, "2", True, None])
    def test_refuses_what_is_no_number_of_items(self, size):
        with pytest.raises(TypeError, match="whole number"):
            chunked([1], size)

    def test_refuses_what_has_no_items(self):
        with pytest.raises(TypeError):
            chunked(3, 2)


@given(st.integers(0, 50), st.integers(0, 50))
def test_cuts_never_take_what_was_started_and_always_come_to_an_end(started, rest):
    stop = started + rest
    assert unstarted(started, stop) == started
    for cut in (half, half_but_first, leaving(3)):
        keeps = stop
        while (shorter := cut(started, keeps)) < keeps:
            assert shorter >= started
            keeps = shorter
        first = {half: 0, half_but_first: 1}.get(cut, 3)
        assert keeps == (started or min(first, stop))


def test_half_gives_back_the_larger_half():
    assert [half(2, stop) for stop in (2, 3, 4, 5, 6)] == [2, 2, 3, 3, 4]


def test_half_but_first_leaves_an_item_that_is_about_to_start():
    assert [half_but_first(0, stop) for stop in (0, 1, 2, 3, 4)] == [0, 1, 1, 1, 2]
    assert half_but_first(1, 2) == 1


def test_if_unstarted_takes_all_or_nothing():
    assert [if_unstarted(started, 4) for started in (0, 1, 3, 4)] == [0, 4, 4, 4]
