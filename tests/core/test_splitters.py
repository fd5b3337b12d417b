"""How many items the next chunk takes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parallelkit._core.splitters import CHUNK_SECONDS, EVENLY, GROWTH, LEAST_SECONDS, SHARES, Adaptive, Fixed


def test_fixed_is_what_the_caller_said_whatever_was_learned():
    splitter = Fixed(7)
    splitter.learn(7, 100.0)
    assert splitter.size(None, 4) == splitter.size(3, 4) == 7


def test_fixed_compares_chunks_by_their_items():
    assert Fixed(7).seconds(3) < Fixed(7).seconds(4)


class TestAdaptive:
    def test_begins_with_what_it_was_given(self):
        assert Adaptive(first=64).size(None, 4) == 64
        assert Adaptive().size(None, 4) == 1

    def test_aims_at_a_run_time(self):
        splitter = Adaptive(first=100, chunk_seconds=0.5)
        splitter.learn(100, 1.0)
        assert splitter.size(None, 4) == 50

    def test_items_longer_than_a_chunk_travel_alone(self):
        splitter = Adaptive(first=64)
        splitter.learn(1, 3600.0)
        assert splitter.size(None, 4) == splitter.size(1000, 4) == 1

    def test_grows_in_steps_however_cheap_the_first_items_were(self):
        splitter = Adaptive(first=1)
        sizes = []
        for _ in range(4):
            sizes.append(splitter.size(None, 1))
            splitter.learn(sizes[-1], 0.0)  # below what the clock resolves
        assert sizes == [1, GROWTH, GROWTH**2, GROWTH**3]

    def test_leaves_as_much_for_the_other_workers_as_it_takes(self):
        splitter = Adaptive(first=10**6)
        assert splitter.size(1000, 5) == 1000 // (SHARES * 5)
        assert splitter.size(1, 5) == 1

    def test_near_the_end_takes_no_less_than_is_worth_its_road(self):
        splitter = Adaptive(first=100)
        splitter.learn(10_000, 10_000 * LEAST_SECONDS / 500)
        assert splitter.size(1_500, 2) == pytest.approx(500, abs=1)
        assert splitter.size(500, 2) == 250, "unless another would have nothing"
        assert splitter.size(250, 2, running=250) == 250, "and it has as much already"
        assert splitter.size(10_000, 2) == 2_500

    def test_of_a_stream_takes_no_more_than_memory_has_room_for(self):
        splitter = Adaptive(first=64, most=1000)
        splitter.learn(10**6, 0.001)
        assert splitter.size(None, 4) == splitter.size(10**9, 4) == 250
        assert splitter.size(None, 2000) == 1

    def test_begins_with_less_where_the_end_is_not_known(self):
        assert Adaptive(first=64, blind=1).size(None, 2) == 1
        assert Adaptive(first=64, blind=1).size(1000, 2) == 64

    def test_takes_larger_shares_of_what_was_measured_where_tails_come_back(self):
        splitter = Adaptive(first=1000, shares=1)
        assert splitter.size(1000, 2) == 250
        splitter.learn(1000, 0.001)
        assert splitter.size(100_000, 2) == GROWTH * 1000
        assert splitter.size(10_000, 2, running=1000) == 5000

    def test_takes_even_shares_where_nothing_else_waits(self):
        assert Adaptive(first=1000, shares=EVENLY).size(300, 4, running=100) == 100

    def test_leaves_no_crumbs(self):
        splitter = Adaptive(first=100)
        splitter.learn(10_000, 10_000 * LEAST_SECONDS / 500)
        assert splitter.size(700, 1) == 700
        assert splitter.size(800, 2, running=2000) == 500

    def test_follows_costs_that_drift(self):
        splitter = Adaptive(first=100)
        for _ in range(20):
            splitter.learn(100, 0.001 * 100)
        for _ in range(20):
            splitter.learn(100, 0.002 * 100)
        assert splitter.size(None, 1) == pytest.approx(CHUNK_SECONDS / 0.002, abs=1)

    def test_one_measurement_does_not_count_for_all(self):
        splitter = Adaptive(first=100)
        splitter.learn(100, 0.001 * 100)
        splitter.learn(100, 0.003 * 100)
        assert splitter.seconds(1) == pytest.approx(0.002)

    def test_learns_nothing_from_no_items(self):
        splitter = Adaptive(first=3)
        splitter.learn(0, 5.0)
        assert splitter.size(None, 1) == 3

    def test_before_anything_is_known_more_items_take_longer(self):
        assert 0 < Adaptive().seconds(1) < Adaptive().seconds(2)

    @given(
        st.integers(1, 100),
        st.lists(st.tuples(st.integers(0, 10**6), st.floats(0, 1e6)), max_size=8),
        st.none() | st.integers(1, 10**9),
        st.integers(1, 5000),
    )
    def test_is_always_a_size_that_leaves_a_share(self, first, measured, remaining, workers):
        splitter = Adaptive(first)
        for items, seconds in measured:
            splitter.learn(items, seconds)
        size = splitter.size(remaining, workers)
        assert size >= 1
        assert splitter.seconds(size) > 0
        if remaining is not None:
            assert size <= max(1, -(-remaining // workers))
