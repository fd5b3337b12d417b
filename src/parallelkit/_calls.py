"""What a user's call is to the driver: a map whose outcomes are read, or tasks that are futures."""

from __future__ import annotations

import reprlib
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Future, InvalidStateError
from functools import partial
from itertools import islice
from queue import SimpleQueue
from time import monotonic
from typing import Any

from ._alarm import Alarm, call_at
from ._call import Call
from ._core.chunks import Chunk, Sliceable
from ._core.outcome import Outcomes
from ._core.scheduler import Ended, Fact, Flight, Pulled, Scheduler
from ._driver import Driver
from ._work import Work, add_note, harmless, owned
from .backends.base import Backend

__all__ = [
    "MapCall",
    "Task",
    "TaskCall",
    "TaskFuture",
    "note_item",
]

PULL_SECONDS = 0.002
"""Pulling from a slow iterator stops after this, so that what came can start."""

PULL_ITEMS = 16  # benchmarks/constants.py
"""So many are pulled between two looks at the clock, at the most: the next ones may be slow."""

AHEAD_ITEMS = 16_384  # benchmarks/constants.py
"""So many are pulled before a map begins whose results are all wanted at the end, if that takes no longer."""


class MapCall(Call):
    """A map or a reduce over an input, read by one consumer, who also pulls the input in his own thread.

    Args:
        items: the whole input where it can be sliced; else `source` is an iterator over it.
        limit: seconds for the whole call, and when they are over (`time.monotonic`).
        worth_retrying: asked of each error, where retries are allowed, before the scheduler hears of it.
        daemon: it is not run for its effects: when nobody will read the outcomes, it ends.
        whole: a thread that the program waits for reads all of them, and does nothing in between.
        gathers: it wants them all at the end, in any order, and only failures at once.
    """

    def __init__(
        self,
        driver: Driver,
        work: Work,
        scheduler: Scheduler,
        *,
        items: Sliceable | None = None,
        source: Iterator[Any] | None = None,
        limit: tuple[float, float] | None = None,
        daemon: bool = False,
        whole: bool = False,
        gathers: bool = False,
        worth_retrying: Callable[[Exception], bool] | None = None,
    ):
        self.work = work
        self.scheduler = scheduler
        self._driver = driver
        self._source = source
        self._source_error: BaseException | None = None
        self._error: BaseException | None = None
        self._inbox: SimpleQueue[Outcomes | None] = SimpleQueue()
        self._gathers = gathers
        self._gathered: list[Outcomes] = []
        self._daemon = daemon
        self._whole = whole
        self._worth_retrying = worth_retrying
        self._unread = False
        self._pulling = threading.RLock()  # which knows who has it
        self.started = False
        self._limit = limit
        self._alarm: Alarm | None = None
        self._late = False
        try:
            driver.open(self, items, ended=source is None)
            if source is not None and (wanted := scheduler.wanted):
                self._pull(AHEAD_ITEMS if gathers else wanted)  # a short one is a list before it begins
        except BaseException:
            driver.stop(self)
            raise

    # For the consumer

    def outcomes(self) -> Iterator[Outcomes]:
        """The outcomes in order of delivery; leaving early ends the call.

        Raises:
            TimeoutError: the whole call took longer than its `timeout`; who is in its items is given up.
            CancelledError: the executor was shut down before the rest was run.
        """
        self.started = True
        if self._late:
            self._give_up()
        try:
            while (outcomes := self._next()) is not None:
                # What is about to be yielded has left the window; the rest of it leaves when that is done.
                self._driver.consumed(self, 1)
                length = len(outcomes)
                yield outcomes
                del outcomes
                if length > 1:
                    self._driver.consumed(self, length - 1)
            yield from self._gathered
            for error in (self._error, self._source_error):
                if error is not None:
                    raise error
        finally:
            self._driver.stop(self)

    def abandon(self) -> None:
        """Nobody will ever read: run the rest for its effects. May be called from anywhere."""
        self._unread = True
        if self._daemon:
            self._driver.stop(self)
        else:
            self._cancel_alarm()
            self._driver.lift_window(self)

    def close_input(self, *, leaving: bool = False) -> None:
        inside = owned(self._pulling)  # the input itself shuts the executor down, and cannot wait for its end
        if not (self.started or self._daemon or inside):
            self.scheduler.lift_window()
            while self._source is not None and not self.started:
                self._pull(sys.maxsize, wait=True)
        if not inside and (self._whole or not (self.started or self._daemon)):
            return
        if leaving:
            self._driver.stop(self, RuntimeError("the program ends, and with it this call"))
        elif self._source is not None:
            # It may be endless. Who reads on gets what is in flight, then this.
            self._source = None
            self._source_error = RuntimeError(
                "the executor was shut down before the input was read to its end"
            )
            self._driver.feed(self, None, ended=True)

    def _next(self) -> Outcomes | None:
        """Wait for outcomes, and keep the workers fed meanwhile; None when there are no more."""
        self._driver.check_process()
        fed = False
        while self._source is not None:
            idle = self._inbox.empty()
            wanted = self.scheduler.wanted if idle or (self.scheduler.hungry and not fed) else 0
            if not wanted or not self._pull(wanted):
                break
            fed = True
        return self._inbox.get()

    def _pull(self, wanted: int, *, wait: bool = False) -> bool:
        """Pull up to so many items, and feed them; False where another thread does, and this is not to wait.

        Who shuts an executor down pulls what nobody reads, while somebody may begin to.
        """
        if owned(self._pulling) or not self._pulling.acquire(blocking=wait):
            return False
        items: list[Any] = []
        try:
            if self._source is not None:
                self._take_from(self._source, items, wanted)
        finally:  # on Ctrl-C what was pulled must not be lost either
            try:
                self._driver.feed(self, items, ended=self._source is None)
            finally:
                self._pulling.release()
        return True

    def _take_from(self, source: Iterator[Any], items: list[Any], wanted: int) -> None:
        began = monotonic()
        block = 1
        while len(items) < wanted and self._source is source:  # it may be cut off by what it does itself
            expected = min(len(items) + block, wanted)
            try:
                items.extend(islice(source, expected - len(items)))
            except BaseException as error:  # raised after the outcomes of the items before it
                if not self.started and not isinstance(error, Exception):
                    raise  # Ctrl-C, and nobody may come to read it
                if self._source is source or not isinstance(error, Exception):
                    self._source_error = error
            if len(items) < expected:
                self._source = None
                break
            if monotonic() - began > PULL_SECONDS:
                break
            block = min(2 * block, PULL_ITEMS)

    # For the driver

    def deliver(self, outcomes: list[Outcomes]) -> None:
        if self._unread:
            return
        for some in outcomes:
            if self._gathers and self._source is None and not some.failures:
                self._gathered.append(some)  # to wake the reader for each would hold up what carries chunks
            else:
                self._inbox.put(some)

    def finish(self, error: BaseException | None) -> None:
        self._cancel_alarm()
        if error is not None:
            self._error = error
            self._source = None
        self._inbox.put(None)

    def shut_down(self, *, cancel: bool) -> list[Fact]:
        if cancel:
            if self.scheduler.drop_pending() or self._source is not None:
                self._source = None
                self._error = CancelledError("the executor was shut down before these items were run")
            return [Ended()]
        if self._source is None:
            self.scheduler.lift_window()
        return []

    def opened(self) -> None:
        if self._limit is not None:
            self._alarm = call_at(self._limit[1], self._be_late)

    def _be_late(self) -> None:
        self._late = True
        if self.started or self._daemon or self._whole:  # else it may be run for its effects
            self._give_up()

    def _give_up(self) -> None:
        seconds, _ = self._limit or (0.0, 0.0)
        late = TimeoutError(f"the call took longer than timeout={seconds} s")
        self._driver.stop(self, late, abandon=late)

    def _cancel_alarm(self) -> None:
        if self._alarm is not None:
            self._alarm.cancel()

    def is_final(self, error: Exception) -> bool:
        return self._worth_retrying is not None and not self._worth_retrying(error)

    def note(self, error: Exception, index: int, chunk: Chunk) -> None:
        note_item(error, index, chunk)


