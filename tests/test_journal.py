"""What a worker has run and not reported: what is told of it when the worker is dead."""

from __future__ import annotations

import multiprocessing
import os
import signal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parallelkit import Executor, WorkerDied
from parallelkit._core.outcome import Outcomes
from parallelkit._runs import MapRun
from parallelkit._wire.claims import ClaimFile, ClaimTable
from parallelkit._wire.journal import JOURNAL_BYTES, SMALL_BYTES, Ended, Journal, split
from parallelkit._wire.pickling import loads
from parallelkit._work import Work
from parallelkit._worker import ONE_BY_ONE_ITEMS
from programs import faults

METHODS = multiprocessing.get_all_start_methods()


# A text that holds one of these two, as some constants of the code do, may mention what is not plain.
TEXTS = st.text().filter(lambda text: "_main__" not in text and "multiprocessing" not in text)


class Table:
    """A table of claims with its journal, as the worker and as the parent see it."""

    def __init__(self) -> None:
        self.file = ClaimFile(2)
        self.claims = ClaimTable(self.file, 1)
        self.journal: Journal = self.claims.journal()
        self.journal.begin(number=7, first=100, work=1)

    def ended(self) -> Ended:
        return self.claims.ended()


@pytest.fixture
def table():
    table = Table()
    yield table
    table.journal._room.release()
    table.file.close()


