"""Everything that runs on the far side, whatever the backend.

A worker does not simply run its chunk: it claims the items in small runs, 0.2 to 1 ms each, so that
the tail of the chunk can be taken back while it runs. Inside a run the function is called at the speed
of `map`. What has ended is reported when the chunk ends, and every 50 ms before that. A worker that may die
keeps a journal besides: of each item, unless there are many and they take next to no time; then of each run.
"""

from __future__ import annotations

import weakref
from collections.abc import Awaitable, Callable, Coroutine
from contextvars import ContextVar, copy_context
from functools import partial
from threading import Thread
from time import perf_counter
from typing import TYPE_CHECKING, Any

from ._core.fold import Node
from ._core.outcome import Outcomes
from ._late_reports import LateReports
from ._place import Place, enter_item, leave_items
from ._runs import FoldRun, MapRun
from ._work import (
    Claim,
    Journal,
    LocalClaim,
    NoJournal,
    Report,
    Work,
    as_item_error,
    initializer_failed,
    task_timeout_error,
)

if TYPE_CHECKING:
    import asyncio

__all__ = [
    "Claim",
    "LocalClaim",
    "Report",
    "Work",
    "Worker",
    "as_item_error",
    "current_worker",
    "run_chunk",
    "run_chunk_async",
]

RUN_SECONDS = 0.0002  # benchmarks/constants.py
"""The length of a run, at first. What is inside one cannot be taken back; between two a claim costs 5 µs."""

RUN_SHARE, LONGEST_RUN_SECONDS = 1 / 16, 0.001  # benchmarks/constants.py
"""Runs grow to this part of the time that the chunk has taken: little of it cannot be taken back."""

REPORT_SECONDS = 0.05
"""What has ended is reported this often, so that a stream flows."""

UNSAFE_SECONDS = 0.01
"""What the journal could not keep is reported this soon: a dying worker would take it along."""

ONE_BY_ONE_SECONDS = 2e-5  # benchmarks/constants.py
"""Items that take longer are entered one by one, which costs about 0.7 µs each."""

ONE_BY_ONE_ITEMS = 128  # benchmarks/constants.py
"""So are the first that a worker runs of a work, if they take more than nothing."""

NOTHING_SECONDS = 3e-6  # benchmarks/constants.py
"""What an item takes with its entry, if it takes next to nothing by itself."""

LANES = 16
"""Coroutines that one worker has in flight, on backends whose worker is a thread or a process."""

_worker_index: ContextVar[int | None] = ContextVar("parallelkit_worker", default=None)


def current_worker() -> int | None:
    """The index of the worker that runs this code, 0 to max_workers - 1; None outside of a worker.

    The index is stable: a worker that takes the place of one that died has the same.

    >>> current_worker() is None
    True
    """
    return _worker_index.get()


def enter_worker(index: int | None, host: object = None) -> None:
    """From now on, in this context, `current_worker()` is `index`.

    Args:
        host: what waits for the workers of this process when it ends: a worker must not wait for that.
    """
    _worker_index.set(index)
    if host is not None and not works_for(host):
        _hosts.set((*_hosts.get(), weakref.ref(host)))


def works_for(host: object) -> bool:
    """Whether this code is run by one of the host's workers, be it in another thread or on top of others."""
    return any(known() is host for known in _hosts.get())


_hosts: ContextVar[tuple[weakref.ref[object], ...]] = ContextVar("parallelkit_hosts", default=())


class Worker:
    """What one worker owns: its index, the user's initializer and finalizer, its event loop.

    Args:
        index: what `current_worker()` says.
        initialize: called once before the first chunk.
        finalize: called once after the last.
        let_through: what an item may raise through `run`, instead of failing: Ctrl-C in the caller's thread.
        late_reports: results do not wait for an item behind them; reports may come from another thread.
    """

    def __init__(
        self,
        index: int,
        initialize: Callable[[], object] | None = None,
        finalize: Callable[[], object] | None = None,
        let_through: type[BaseException] | tuple[()] = (),
        late_reports: bool = True,
    ):
        self._late_reports = LateReports() if late_reports else None
        self._index = index
        self._initialize = initialize
        self._finalize = finalize
        self._let_through = let_through
        self._runner: asyncio.Runner | None = None
        self._entered = False

    def enter(self, host: object = None) -> None:
        """Begin, in the thread that will run the chunks.

        Args:
            host: see `enter_worker`.

        Raises:
            InitializerFailed: from what the initializer raised.
        """
        if self._entered:
            return
        enter_worker(self._index, host)
        if self._initialize is not None:
            try:
                self._call(self._initialize)
            except self._let_through:
                raise
            except BaseException as error:
                raise initializer_failed(as_item_error(error)) from error
        self._entered = True

    def run(
        self,
        work: Work,
        items: Any,
        start: int,
        claim: Claim,
        report: Report,
        journal: Journal | None = None,
    ) -> None:
        """Run a chunk, as `run_chunk` does; the coroutines of async functions in this worker's event loop."""
        if not work.is_async:
            run_chunk(work, items, start, claim, report, self._let_through, self._late_reports, journal)
            return
        self._await(run_chunk_async(work, items, start, claim, report, journal=journal))

    def _call(self, function: Callable[[], Any]) -> None:
        """Call a function of the user's that may be `async def`."""
        result = function()
        if isinstance(result, Coroutine):
            self._await(result)

    def _await(self, coroutine: Coroutine[Any, Any, None]) -> None:
        if self._runner is None:
            from asyncio import Runner  # 35 ms; only workers that run coroutines pay it

            self._runner = Runner()
        if _in_running_loop():
            # The serial backend, asked from within a loop, which cannot run another one in its thread.
            in_thread(partial(self._runner.run, coroutine))
        else:
            self._runner.run(coroutine)

    def leave(self) -> None:
        """End: call the finalizer, whose errors are printed, and close the event loop."""
        entered, self._entered = self._entered, False
        try:
            if entered and self._finalize is not None:
                self._call(self._finalize)
        except self._let_through:
            raise
        except BaseException:
            finalizer_failed()
        finally:
            if self._runner is not None:
                (in_thread if _in_running_loop() else _call)(partial(_close, self._runner))


