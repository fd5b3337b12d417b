"""The scheduler, stepped by hand: facts in, chunks and outcomes out."""

from __future__ import annotations

import math

import pytest
from desk import Desk, rest, span

from parallelkit._core.outcome import Outcomes
from parallelkit._core.scheduler import Ended, GivenBack, Lost, Rejected, Settled
from parallelkit._core.splitters import Adaptive, Fixed


class TestFromPullToDelivery:
    def test_one_chunk(self):
        desk = Desk()
        assert desk.pull(range(3)) == []
        flight = desk.hand_out()
        assert flight.chunk.items == range(3)
        assert desk.settle(flight) == [(0, 3)]
        assert not desk.scheduler.done
        desk.tell(Ended())
        assert desk.scheduler.done

    def test_chunks_of_the_size_that_the_splitter_says_follow_each_other(self):
        assert rest(Desk(range(10))) == [(0, 4), (4, 8), (8, 10)]

    def test_the_outcomes_are_handed_through_untouched(self):
        desk = Desk("abcd")
        (delivered,) = desk.scheduler.receive(
            Settled(desk.hand_out().chunk_id, outcomes := Outcomes(0, 4, [1, 2, 3, 4]), 0.0, True), 0.0
        )
        assert delivered is outcomes

    def test_each_pull_is_a_source_of_its_own(self):
        desk = Desk(splitter=Fixed(10))
        desk.pull("abc")
        desk.pull("de")
        assert [desk.hand_out().chunk.items, desk.hand_out().chunk.items] == ["abc", "de"]
        assert desk.scheduler.length == 5

    def test_nothing_is_handed_out_where_nothing_was_pulled(self):
        desk = Desk()
        assert desk.hand_out() is None
        desk.pull([])
        assert desk.hand_out() is None
        assert not desk.scheduler.has_work

    def test_an_empty_input_is_done_when_it_ends(self):
        desk = Desk()
        assert not desk.scheduler.done
        desk.tell(Ended())
        assert desk.scheduler.done

    def test_not_done_while_a_chunk_is_in_flight_or_pending(self):
        desk = Desk(range(8))
        first = desk.hand_out()
        desk.settle(first)
        assert not desk.scheduler.done
        second = desk.hand_out()
        assert not desk.scheduler.done
        desk.settle(second)
        assert desk.scheduler.done

    def test_flights_have_numbers_by_which_they_are_found(self):
        desk = Desk(range(8))
        first, second = desk.hand_out(), desk.hand_out()
        assert first.chunk_id != second.chunk_id
        assert desk.scheduler.flight(second.chunk_id) is second
        desk.settle(second)
        assert desk.scheduler.flight(second.chunk_id) is None


class TestOrder:
    def test_the_input_s_unless_told_otherwise(self):
        desk = Desk(range(8))
        first, second = desk.hand_out(), desk.hand_out()
        assert desk.settle(second) == []
        assert desk.settle(first) == [(0, 4), (4, 8)]

    def test_that_of_arrival_where_it_does_not_matter(self):
        desk = Desk(range(8), ordered=False)
        first, second = desk.hand_out(), desk.hand_out()
        assert desk.settle(second) == [(4, 8)]
        assert desk.settle(first) == [(0, 4)]

    def test_reports_before_the_last_are_delivered_at_once(self):
        desk = Desk(range(4))
        flight = desk.hand_out()
        assert desk.settle(flight, 1, last=False) == [(0, 1)]
        assert desk.settle(flight, 3, last=False) == [(1, 3)]
        assert desk.settle(flight) == [(3, 4)]
        assert desk.scheduler.done

    def test_an_empty_last_report_ends_the_chunk(self):
        desk = Desk(range(4))
        flight = desk.hand_out()
        desk.settle(flight, last=False)
        assert not desk.scheduler.done
        assert desk.settle(flight) == []
        assert desk.scheduler.done


