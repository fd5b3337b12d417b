"""How much the scheduler lets through, in which sizes, and how it comes to an end; stepped by hand."""

from __future__ import annotations

import math

from desk import Desk, rest, span

from parallelkit._core.scheduler import LOOKAHEAD, Ended
from parallelkit._core.splitters import Adaptive, Fixed


class TestTheWindow:
    def test_bounds_what_is_pulled_and_not_consumed(self):
        desk = Desk(window=5, splitter=Fixed(2))
        assert desk.scheduler.wanted == 5
        desk.pull(range(5))
        assert desk.scheduler.wanted == 0
        desk.settle(desk.hand_out())
        assert desk.scheduler.wanted == 0, "delivered is not consumed"
        desk.scheduler.consumed(2)
        assert desk.scheduler.wanted == 2

    def test_bounds_what_is_handed_out_of_an_input_that_was_there_whole(self):
        desk = Desk(range(100), Fixed(4), window=6)
        first, second = desk.hand_out(), desk.hand_out()
        assert (span(first), span(second)) == ((0, 4), (4, 6))
        desk.settle(first)
        assert desk.hand_out() is None
        desk.scheduler.consumed(1)
        assert span(desk.hand_out()) == (6, 7)

    def test_does_not_stop_what_came_back(self):
        desk = Desk(range(100), Fixed(4), window=4)
        desk.give_back(desk.hand_out(), 1)
        assert span(desk.hand_out()) == (1, 4)
        assert desk.hand_out() is None

    def test_is_not_wider_for_what_came_back(self):
        desk = Desk(range(100), Fixed(4), window=8)
        first, _ = desk.hand_out(), desk.hand_out()
        desk.give_back(first, 1)
        assert span(desk.hand_out()) == (1, 4)
        assert desk.hand_out() is None

    def test_does_not_stop_what_is_tried_again(self):
        desk = Desk(range(100), Fixed(4), window=4, retries=1)
        desk.settle(desk.hand_out(), failures={0: OSError()})
        assert span(desk.hand_out()) == (0, 1)

    def test_of_one_item_lets_one_through_at_a_time(self):
        desk = Desk(window=1, splitter=Fixed(4))
        for index in range(3):
            assert desk.scheduler.wanted == 1
            desk.pull([index])
            assert desk.settle(desk.hand_out()) == [(index, index + 1)]
            assert desk.scheduler.wanted == 0
            desk.scheduler.consumed(1)

    def test_is_a_few_chunks_for_each_worker_where_none_is_given(self):
        desk = Desk(splitter=Fixed(10), workers=3)
        assert desk.scheduler.wanted == LOOKAHEAD * 3 * 10
        desk.scheduler.workers = 4
        assert desk.scheduler.wanted == LOOKAHEAD * 4 * 10

    def test_is_not_smaller_than_what_is_read_ahead(self):
        desk = Desk(range(1000), splitter=Fixed(1), workers=1, least_window=100)
        handed_out = 0
        while desk.hand_out() is not None:
            handed_out += 1
        assert handed_out == 100

    def test_is_lifted_when_nobody_reads(self):
        desk = Desk(range(100), Fixed(4), window=4)
        desk.hand_out()
        assert desk.hand_out() is None
        desk.scheduler.lift_window()
        assert span(desk.hand_out()) == (4, 8)

    def test_an_endless_window_still_reads_only_a_few_chunks_ahead(self):
        desk = Desk(window=math.inf, splitter=Fixed(10), workers=2)
        assert desk.scheduler.wanted == LOOKAHEAD * 2 * 10
        desk.pull(range(desk.scheduler.wanted))
        assert desk.scheduler.wanted == 0

    def test_nothing_is_wanted_of_an_input_that_ended(self):
        assert Desk(range(3)).scheduler.wanted == 0

    def test_hungry_as_long_as_workers_may_run_dry(self):
        desk = Desk(splitter=Fixed(1), workers=2)
        assert desk.scheduler.hungry
        desk.pull("ab")
        assert not desk.scheduler.hungry
        desk.hand_out()
        assert desk.scheduler.hungry
        desk.tell(Ended())
        assert not desk.scheduler.hungry


