"""Reduction by key."""

from __future__ import annotations

import operator
from collections import defaultdict
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pieces import cut_and_shuffled, folded, random_stretches

from parallelkit._core.keyed import KeyedCombine, KeyedMap

KEYS = "abcd"


def pairs_of(item):
    """What a user's mapper gives: some pairs, some of them of the same key."""
    yield KEYS[item % 3], f"({item}"
    if item % 4 == 0:
        yield "d", f"[{item}"
        yield KEYS[item % 3], f"{item})"


def serial(items, mapper, combine):
    """The specification: the values of a key, in the order of the input, combined from left to right."""
    values = defaultdict(list)
    for item in items:
        for key, value in mapper(item):
            values[key].append(value)
    combined = {}
    for key, (first, *rest) in values.items():
        for value in rest:
            first = combine(first, value)
        combined[key] = first
    return combined


def reduced(length, stretches, mapper, combine):
    """The value of a reduce by key whose chunks arrive as these stretches."""
    values = [KeyedMap(mapper, combine)(item) for item in range(length)]
    return folded(KeyedCombine(combine), values, stretches)


def test_the_pairs_of_one_item_are_combined_in_their_order():
    assert KeyedMap(lambda item: [("k", "a"), ("j", "b"), ("k", "c")], operator.add)(0) == {
        "k": "ac",
        "j": "b",
    }


def test_an_item_may_have_no_pairs():
    assert KeyedMap(lambda item: [], operator.add)(0) == {}
    assert KeyedCombine(operator.add)({"a": 1}, {}) == {"a": 1}


def test_the_left_dictionary_takes_in_the_right_one():
    left, right = {"a": "1", "b": "2"}, {"b": "3", "c": "4"}
    merged = KeyedCombine(operator.add)(left, right)
    assert merged is left
    assert merged == {"a": "1", "b": "23", "c": "4"}
    assert right == {"b": "3", "c": "4"}


def test_a_missing_key_is_not_a_value_of_none():
    seen = []
    combine = KeyedCombine(lambda a, b: seen.append((a, b)))
    assert combine({"a": None}, {"a": None, "b": None}) == {"a": None, "b": None}
    assert seen == [(None, None)]


@given(st.data(), st.integers(1, 60))
def test_any_chunks_in_any_order_give_what_a_serial_loop_gives(data, length):
    result = reduced(length, data.draw(cut_and_shuffled(length)), pairs_of, operator.add)
    expected = serial(range(length), pairs_of, operator.add)
    assert result == expected
    assert list(result) == list(expected), "the order of the keys is that of their first appearance"


@pytest.mark.parametrize("length", [1023, 1025, 4096, 9000])
def test_floats_have_the_same_bits_whatever_the_chunks(length):
    def mapper(item):
        return [(item % 2, 1 / (item + 1)), (2, 0.1 * item)]

    whole = reduced(length, [(0, length)], mapper, operator.add)
    bits = {key: value.hex() for key, value in whole.items()}
    random = Random(length)
    for _ in range(4):
        result = reduced(length, random_stretches(length, random), mapper, operator.add)
        assert {key: value.hex() for key, value in result.items()} == bits
    assert {key: value.hex() for key, value in serial(range(length), mapper, operator.add).items()} != bits