class TestTakingBack:
    def test_what_came_back_is_handed_out_before_all_else(self):
        desk = Desk(range(100))
        flight = desk.hand_out()
        desk.give_back(flight, 1)
        assert span(desk.hand_out()) == (1, 4)
        assert span(desk.hand_out()) == (4, 8)
        assert desk.settle(flight) == [(0, 1)]

    def test_the_flight_ends_where_its_worker_says(self):
        desk = Desk(range(4))
        flight = desk.hand_out()
        desk.give_back(flight, 2)
        assert span(flight) == (0, 2)
        desk.settle(flight)
        assert not desk.scheduler.done
        assert rest(desk) == [(2, 4)]
        assert desk.scheduler.done

    def test_a_chunk_that_comes_back_whole_is_not_waited_for(self):
        desk = Desk(range(4))
        flight = desk.hand_out()
        desk.give_back(flight, 0)
        assert rest(desk) == [(0, 4)]
        assert desk.scheduler.done
        assert desk.settle(flight) == [], "its worker answers all the same, perhaps much later"

    def test_nor_is_one_of_which_all_that_is_left_has_settled(self):
        desk = Desk(range(4))
        flight = desk.hand_out()
        desk.settle(flight, 1, last=False)
        desk.give_back(flight, 1)
        assert rest(desk) == [(1, 4)]
        assert desk.scheduler.done

    def test_nothing_comes_back_from_a_chunk_that_says_where_it_ends_already(self):
        desk = Desk(range(4))
        flight = desk.hand_out()
        desk.give_back(flight, 4)
        assert span(flight) == (0, 4)
        assert not desk.scheduler.waiting

    def test_the_victim_is_the_flight_expected_to_end_last(self):
        desk = Desk(range(40), Adaptive(first=4, chunk_seconds=4.0), workers=1, window=math.inf)
        desk.settle(desk.hand_out("a"), seconds=4.0)  # a second an item
        long = desk.hand_out("a")
        queued = desk.hand_out("a")  # begins when the one before it ends
        desk.now = 3.5
        late = desk.hand_out("b")
        ends = [flight.expected_end for flight in (long, queued, late)]
        assert ends == [4.0, 8.0, 7.5]
        victims = [desk.scheduler.next_victim() for _ in range(3)]
        assert victims == [queued, late, long]

    def test_each_is_named_once_so_that_asking_comes_to_an_end(self):
        desk = Desk(range(12))
        flights = {desk.hand_out().chunk_id for _ in range(3)}
        assert {desk.scheduler.next_victim().chunk_id for _ in range(3)} == flights
        assert desk.scheduler.next_victim() is None

    def test_who_gave_is_asked_again(self):
        desk = Desk(range(4))
        flight = desk.hand_out()
        assert desk.scheduler.next_victim() is flight
        desk.give_back(flight, 2)
        assert desk.scheduler.next_victim() is flight
        assert desk.scheduler.next_victim() is None

    def test_who_gave_all_is_not(self):
        desk = Desk(range(4))
        flight = desk.hand_out()
        assert desk.scheduler.next_victim() is flight
        desk.give_back(flight, 0)
        assert desk.scheduler.next_victim() is None

    def test_who_has_ended_is_not_asked(self):
        desk = Desk(range(8))
        first, second = desk.hand_out(), desk.hand_out()
        desk.settle(second)
        assert desk.scheduler.next_victim() is first
        assert desk.scheduler.next_victim() is None

    def test_workers_that_cannot_give_back_are_not_asked(self):
        desk = Desk(range(8))
        desk.hand_out(can_give_back=False)
        assert desk.scheduler.next_victim() is None
        assert desk.scheduler.has_work, "more is pending"
        desk.hand_out(can_give_back=False)
        assert not desk.scheduler.has_work

    def test_what_is_kept_of_chunks_that_ended_is_bounded(self):
        desk = Desk(range(10_000), Fixed(1), ordered=False, window=math.inf)
        straggler = desk.hand_out()
        for _ in range(9_000):
            desk.settle(desk.hand_out())
        assert len(desk.scheduler._victims) < 200
        assert desk.scheduler.next_victim() is straggler


class TestHowMuchComesBack:
    """Of chunks of 100 items."""

    def desk(self):
        desk = Desk(range(400), Fixed(100), window=math.inf)
        return desk, desk.hand_out(waits=False), desk.hand_out()

    def test_of_one_that_runs_half(self):
        desk, running, _ = self.desk()
        cut = desk.scheduler.cut(running, alone=True)
        assert [cut(0, 100), cut(50, 100), cut(0, 1)] == [50, 75, 1]

    @pytest.mark.parametrize(("settled", "stays"), [(0, 0), (40, 20), (90, 45)])
    def test_of_one_that_waits_so_much_that_both_workers_have_the_same(self, settled, stays):
        desk, running, waiting = self.desk()
        desk.settle(running, settled, last=False)
        assert desk.scheduler.cut(waiting, alone=False)(0, 100) == stays

    def test_of_one_that_begins_while_it_is_asked_for_half(self):
        desk, _, waiting = self.desk()
        assert desk.scheduler.cut(waiting, alone=False)(10, 100) == 55

    def test_of_one_whose_turn_has_come_half(self):
        desk, running, waiting = self.desk()
        desk.settle(running)
        assert desk.scheduler.cut(waiting, alone=False)(0, 100) == 50

    def test_what_is_kept_of_workers_is_the_number_of_their_last_chunk(self):
        desk, running, waiting = self.desk()
        desk.settle(running)
        desk.settle(waiting)
        assert desk.scheduler._latest == {"w": waiting.chunk_id}
        desk.lose(desk.hand_out(), 0)
        assert not desk.scheduler._latest


