"""Completion order -> input order."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from pieces import cut_and_shuffled

from parallelkit._core.outcome import Outcomes
from parallelkit._core.reorder import Reorder


def outcomes(start, stop):
    return Outcomes(start, stop, list(range(start, stop)))


def stretches(ready):
    return [(some.start, some.stop) for some in ready]


def test_lets_go_at_once_what_is_in_turn():
    reorder = Reorder()
    assert stretches(reorder.add(outcomes(0, 3))) == [(0, 3)]
    assert stretches(reorder.add(outcomes(3, 4))) == [(3, 4)]


def test_holds_what_came_early():
    reorder = Reorder()
    assert reorder.add(outcomes(5, 9)) == []
    assert reorder.add(outcomes(2, 5)) == []
    assert stretches(reorder.add(outcomes(0, 2))) == [(0, 2), (2, 5), (5, 9)]


def test_a_hole_holds_only_what_is_behind_it():
    reorder = Reorder()
    reorder.add(outcomes(4, 5))
    assert stretches(reorder.add(outcomes(0, 3))) == [(0, 3)]
    assert stretches(reorder.add(outcomes(3, 4))) == [(3, 4), (4, 5)]


@given(st.data())
def test_any_pieces_in_any_order_come_out_in_order_and_as_early_as_can_be(data):
    length = data.draw(st.integers(1, 40))
    reorder = Reorder()
    come: set[int] = set()
    out: list[int] = []
    for start, stop in data.draw(cut_and_shuffled(length)):
        piece = outcomes(start, stop)
        come.update(piece.values)
        for ready in reorder.add(piece):
            out += ready.values
        in_turn = next(i for i in range(length + 1) if i not in come)
        assert out == list(range(in_turn))
    assert out == list(range(length))