def finalizer_failed() -> None:
    """Print what a finalizer raised: there is nobody left to raise it to."""
    import sys
    import traceback

    sys.stderr.write(f"parallelkit: the finalizer of a worker failed\n{traceback.format_exc()}")


def _in_running_loop() -> bool:
    from asyncio import _get_running_loop  # what get_running_loop() asks, without an exception

    return _get_running_loop() is not None


def _call(function: Callable[[], object]) -> None:
    function()


def _close(runner: asyncio.Runner) -> None:
    """Close an event loop. As a program ends, 3.12 has no thread left to wait for those of `to_thread` in."""
    try:
        runner.close()
    except RuntimeError as error:  # the loop is closed all the same, and its threads are waited for elsewhere
        if "new thread" not in str(error):
            raise


def in_thread(function: Callable[[], object]) -> None:
    """Call a function in a thread of its own, in a copy of this context, and wait for it."""
    failed, context = list[BaseException](), copy_context()

    def run() -> None:
        try:
            context.run(function)
        except BaseException as error:
            failed.append(error)

    thread = Thread(target=run, name="parallelkit-loop")
    thread.start()
    thread.join()
    if failed:
        raise failed[0]


def run_chunk(
    work: Work,
    items: Any,
    start: int,
    claim: Claim,
    report: Report,
    let_through: type[BaseException] | tuple[()] = (),
    late_reports: LateReports | None = None,
    journal: Journal | None = None,
) -> None:
    """Run the items of a chunk until its claim is spent, reporting as it goes.

    Args:
        items: the chunk's items, sliceable; the first is number `start` of the input.
        let_through: what ends the run and is raised here, not reported as an item's error.
        late_reports: looks after results behind which an item does not end.
        journal: keeps what has ended until it is reported.
    """
    if work.combine is not None or len(items) == 1:
        late_reports = journal = None  # nodes change as they grow; a single item is reported as it ends
    place = None if work.style == "call" else Place(report)  # a task has no place in an input
    outside = enter_item(None)
    try:
        if late_reports is None:
            _run_chunk(work, items, start, claim, report, let_through, journal, place)
            return
        try:
            _run_chunk(work, items, start, claim, report, let_through, journal, place, late_reports.begin)
        finally:
            late_reports.end()
    finally:
        leave_items(outside, place)


def _run_chunk(
    work: Work,
    items: Any,
    start: int,
    claim: Claim,
    report: Report,
    let_through: type[BaseException] | tuple[()],
    journal: Journal | None,
    place: Place | None,
    begin: Callable[[MapRun], object] | None = None,
) -> None:
    if place is not None:
        report = place.report
    run: MapRun | FoldRun
    if work.combine is None:
        run = MapRun(work, start, report, let_through, journal)
        if begin is not None:
            begin(run)
    else:
        run = FoldRun(work, start, report, let_through)
    if place is not None:
        place.enter(run)
    run_items = 1
    stop = start + len(items)
    since = begun = run.since
    if journal is not None:
        journal.one_by_one(work.one_by_one)
    while run.stop < stop and (taken := claim.take(run.fitting(run_items))):
        offset = run.stop - start
        run.over(items[offset : offset + taken])
        now = perf_counter()
        seconds, begun = now - begun, now
        if work.task_timeout is None:
            run_items = next_run(taken, seconds, now - since)
        if now - run.since > _patience(work, journal):
            run.report()
        if journal is not None:
            work.items_run += taken
            least = NOTHING_SECONDS if work.items_run < ONE_BY_ONE_ITEMS else ONE_BY_ONE_SECONDS
            exact = seconds > taken * least
            if exact is not work.one_by_one:
                work.one_by_one = exact
                journal.one_by_one(exact)
        if now - since > work.chunk_seconds:
            break
    run.report(last=True)