class TestChunksThatAreNotDivided:
    def test_one_that_waits_behind_another_comes_back_whole_or_not_at_all(self):
        desk = Desk(range(8), divisible=False)
        desk.hand_out(waits=False)
        waiting = desk.hand_out()
        assert desk.scheduler.next_victim() is waiting
        cut = desk.scheduler.cut(waiting, alone=False)
        assert [cut(started, 4) for started in (0, 1, 4)] == [0, 4, 4]
        desk.give_back(waiting, 4)
        assert span(desk.hand_out("other")) == (4, 8)

    def test_one_that_is_about_to_start_is_not_asked_for(self):
        desk = Desk(range(8), divisible=False)
        flight = desk.hand_out(waits=False)
        assert desk.scheduler.next_victim() is None
        assert desk.scheduler.cut(flight, alone=True)(0, 4) == 4

    def test_they_wait_for_a_window_that_has_room_for_all_of_one(self):
        desk = Desk(range(10), divisible=False, window=8)
        spans = [span(desk.hand_out()), span(desk.hand_out())]
        assert desk.hand_out() is None
        desk.scheduler.consumed(1)
        assert desk.hand_out() is None
        desk.scheduler.consumed(1)  # as many as are left
        spans.append(span(desk.hand_out()))
        assert spans == [(0, 4), (4, 8), (8, 10)]


class TestLastReportsThatLeaveItemsOut:
    """A chunk was shortened while its last report travelled: what is not in it was not started."""

    def test_they_are_handed_out_again(self):
        desk = Desk(range(4))
        assert desk.settle(desk.hand_out(), 1) == [(0, 1)]
        assert not desk.scheduler.done
        assert rest(desk) == [(1, 4)]
        assert desk.scheduler.done

    def test_also_when_there_are_none_at_all(self):
        desk = Desk(range(4))
        assert desk.settle(desk.hand_out(), 0) == []
        assert rest(desk) == [(0, 4)]


class TestLostWorkers:
    def test_what_was_started_fails_and_the_rest_goes_to_another(self):
        desk = Desk(range(4), ordered=False)
        assert desk.lose(desk.hand_out(), claimed=2) == [(0, 2, [OSError, OSError])]
        assert rest(desk) == [(2, 4)]
        assert desk.scheduler.done

    def test_what_had_settled_does_not_fail(self):
        desk = Desk(range(4))
        flight = desk.hand_out()
        desk.settle(flight, 2, last=False)
        assert desk.lose(flight, claimed=3) == [(2, 3, [OSError])]
        assert rest(desk) == [(3, 4)]

    def test_nor_is_it_run_again_where_the_claim_was_not_heard_of(self):
        desk = Desk(range(4))
        flight = desk.hand_out()
        desk.settle(flight, 2, last=False)
        assert desk.lose(flight, claimed=0) == []
        assert rest(desk) == [(2, 4)]

    def test_nothing_fails_where_nothing_was_started(self):
        desk = Desk(range(4))
        assert desk.lose(desk.hand_out(), claimed=0) == []
        assert rest(desk) == [(0, 4)]

    def test_what_was_given_back_before_is_not_lost(self):
        desk = Desk(range(4))
        flight = desk.hand_out()
        desk.give_back(flight, 3)
        tail = desk.hand_out()
        # whoever does not know what was started says: all
        assert desk.lose(flight, claimed=4) == [(0, 3, [OSError] * 3)]
        assert desk.settle(tail) == [(3, 4)]
        assert desk.scheduler.done

    def test_items_that_may_be_tried_again_are(self):
        desk = Desk(range(4), retries=1)
        assert desk.lose(desk.hand_out(), claimed=2) == []
        assert rest(desk) == [(0, 1), (1, 2), (2, 4)]


