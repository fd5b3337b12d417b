"""Consecutive items of a chunk as a worker runs them: their values, or the fold nodes that those make."""

from __future__ import annotations

from collections.abc import Iterator
from operator import length_hint
from threading import Lock
from time import perf_counter
from typing import Any

from ._core.fold import BLOCK, Node, fold_run, leaf_size
from ._core.outcome import Outcomes
from ._work import Journal, Report, Work, as_item_error

__all__ = ["FoldRun", "MapRun"]


class MapRun:
    """The values of consecutive items, collected over the runs of a chunk.

    Args:
        let_through: what an item may raise through `over`, instead of failing.
        journal: where values are kept until they are reported.

    Attributes:
        stop: index of the item to run next.
        since: when the last report was made (`time.perf_counter`).
    """

    def __init__(
        self,
        work: Work,
        start: int,
        report: Report,
        let_through: type[BaseException] | tuple[()] = (),
        journal: Journal | None = None,
    ):
        self._work = work
        self._report = report
        self._let_through = let_through
        self._journal = journal
        self._start = self.stop = start
        self._values: list[Any] = []
        self._failures: dict[int, Exception] = {}
        self._reported = 0  # of the values
        self._reporting = Lock()
        self.since = perf_counter()

    def fitting(self, items: int) -> int:
        """How many items to run next, where about so many are wanted."""
        return items

    def over(self, items: Any) -> None:
        """Run the next items."""
        todo = iter(items)
        stop = self.stop + len(items)
        while self.stop < stop:
            error: BaseException
            try:
                self._collect(todo)
                if self.stop == stop:
                    break
                error = RuntimeError("the function raised StopIteration")  # map() took it for the end
            except self._let_through:
                raise
            except BaseException as caught:
                error = caught
            self._failures[self.ended] = as_item_error(error)
            del error  # its traceback has this frame, and those of the item: they would keep each other alive
            self._values.append(None)
            self.stop = self.ended
            if self._journal is not None:
                self._journal.leave_out([None])
            self.report()  # at once, not when the run or the chunk ends: it may end the call

    def _collect(self, todo: Iterator[Any]) -> None:
        """Run items to the first that raises. The number of values tells which that is."""
        journal = self._journal
        if journal is not None and self._work.one_by_one:
            add = journal.add
            try:
                for value in self._work.apply(todo):
                    self._values.append(value)
                    if not add([value]):
                        self.stop = self.ended
                        self.report()
            finally:
                self.stop = self.ended
            return
        values, known = self._values, len(self._values)
        try:
            values.extend(self._work.apply(todo))  # which keeps those before an exception
        finally:
            self.stop = self.ended
            if journal is not None and len(values) > known and not journal.add(values[known:]):
                self.report()

    def report(self, *, last: bool = False) -> None:
        """Report what was not reported yet."""
        if self._journal is not None:
            self._journal.between_items()
        now = perf_counter()
        with self._reporting:
            outcomes = Outcomes(self._start, self.stop, self._values, self._failures)
            if self._reported:
                outcomes = self._unreported(len(self._values))
            self._start, self._values, self._failures, self._reported = self.stop, [], {}, 0
        self._report(outcomes, now - self.since, last)
        self.since = now
        if self._journal is not None:
            self._journal.forget(self.stop)

    @property
    def ended(self) -> int:
        return self._start + len(self._values)

    running = ended  # the values come one by one

    def report_late(self) -> None:
        """As `report`, in another thread, while this one is inside of an item."""
        with self._reporting:
            ended = len(self._values)
            if ended > self._reported:
                outcomes = self._unreported(ended)
                self._reported = ended
                self._report(outcomes, 0.0, False)

    def _unreported(self, ended: int) -> Outcomes:
        first, stop = self._start + self._reported, self._start + ended
        # A failure is noted before it counts as ended, perhaps while another thread is here.
        failures = {i: error for i, error in list(self._failures.items()) if first <= i < stop}
        return Outcomes(first, stop, self._values[self._reported : ended], failures)


class FoldRun:
    """The fold nodes of consecutive items, collected over the runs of a chunk; see `MapRun`."""

    def __init__(
        self, work: Work, start: int, report: Report, let_through: type[BaseException] | tuple[()] = ()
    ):
        assert work.combine is not None
        self._work = work
        self._combine = work.combine
        self._report = report
        self._let_through = let_through
        self._start = self.stop = self._begin = start
        self._nodes: list[Node] = []
        self._todo: Iterator[Any] = iter(())
        self._mapping: MapRun | None = None
        self.since = perf_counter()

    def fitting(self, items: int) -> int:
        """How many items to run next, where about so many are wanted: whole leaves or blocks, of many."""
        size = leaf_size(self.stop)
        if items > 2 * BLOCK * size:
            size *= BLOCK
        return items - (self.stop + items) % size if items > size else items

    def over(self, items: Any) -> None:
        """Run the next items."""
        if not self._work.retries:
            self._fold(self._work, items)
            return
        # Items that fail and are tried again must leave the values beside them whole: map first, then fold.
        run = self._mapping = MapRun(self._work, self.stop, self._fold_mapped, self._let_through)
        run.over(items)
        run.report()

    def _fold_mapped(self, mapped: Outcomes, seconds: float, last: bool) -> None:
        """Fold values; only the last of them may be missing, for its item failed."""
        (failed,) = mapped.failures or (mapped.stop,)
        if failed > mapped.start:
            self._fold(Work(None), mapped.values[: failed - mapped.start])
        if failed < mapped.stop:
            self.report()
            self._report(Outcomes.all_failed(failed, mapped.stop, mapped.failures[failed]), 0.0, False)
            self._start = self.stop = mapped.stop

    def _fold(self, work: Work, items: Any) -> None:
        mapping, self._mapping = self._mapping, None
        self._begin, self.stop = self.stop, self.stop + len(items)
        self._todo = iter(items)
        try:
            fold_run(self._combine, self._nodes, self._begin, self.stop, work.apply(self._todo))
        except self._let_through:
            raise
        except BaseException as error:
            # Values were combined half-way, so the items of this stretch can neither be used nor tried again.
            failed = {self.running: as_item_error(error)}
            stretch = Outcomes(self._start, self.stop, [], failed, retriable=False)
            self._start, self._nodes = self.stop, []
            self._report(stretch, 0.0, False)
        finally:
            self._mapping = mapping

    @property
    def running(self) -> int:
        if self._mapping is not None:
            return self._mapping.running
        return max(self._begin, self.stop - length_hint(self._todo) - 1)

    def report(self, *, last: bool = False) -> None:
        """Report what was not reported yet."""
        now = perf_counter()
        outcomes = Outcomes(self._start, self.stop, self._nodes)
        self._start, self._nodes = self.stop, []
        self._report(outcomes, now - self.since, last)
        self.since = now