class TestTheJournal:
    def test_of_one_item_after_the_other(self, table):
        table.journal.one_by_one(True)
        for value in "abc":
            assert table.journal.add([value])
        ended = table.ended()
        assert (ended.number, ended.values, ended.begun) == (7, {100: "a", 101: "b", 102: "c"}, 104)

    def test_of_several_in_one_go(self, table):
        table.journal.one_by_one(False)
        table.journal.add([1, 2, 3])
        table.journal.add([4])
        ended = table.ended()
        assert ended.values == {100: 1, 101: 2, 102: 3, 103: 4}
        assert ended.begun is None, "which of those that it had begun, it does not say"

    def test_of_items_in_any_order(self, table):
        table.journal.add({105: "five"})
        table.journal.add({101: "one"})
        assert table.ended().values == {101: "one", 105: "five"}

    def test_what_was_reported_is_in_it_no_more(self, table):
        table.journal.add([1, 2])
        table.journal.forget(102)
        table.journal.add([3])
        assert table.ended().values == {102: 3}

    def test_what_cannot_be_pickled_is_left_out_and_takes_its_place(self, table):
        table.journal.one_by_one(True)
        for value in (1, lambda: None, 3):
            assert table.journal.add([value])
        assert table.journal.incomplete
        assert table.ended().values == {100: 1, 102: 3}
        assert table.ended().begun == 104
        assert table.journal.report_of(100, [0, 1, 2]) is None

    def test_what_cannot_be_unpickled_is_an_error_of_its_item(self, table):
        table.journal.add([1, faults.BreaksOnArrival(), 3])
        ended = table.ended()
        assert ended.values == {100: 1, 102: 3}
        assert isinstance(ended.failures[101], ArithmeticError)

    def test_when_it_is_half_full_it_says_so(self, table):
        assert table.journal.add([bytes(JOURNAL_BYTES // 4)])
        assert not table.journal.add([bytes(JOURNAL_BYTES // 4)])
        assert not table.journal.incomplete

    def test_what_is_too_large_is_left_out(self, table):
        table.journal.one_by_one(True)
        assert not table.journal.add([bytes(JOURNAL_BYTES)])
        assert table.journal.incomplete
        assert (table.ended().values, table.ended().begun) == ({}, 102)

    def test_while_it_is_reported_no_item_is_under_way(self, table):
        table.journal.one_by_one(True)
        table.journal.add(["ended"])
        table.journal.between_items()
        assert table.ended().begun == 101
        table.journal.forget(101)
        assert table.ended().begun == 102

    def test_a_record_that_was_not_written_to_its_end_is_none(self, table):
        table.journal.one_by_one(True)
        table.journal.add(["whole"])
        used = table.journal._used
        table.journal._room[used : used + 4] = b"half"
        assert (table.ended().values, table.ended().begun) == ({100: "whole"}, 102)

    def test_no_workers_journal_is_anothers(self, table):
        other = ClaimTable(table.file, 0).journal()
        other.begin(number=3, first=0, work=1)
        other.add([bytes(JOURNAL_BYTES - 200)])
        table.journal.add(["mine"])
        assert table.ended().values == {100: "mine"}
        other._room.release()

    @given(st.lists(st.lists(st.integers() | TEXTS, min_size=1, max_size=4), min_size=1, max_size=20))
    def test_its_records_are_the_report(self, runs):
        table = Table()
        for values in runs:
            values.append("x" * SMALL_BYTES)
            table.journal.add(values)
        everything = [value for values in runs for value in values]
        report = table.journal.report_of(100, everything)
        assert report is not None
        assert [value for _, record in split(memoryview(report)) for value in loads(record)] == everything
        assert table.journal.report_of(100, [*everything, 0]) is None
        table.journal._room.release()
        table.file.close()

    def test_of_many_small_ones_the_values_are_pickled_together(self):
        table = Table()
        table.journal.add([1])
        assert table.journal.report_of(100, [1]) is not None
        table.journal.add([2])
        assert table.journal.report_of(100, [1, 2]) is None
        assert table.ended().values == {100: 1, 101: 2}
        table.journal.forget(100)
        changing: list[int] = []
        for number in range(2):
            changing.append(number)
            table.journal.add([changing])
        report = table.journal.report_of(100, [changing, changing])
        assert report is not None, "they are what they were when their items ended"
        assert [value for _, record in split(memoryview(report)) for value in loads(record)] == [[0], [0, 1]]
        table.journal._room.release()


class Kept:
    """A journal that a test reads."""

    incomplete = False

    def __init__(self, room: int = 1000):
        self.room = room
        self.log: list[Any] = []

    def one_by_one(self, exact: bool, /) -> None:
        self.log.append(exact)

    def between_items(self) -> None:
        pass

    def add(self, values: Any, /) -> bool:
        self.log.append(values)
        self.room -= 1
        return self.room > 0

    def leave_out(self, values: Any, /) -> bool:
        self.log.append("failed")
        return True

    def forget(self, first: int, /) -> None:
        self.log.append(f"reported to {first}")


class TestARun:
    def test_each_item_is_entered_as_it_ends(self):
        journal = Kept()
        run = MapRun(Work(lambda item: (journal.log.append(f"run {item}"), item)[1]), 0, ignore, (), journal)
        run.over(range(2))
        assert journal.log == ["run 0", [0], "run 1", [1]]

    def test_or_after_a_run(self):
        journal = Kept()
        work = Work(abs)
        work.one_by_one = False
        run = MapRun(work, 0, ignore, (), journal)
        run.over([-1, -2])
        run.over([-3])
        assert journal.log == [[1, 2], [3]]

    def test_what_came_before_an_error_is_entered_and_the_error_reported(self):
        journal, reports = Kept(), []
        work = Work(int)
        work.one_by_one = False

        def report(outcomes: Outcomes, seconds: float, last: bool) -> None:
            reports.append((outcomes.start, outcomes.stop, [*outcomes.failures]))

        run = MapRun(work, 10, report, (), journal)
        run.over(["1", "two", "3"])
        assert journal.log == [[1], "failed", "reported to 12", [3]]
        assert reports == [(10, 12, [11])]

    @pytest.mark.parametrize("one_by_one", [True, False])
    def test_a_full_journal_is_reported(self, one_by_one):
        journal, reports = Kept(room=2), []
        work = Work(abs)
        work.one_by_one = one_by_one
        run = MapRun(work, 0, lambda outcomes, *_: reports.append(outcomes.values), (), journal)
        for item in range(3):
            run.over([item])
        assert reports == [[0, 1], [2]]


def ignore(outcomes: Outcomes, seconds: float, last: bool) -> None:
    pass


# ---------------------------------------------------------------- with real workers


def die_at(place: int, item: int) -> int:
    sum(range(1000))  # some 10 µs: next to nothing would be entered by the run
    if item == place:
        os.kill(os.getpid(), signal.SIGKILL)
    return 2 * item


async def die_beside_others(item: int) -> int:
    """The first waits for the death of its worker, the others end before it."""
    from asyncio import Event, sleep

    if item == 0:
        await Event().wait()
    await sleep(0)
    if item == 40:
        os.kill(os.getpid(), signal.SIGKILL)
    return 2 * item


@pytest.mark.timeout(30)
@pytest.mark.parametrize("method", METHODS)
class TestADeath:
    @pytest.mark.parametrize("place", [0, 1, 7, 50, ONE_BY_ONE_ITEMS - 2])
    def test_takes_the_item_that_the_worker_was_in(self, method, place):
        from functools import partial

        with Executor("process", 1, mp_context=method) as executor:
            results = list(
                executor.map(partial(die_at, place), range(ONE_BY_ONE_ITEMS), return_exceptions=True)
            )
        assert [i for i, result in enumerate(results) if isinstance(result, Exception)] == [place]
        assert isinstance(results[place], WorkerDied)
        assert results[place].indices == (place,)
        assert all(result == 2 * i for i, result in enumerate(results) if i != place)

    def test_takes_the_coroutines_that_were_under_way(self, method):
        with Executor("process", 1, mp_context=method) as executor:
            results = list(executor.map(die_beside_others, range(60), chunksize=60, return_exceptions=True))
        died = [i for i, result in enumerate(results) if isinstance(result, Exception)]
        assert {0, 40} <= set(died)
        assert len(died) <= 16, "no more than there are lanes"
        assert results[40].indices == tuple(died)

    def test_of_one_item_on_arrival_is_not_that_of_its_neighbours(self, method, tmp_path):
        killer = faults.KillsOnArrival(str(tmp_path / "runs"))
        items = [*range(5), killer, *range(6, 9)]
        with Executor("process", 1, mp_context=method) as executor:
            results = list(executor.map(faults.same, items, chunksize=9, return_exceptions=True))
        assert isinstance(results.pop(5), WorkerDied)
        assert results == [0, 1, 2, 3, 4, 6, 7, 8]