class TestRejectedChunks:
    def test_the_items_at_fault_fail_and_the_others_travel_again(self):
        desk = Desk(range(8), Fixed(8), ordered=False)
        assert sorted(desk.reject(desk.hand_out(), 2, 5)) == [(2, 3, [ValueError]), (5, 6, [ValueError])]
        assert rest(desk) == [(0, 2), (3, 5), (6, 8)]
        assert desk.scheduler.done

    def test_in_order_they_wait_for_what_is_before_them(self):
        desk = Desk(range(8), Fixed(8))
        assert desk.reject(desk.hand_out(), 0, 5) == [(0, 1, [ValueError])]
        before, behind = desk.hand_out(), desk.hand_out()
        assert desk.settle(behind) == []
        assert desk.settle(before) == [(1, 5), (5, 6, [ValueError]), (6, 8)]

    def test_all_of_them_may_be_at_fault(self):
        desk = Desk(range(3))
        assert desk.reject(desk.hand_out(), 0, 1, 2) == [(i, i + 1, [ValueError]) for i in range(3)]
        assert desk.scheduler.done

    def test_they_are_not_tried_again(self):
        desk = Desk(range(1), retries=5)
        assert desk.reject(desk.hand_out(), 0) == [(0, 1, [ValueError])]
        assert desk.scheduler.done

    def test_what_was_given_back_before_is_no_more_the_chunk_s_affair(self):
        # The worker, or the pickler, saw the chunk as it was sent: with the tail that is elsewhere now.
        desk = Desk(range(8), Fixed(8), ordered=False)
        flight = desk.hand_out()
        desk.give_back(flight, 4)
        tail = desk.hand_out()
        assert desk.reject(flight, 1, 6) == [(1, 2, [ValueError])]
        assert desk.reject(tail, 6) == [(6, 7, [ValueError])]
        assert sorted(rest(desk)) == [(0, 1), (2, 4), (4, 6), (7, 8)]
        assert desk.scheduler.done


class TestRetries:
    def test_an_item_is_tried_again_alone(self):
        desk = Desk(range(4), retries=1)
        assert desk.settle(desk.hand_out(), failures={2: OSError()}) == [(0, 2)]
        again = desk.hand_out()
        assert span(again) == (2, 3)
        assert again.chunk.attempts == 1
        assert desk.settle(again) == [(2, 3), (3, 4)]
        assert desk.scheduler.done

    def test_neighbours_are_tried_one_by_one(self):
        desk = Desk(range(4), retries=1)
        desk.settle(desk.hand_out(), failures={1: OSError(), 2: OSError()})
        assert [span(desk.hand_out()), span(desk.hand_out())] == [(1, 2), (2, 3)]

    def test_only_so_often(self):
        desk = Desk(range(1), retries=2)
        attempts = 0
        delivered = []
        while (flight := desk.hand_out()) is not None:
            attempts += 1
            delivered += desk.settle(flight, failures={0: OSError()})
        assert attempts == 3
        assert delivered == [(0, 1, [OSError])]

    def test_only_after_errors_that_are_worth_it(self):
        desk = Desk(range(2), retries=1)
        failures = {0: OSError(), 1: KeyError()}
        assert desk.settle(desk.hand_out(), failures=failures, final={1}) == []
        assert desk.settle(desk.hand_out()) == [(0, 1), (1, 2, [KeyError])]

    def test_a_loss_may_be_final(self):
        desk = Desk(range(2), retries=1)
        flight = desk.hand_out()
        desk.scheduler.receive(Lost(flight.chunk_id, 1, OSError()), 0.0)
        assert desk.scheduler.next_chunk("w", 0.0).chunk.attempts == 1
        desk = Desk(range(1), retries=1)
        assert len(desk.scheduler.receive(Lost(desk.hand_out().chunk_id, 1, OSError(), final=True), 0.0)) == 1

    def test_not_where_trying_cannot_mend_it(self):
        desk = Desk(range(4), retries=5)
        flight = desk.hand_out()
        assert desk.settle(flight, failures={2: OSError()}, retriable=False) == [(0, 4, [OSError])]
        assert desk.scheduler.done

    def test_not_unless_asked_for(self):
        desk = Desk(range(1))
        assert desk.settle(desk.hand_out(), failures={0: OSError()}) == [(0, 1, [OSError])]
        assert desk.scheduler.done

    def test_a_success_of_the_second_attempt_replaces_the_failure(self):
        desk = Desk(range(1), retries=1, ordered=False)
        assert desk.settle(desk.hand_out(), failures={0: OSError()}) == []
        assert desk.settle(desk.hand_out()) == [(0, 1)]


@pytest.mark.parametrize("chunk_id", [99, -1], ids=["never heard of", "negative"])
def test_facts_of_chunks_that_are_not_in_flight_are_ignored(chunk_id):
    desk = Desk(range(8))
    flight = desk.hand_out()
    for fact in (
        Settled(chunk_id, Outcomes(0, 4, [None] * 4), 1.0, True),
        GivenBack(chunk_id, 1),
        Rejected(chunk_id, {0: ValueError()}),
        Lost(chunk_id, 2, OSError()),
    ):
        assert desk.tell(fact) == []
    assert desk.settle(flight) == [(0, 4)]
    assert rest(desk) == [(4, 8)]


def test_facts_of_a_chunk_that_has_ended_are_ignored():
    desk = Desk(range(4))
    flight = desk.hand_out()
    desk.lose(flight, claimed=4)
    assert desk.settle(flight) == []
    assert desk.give_back(flight, 1) == []
    assert desk.reject(flight, 2) == []
    assert desk.lose(flight, claimed=4) == []
    assert desk.scheduler.done