class TestSizes:
    def test_near_the_end_chunks_shrink_to_one_item(self):
        desk = Desk(range(100), Adaptive(first=1000), workers=2)
        sizes = [stop - start for start, stop in rest(desk)]
        assert sizes[0] == 25
        assert sizes == sorted(sizes, reverse=True)
        assert sizes[-1] == 1

    def test_as_long_as_the_input_may_go_on_they_do_not(self):
        desk = Desk(splitter=Adaptive(first=10), workers=2)
        desk.pull(range(20))
        assert span(desk.hand_out()) == (0, 10)
        desk.tell(Ended())
        assert span(desk.hand_out()) == (10, 13)

    def test_what_chunks_cost_is_learned_from_their_reports(self):
        desk = Desk(range(10_000), Adaptive(first=10, chunk_seconds=1.0), workers=1, window=math.inf)
        flight = desk.hand_out()
        desk.settle(flight, 4, last=False, seconds=2.0)
        assert len(desk.hand_out().chunk) == 2

    def test_a_report_that_was_not_measured_teaches_nothing(self):
        desk = Desk(range(10_000), Adaptive(first=10), workers=1)
        desk.settle(desk.hand_out(), seconds=0.0)
        assert len(desk.hand_out().chunk) == 10


class TestAlignment:
    def test_chunks_end_where_leaves_of_a_fold_do(self):
        assert rest(Desk(range(1000), Fixed(300), align=256)) == [
            (0, 256),
            (256, 512),
            (512, 768),
            (768, 1000),
        ]

    def test_a_chunk_that_begins_inside_a_leaf_ends_at_one_s_edge(self):
        desk = Desk(range(1000), Fixed(400), align=256)
        desk.give_back(desk.hand_out(), 100)
        assert span(desk.hand_out()) == (100, 256)
        assert span(desk.hand_out()) == (256, 512)

    def test_chunks_shorter_than_a_leaf_are_not_cut(self):
        assert rest(Desk(range(30), Fixed(10), align=256)) == [(0, 10), (10, 20), (20, 30)]


class TestStopping:
    def test_nothing_is_delivered_any_more(self):
        desk = Desk(range(8))
        first = desk.hand_out()
        second = desk.hand_out()
        assert set(desk.scheduler.stop()) == {first, second}
        assert desk.scheduler.done
        assert desk.settle(first) == desk.lose(second, claimed=8) == []

    def test_nothing_is_handed_out_pulled_or_asked_for_any_more(self):
        desk = Desk()
        desk.pull(range(8))
        desk.hand_out()
        desk.scheduler.stop()
        assert desk.hand_out() is None
        assert desk.scheduler.next_victim() is None
        assert desk.scheduler.wanted == 0
        assert not desk.scheduler.has_work
        desk.pull(range(8))
        assert desk.hand_out() is None

    def test_twice_is_once(self):
        desk = Desk(range(8))
        desk.hand_out()
        desk.scheduler.stop()
        assert desk.scheduler.stop() == []


class TestDroppingWhatIsPending:
    def test_what_is_in_flight_is_still_delivered(self):
        desk = Desk(range(12))
        flight = desk.hand_out()
        (dropped,) = desk.scheduler.drop_pending()
        assert dropped.items == range(4, 12)
        assert not desk.scheduler.done
        assert desk.hand_out() is None
        assert desk.settle(flight) == [(0, 4)]
        assert desk.scheduler.done

    def test_the_input_has_ended_with_it(self):
        desk = Desk()
        desk.pull(range(4))
        desk.scheduler.drop_pending()
        assert desk.scheduler.wanted == 0
        assert desk.scheduler.done

    def test_what_comes_back_from_a_flight_was_not_dropped(self):
        desk = Desk(range(12), ordered=False)
        flight = desk.hand_out()
        desk.scheduler.drop_pending()
        desk.give_back(flight, 2)
        assert rest(desk) == [(2, 4)]
        assert desk.settle(flight) == [(0, 2)]
        assert desk.scheduler.done