def note_item(error: Exception, index: int, chunk: Chunk) -> None:
    """Write on an error which item it is of."""
    try:
        # a slice, for Zipped and arrays have rows, and a stand-in where even repr() raises
        (item,) = chunk.between(index, index + 1).items
        text = reprlib.repr(item)
    except Exception:
        text = "(an item whose repr() raises)"
    add_note(error, f"parallelkit: item {index}: {text}")


class TaskFuture(Future[Any]):
    """A future whose waiting thread can do the waiting of the backend, which saves waking it up."""

    def __init__(self, backend: Backend):
        super().__init__()
        self.chunk_id: int | None = None
        self._backend = backend

    def result(self, timeout: float | None = None) -> Any:
        return super().result(self._help(timeout))

    def exception(self, timeout: float | None = None) -> BaseException | None:
        return super().exception(self._help(timeout))

    def add_done_callback(self, fn: Callable[[Future[Any]], object]) -> None:
        """As in the standard library; and what would end the program is logged, as other errors are."""
        super().add_done_callback(harmless(fn))

    def wait(self, timeout: float | None = None) -> None:
        """Wait until it is done, or for so long. Only a signal handler raises here."""
        left = self._help(timeout)
        with self._condition:
            if not self.done():
                self._condition.wait(left)

    def _help(self, timeout: float | None) -> float | None:
        """Wait with the backend; what is left of the timeout."""
        if self._state != "RUNNING" or self.chunk_id is None:
            return timeout
        if timeout is None:
            self._backend.help(self.chunk_id, None)
            return None
        deadline = monotonic() + timeout
        self._backend.help(self.chunk_id, timeout)
        return max(0.0, deadline - monotonic())


