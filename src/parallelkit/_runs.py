"""Consecutive items of a chunk as a worker runs them: their values, or the fold nodes that those make."""

from __future__ import annotations

from collections.abc import Callable
from operator import length_hint
from threading import Lock
from typing import Any

from ._core.fold import Node, fold_run, leaf_size
from ._core.outcome import Outcomes
from ._work import Work, as_item_error

__all__ = ["FoldRun", "MapRun"]


class MapRun:
    """The values of consecutive items, collected over the runs of a chunk."""

    def __init__(
        self,
        work: Work,
        start: int,
        report_now: Callable[[Outcomes], None],
        let_through: type[BaseException] | tuple[()],
    ):
        self._work = work
        self._report_now = report_now
        self._let_through = let_through
        self._start = self.stop = start
        self._values: list[Any] = []
        self._failures: dict[int, Exception] = {}
        self._reported = 0  # of the values
        self._reporting = Lock()

    def fitting(self, items: int) -> int:
        """How many items to run next, where about so many are wanted."""
        return items

    def over(self, items: Any) -> None:
        """Run the next items."""
        todo = iter(items)
        stop = self.stop + len(items)
        while self.stop < stop:
            values = self._values
            error: BaseException
            try:
                # extend() keeps the values that came before an exception, so their number tells the item.
                values.extend(self._work.apply(todo))
                self.stop = self._start + len(values)
                if self.stop == stop:
                    break
                error = RuntimeError("the function raised StopIteration")  # map() took it for the end
            except self._let_through:
                raise
            except BaseException as caught:
                error = caught
            self._failures[self._start + len(values)] = as_item_error(error)
            values.append(None)
            self.stop = self._start + len(values)
            self._report_now(self.flush())

    def flush(self) -> Outcomes:
        """What was not reported yet."""
        with self._reporting:
            outcomes = Outcomes(self._start, self.stop, self._values, self._failures)
            if self._reported:
                outcomes = self._unreported(len(self._values))
            self._start, self._values, self._failures, self._reported = self.stop, [], {}, 0
            return outcomes

    @property
    def ended(self) -> int:
        return self._start + len(self._values)

    def report_late(self) -> None:
        """As `flush`, in another thread, while this one is inside of an item."""
        with self._reporting:
            ended = len(self._values)
            if ended > self._reported:
                outcomes = self._unreported(ended)
                self._reported = ended
                self._report_now(outcomes)

    def _unreported(self, ended: int) -> Outcomes:
        first, stop = self._start + self._reported, self._start + ended
        # A failure is noted before it counts as ended, perhaps while another thread is here.
        failures = {i: error for i, error in list(self._failures.items()) if first <= i < stop}
        return Outcomes(first, stop, self._values[self._reported : ended], failures)


class FoldRun:
    """The fold nodes of consecutive items, collected over the runs of a chunk."""

    def __init__(
        self,
        work: Work,
        start: int,
        report_now: Callable[[Outcomes], None],
        let_through: type[BaseException] | tuple[()],
    ):
        assert work.combine is not None
        self._work = work
        self._combine = work.combine
        self._report_now = report_now
        self._let_through = let_through
        self._start = self.stop = start
        self._nodes: list[Node] = []

    def fitting(self, items: int) -> int:
        """How many items to run next, where about so many are wanted: whole leaves, if they are many."""
        size = leaf_size(self.stop)
        return items - (self.stop + items) % size if items > size else items

    def over(self, items: Any) -> None:
        """Run the next items."""
        if not self._work.retries:
            self._fold(self._work, items)
            return
        # Items that fail and are tried again must leave the values beside them whole: map first, then fold.
        run = MapRun(self._work, self.stop, self._fold_mapped, self._let_through)
        run.over(items)
        self._fold_mapped(run.flush())

    def _fold_mapped(self, mapped: Outcomes) -> None:
        """Fold values; only the last of them may be missing, for its item failed."""
        (failed,) = mapped.failures or (mapped.stop,)
        if failed > mapped.start:
            self._fold(Work(None), mapped.values[: failed - mapped.start])
        if failed < mapped.stop:
            self._report_now(self.flush())
            self._report_now(Outcomes.all_failed(failed, mapped.stop, mapped.failures[failed]))
            self._start = self.stop = mapped.stop

    def _fold(self, work: Work, items: Any) -> None:
        begin, self.stop = self.stop, self.stop + len(items)
        todo = iter(items)
        try:
            fold_run(self._combine, self._nodes, begin, self.stop, work.apply(todo))
        except self._let_through:
            raise
        except BaseException as error:
            # Values were combined half-way, so the items of this stretch can neither be used nor tried again.
            failed = max(begin, self.stop - length_hint(todo) - 1)
            stretch = Outcomes(self._start, self.stop, [], {failed: as_item_error(error)}, retriable=False)
            self._start, self._nodes = self.stop, []
            self._report_now(stretch)

    def flush(self) -> Outcomes:
        """What was not reported yet."""
        outcomes = Outcomes(self._start, self.stop, self._nodes)
        self._start, self._nodes = self.stop, []
        return outcomes