def next_run(items: int, seconds: float, chunk_seconds: float) -> int:
    """How many items the next run takes, after one of `items` in `seconds`, in a chunk that took so long."""
    aim = max(RUN_SECONDS, min(LONGEST_RUN_SECONDS, RUN_SHARE * chunk_seconds))
    return max(1, min(16 * items, int(items * aim / (seconds + 1e-9))))


def _patience(work: Work, journal: Journal | None) -> float:
    """Seconds that what has ended may wait for being reported."""
    if journal is None:
        return REPORT_SECONDS if work.task_timeout is None else 0.0
    return UNSAFE_SECONDS if journal.incomplete else REPORT_SECONDS


async def run_chunk_async(
    work: Work,
    items: Any,
    start: int,
    claim: Claim,
    report: Report,
    lanes: int = LANES,
    journal: Journal | None = None,
) -> None:
    """Await the coroutines of a chunk's items, at most `lanes` of them in flight, until its claim is spent.

    Outcomes are reported in the order of the items: when the chunk ends, and every 50 ms before that.
    """
    import asyncio  # 35 ms; only workers that run coroutines pay it

    journal = NoJournal() if journal is None or work.combine is not None else journal
    journal.one_by_one(False)
    ended: dict[int, Any] = {}
    failures: dict[int, Exception] = {}
    position = settled = start
    reported = perf_counter()
    due: asyncio.TimerHandle | None = None

    def flush(stop: int, now: float, last: bool) -> None:
        nonlocal settled, reported, due
        if due is not None:
            due.cancel()
            due = None
        failed = {index: failures.pop(index) for index in range(settled, stop) if index in failures}
        outcomes = Outcomes(settled, stop, [ended.pop(index) for index in range(settled, stop)], failed)
        if work.combine is not None:
            outcomes = _uncombined(outcomes, report)
        report(outcomes, now - reported, last)
        settled, reported = stop, now
        if not ended:
            journal.forget(stop)

    def flush_what_ended() -> None:
        flush(next(i for i in range(settled, position + 1) if i not in ended), perf_counter(), last=False)

    async def lane() -> None:
        nonlocal position, due
        while claim.take(1):
            index, position = position, position + 1
            enter_item(None if work.style == "call" else index)
            full = False
            try:
                value = work.apply_to(items[index - start])
                ended[index] = await (value if work.task_timeout is None else _in_time(work, value))
                full = not journal.add({index: ended[index]})
            except BaseException as error:
                if _is_closing(error):
                    raise
                ended[index] = None
                late = isinstance(error, _TookTooLong)
                failures[index] = task_timeout_error(work, index) if late else as_item_error(error)
            enter_item(None)
            if full or index in failures or perf_counter() - reported > REPORT_SECONDS:
                flush_what_ended()
            elif due is None:  # the next may be long in coming
                due = asyncio.get_running_loop().call_later(REPORT_SECONDS, flush_what_ended)

    await (lane() if lanes == 1 else asyncio.gather(*[lane() for _ in range(min(lanes, len(items)))]))
    flush(position, perf_counter(), last=True)


class _TookTooLong(Exception):
    """The item did; it is told apart from what the item may raise."""


async def _in_time(work: Work, value: Awaitable[Any]) -> Any:
    """What an item comes to, if it takes no longer than it may."""
    import asyncio

    limit = asyncio.timeout(work.task_timeout)
    try:
        async with limit:
            return await value
    except TimeoutError:
        if limit.expired():
            raise _TookTooLong from None
        raise


def _is_closing(error: BaseException) -> bool:
    """Whether a coroutine was cancelled because its backend is closing, and not by itself."""
    import asyncio

    task = asyncio.current_task()
    return isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling() > 0


def _uncombined(outcomes: Outcomes, report: Report) -> Outcomes:
    """Values as fold nodes of one item each: awaiting is what these items cost, not combining.

    Nodes cannot step over items that failed, so what lies before such an item is reported at once.
    """
    *before, rest = [*outcomes.without(set(outcomes.failures)), Outcomes(outcomes.stop, outcomes.stop, [])]
    if before and not outcomes.failures:
        rest = before.pop()
    for piece in before:
        report(Outcomes(piece.start, piece.stop, _nodes(piece)), 0.0, False)
    for index, error in outcomes.failures.items():
        report(Outcomes.all_failed(index, index + 1, error), 0.0, False)
    return Outcomes(rest.start, rest.stop, _nodes(rest))


def _nodes(outcomes: Outcomes) -> list[Any]:
    return [Node(index, index + 1, value) for index, value in enumerate(outcomes.values, outcomes.start)]