class Task:
    """One `submit`: a function, its arguments, and the future of its result; was it sent to a worker?"""

    __slots__ = ("args", "carried", "future", "kwargs", "work")

    def __init__(self, work: Work, args: tuple[Any, ...], kwargs: dict[str, Any], future: TaskFuture):
        self.work = work
        self.args = args
        self.kwargs = kwargs
        self.future = future
        self.carried = False


class TaskCall(Call):
    """All the submits of one executor: an endless input of tasks, each a chunk of its own."""

    work = Work(None)

    def __init__(self, driver: Driver, scheduler: Scheduler):
        self.scheduler = scheduler
        self._driver = driver
        self._waiting: dict[Task, None] = {}
        self._carried: dict[int, TaskFuture] = {}
        self._due: deque[Callable[[], object]] = deque()
        self._over: BaseException | None = None

    def submit(self, task: Task) -> None:
        self._waiting[task] = None
        try:
            self._driver.open(self, [task])
        except BaseException:
            self._waiting.pop(task, None)
            raise

    def carry(self, flight: Flight) -> tuple[Work, Chunk] | None:
        index = flight.chunk.start
        (task,) = flight.chunk.items
        future = task.future
        if not task.carried and not _begin(future):
            self._waiting.pop(task, None)
            return None
        task.carried = True
        self._carried[index] = future  # before it leaves the others: `finish` must find it
        self._waiting.pop(task, None)
        future.chunk_id = flight.chunk_id
        if self._over is not None:  # `finish` came meanwhile, and may have missed it
            _settle(future, None, self._over)()
            return None
        return task.work, Chunk([(task.args, task.kwargs)], index, index, index + 1)

    def deliver(self, outcomes: list[Outcomes]) -> None:
        for some in outcomes:
            for index, value in enumerate(some.values, some.start):
                future = self._carried.pop(index, None)
                if future is not None:
                    self._due.append(_settle(future, value, some.failures.get(index)))

    def finish(self, error: BaseException | None) -> None:
        if error is not None:
            self._over = error
            futures = [*list(self._carried.values()), *[task.future for task in list(self._waiting)]]
            self._due.extend(_settle(future, None, error) for future in futures)
        self._carried.clear()
        self._waiting.clear()

    def shut_down(self, *, cancel: bool) -> list[Fact]:
        facts: list[Fact] = []
        for chunk in self.scheduler.drop_pending() if cancel else ():
            for task in chunk.items:
                if task.carried:  # it was with a worker, and came back to go to another
                    facts.append(Pulled([task]))
                else:
                    self._waiting.pop(task, None)
                    self._due.append(task.future.cancel)
                    self._due.append(partial(_begin, task.future))
        return [*facts, Ended()]

    def resolve(self) -> None:
        while self._due:
            try:
                due = self._due.popleft()
            except IndexError:  # another thread was faster
                return
            due()


def _begin(future: Future[Any]) -> bool:
    """Whether a future can still get a result: it runs from now on, or did before. Any thread may ask."""
    with future._condition:
        if future._state in ("PENDING", "CANCELLED"):
            return future.set_running_or_notify_cancel()
        return future._state == "RUNNING"


def _settle(future: Future[Any], value: object, error: BaseException | None) -> Callable[[], object]:
    def settle() -> None:
        if not _begin(future):
            return
        try:
            if error is None:
                future.set_result(value)
            else:
                future.set_exception(error)
        except InvalidStateError:
            pass  # settled, or cancelled, before

    return settle
