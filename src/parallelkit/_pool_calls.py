"""What the calls of a pool are to the driver: a map that ends in one future, and a stream that feeds itself.

Both go on while nobody looks, as those of `multiprocessing.Pool` do; a `MapCall` is moved by who reads it.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from itertools import islice
from queue import SimpleQueue
from typing import Any

from ._call import Call
from ._calls import TaskFuture, note_item
from ._core.chunks import Chunk, Sliceable
from ._core.outcome import Outcomes
from ._core.scheduler import Fact, Flight, Scheduler
from ._driver import Driver
from ._work import Work, as_item_error
from .errors import ParallelError

__all__ = ["GatherCall", "StreamCall"]


class _PoolCall(Call):
    def __init__(self, driver: Driver, work: Work, scheduler: Scheduler):
        self.work = work
        self.scheduler = scheduler
        self._driver = driver

    def _open(self, items: Sliceable | None, *, ended: bool) -> None:
        try:
            self._driver.open(self, items, ended=ended)
        except ParallelError as error:  # no worker can be had: who asks for results is told
            self.finish(error)

    def shut_down(self, *, cancel: bool) -> list[Fact]:
        return []  # what was asked for is done; to be rid of it, the driver is closed with `kill`

    def note(self, error: Exception, index: int, chunk: Chunk) -> None:
        note_item(error, index, chunk)


def _units(source: Iterator[Any], size: int) -> Iterator[list[Any]]:
    while unit := list(islice(source, size)):
        yield unit


class GatherCall(_PoolCall):
    """A map over an input that is all there.

    Attributes:
        future: of the list of results; or of the error that is the first in the order of the input, when all
            items have ended. Its callbacks run in a thread of the backend, and must not wait.
        left: the number of items that have not ended.
    """

    def __init__(self, driver: Driver, work: Work, scheduler: Scheduler, items: Sliceable):
        super().__init__(driver, work, scheduler)
        self.future = TaskFuture(driver.backend)
        self.future.set_running_or_notify_cancel()
        self.left = len(items)
        self._pieces: list[Outcomes] = []
        self._due: deque[Callable[[], object]] = deque()
        self._open(items, ended=True)
        self.resolve()  # it may be done: without items, or without workers

    def deliver(self, outcomes: list[Outcomes]) -> None:
        for some in outcomes:
            self._pieces.append(some)
            self.left -= len(some)

    def finish(self, error: BaseException | None) -> None:
        self._due.append(self._settle if error is None else lambda: self.future.set_exception(error))

    def resolve(self) -> None:
        try:
            due = self._due.popleft()
        except IndexError:  # it is not done, or another thread was faster
            return
        due()

    def _settle(self) -> None:
        pieces, self._pieces = self._pieces, []
        failures = {index: error for some in pieces for index, error in some.failures.items()}
        if failures:
            self.future.set_exception(failures[min(failures)])
        else:
            pieces.sort(key=lambda outcomes: outcomes.start)
            self.future.set_result([value for outcomes in pieces for value in outcomes.values])


class StreamCall(_PoolCall):
    """A map whose results are read as they come; a thread of its own reads its input, as there is room.

    Args:
        items: the whole input where it can be sliced; else `source` is an iterator over it.
        chunksize: items that travel together, where the caller said so: then the iterator is read by as many.
        ended: called when there is nothing more to do; it must not wait.
    """

    def __init__(
        self,
        driver: Driver,
        work: Work,
        scheduler: Scheduler,
        *,
        items: Sliceable | None,
        source: Iterator[Any] | None,
        chunksize: int | None,
        ended: Callable[[], object],
    ):
        super().__init__(driver, work, scheduler)
        self._inbox: SimpleQueue[Outcomes | None] = SimpleQueue()
        self._unit = chunksize or 1  # items that are fed together
        self._error: BaseException | None = None
        self._ended: Callable[[], object] | None = ended
        self._over = False
        self._unread = False
        self._read = False
        self._pulled: deque[Any] = deque()  # items that no worker is waiting for
        self._feeding = threading.Lock()
        self._room = threading.Event()
        self._open(items, ended=source is None)
        if source is not None and not self._over:
            feeder = threading.Thread(
                target=self._feed, args=(source,), name="parallelkit-feeder", daemon=True
            )
            try:
                feeder.start()
            except BaseException:
                driver.stop(self)
                raise
        self.resolve()  # it may be done: without items, or without workers

    # For the reader

    def take(self, timeout: float | None = None) -> Outcomes | None:
        """The next outcomes; None when there are no more, every time that it is asked.

        Raises:
            queue.Empty: there are none yet, after `timeout` seconds.
            Exception: what the input raised, or why the call was ended, once, behind the last outcomes.
        """
        self._read = True
        outcomes = self._inbox.get(timeout=None if timeout is None else max(0.0, timeout))
        if outcomes is None:
            self._inbox.put(None)  # for who asks again
            error, self._error = self._error, None
            if error is not None:
                raise error
        return outcomes

    def consumed(self, items: int) -> None:
        """The reader has handed on so many results: there is room for more."""
        self._driver.consumed(self, items)
        if self.scheduler.hungry:
            self._room.set()

    def let_go(self) -> None:
        """Nobody will read any more. Of what nobody has begun to read, the rest is run for its effects."""
        if self._read:
            self._driver.stop(self)
        else:
            self._unread = True
            self._driver.lift_window(self)

    # The thread that feeds

    def _feed(self, source: Iterator[Any]) -> None:
        try:
            self._feed_from(source)
        except BaseException as error:
            self._error = as_item_error(error)
        finally:
            del source
            with self._feeding:
                self._driver.feed(self, self._take_pulled(), ended=True)
            self.resolve()

    def _feed_from(self, source: Iterator[Any]) -> None:
        """An item at a time, or a chunk, for the next may be long in coming: what is there must not wait.

        Each is sealed: an input may yield one and the same object, changed each time. Where the input raises,
        a chunk that is not complete is lost, as with multiprocessing.
        """
        seal = self._driver.backend.seal
        sealed = map(seal, source)
        units = sealed if self._unit == 1 else _units(sealed, self._unit)
        add = self._pulled.append if self._unit == 1 else self._pulled.extend
        room = self._wait_for_room()
        for unit in units if room else ():
            add(unit)
            del unit
            room -= self._unit
            if room < self._unit or self.scheduler.hungry:
                with self._feeding:
                    self._driver.feed(self, self._take_pulled())
                room = self._wait_for_room()
                if not room:
                    return

    def _take_pulled(self) -> list[Any]:
        return [self._pulled.popleft() for _ in range(len(self._pulled))]

    def _wait_for_room(self) -> int:
        """How many items may be pulled; 0 where nobody wants them any more."""
        while not self._over:
            self._room.clear()
            wanted = self.scheduler.wanted
            if wanted >= self._unit:
                return wanted
            self._room.wait()
        return 0

    # For the driver

    def carry(self, flight: Flight) -> tuple[Work, Chunk] | None:
        """Workers take from what was fed: perhaps it is time for what was pulled meanwhile.

        The feeder looks whether it is after each item. So one of the two sees it, whoever comes second.
        """
        if self.scheduler.hungry:
            self._room.set()
        while self._pulled and self.scheduler.hungry and self._feeding.acquire(blocking=False):
            try:
                self._driver.feed(self, self._take_pulled())
            finally:
                self._feeding.release()
        return super().carry(flight)

    def lift_window(self) -> None:
        super().lift_window()
        self._room.set()

    def close_input(self, *, leaving: bool = False) -> None:
        self._driver.lift_window(self)

    def deliver(self, outcomes: list[Outcomes]) -> None:
        if not self._unread:
            for some in outcomes:
                self._inbox.put(some)

    def finish(self, error: BaseException | None) -> None:
        if error is not None:
            self._error = error
        self._over = True
        self._room.set()
        self._inbox.put(None)

    def resolve(self) -> None:
        if self._over:
            ended, self._ended = self._ended, None  # it keeps the pool alive, and is not needed again
            if ended is not None:
                ended()
