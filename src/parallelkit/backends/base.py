"""What a backend is: workers that take chunks, and a way to answer.

A backend must be able to carry a chunk to a worker and to report what became of it. All else has a
default that fits workers which are far away, share no memory and cannot give work back.

What a backend reports, it passes to `post`, from any thread:

    Settled        items of a chunk ended (from `_core.scheduler`)
    Rejected       a chunk could not travel
    WorkerJoined   a worker can take chunks: at the start, and whenever one comes
    WorkerLeft     a worker is gone, with the chunks it had
    Broken         no worker can be had any more
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Hashable, Mapping
from contextlib import suppress
from typing import Any, NamedTuple

from .._core.chunks import Chunk, Cut
from .._core.scheduler import Flight, Lost, Rejected, Settled
from .._work import Work
from .._worker import LANES
from ..cpus import cpu_count

__all__ = [
    "Backend",
    "Broken",
    "Event",
    "LazyBackend",
    "Post",
    "Rejected",
    "Settled",
    "Stats",
    "WorkerJoined",
    "WorkerLeft",
]


class WorkerJoined(NamedTuple):
    """A worker, by any hashable name, can take chunks. It need not be running yet.

    One that takes the place of another has a name of its own: chunks for that one may still be on their way.
    """

    worker: Hashable


class WorkerLeft(NamedTuple):
    """A worker is gone.

    `claimed` says, of the chunks it had, how many items of each were started; those without an outcome
    fail with `error`, the others are handed out again. Of a chunk that is not named, none was started.
    None for the whole says that it is not known: all may have been started.

    `ended` has the values, by chunk and by index in the input, of items that had ended and were not reported;
    `failed` has exceptions in the same way. In `one_by_one` are chunks of which nothing was started, but
    which it died of: their items travel alone when they are handed out again.
    """

    worker: Hashable
    error: Exception
    claimed: Mapping[int, int] | None = None
    ended: Mapping[int, Mapping[int, Any]] = {}
    failed: Mapping[int, Mapping[int, Exception]] = {}
    one_by_one: Collection[int] = ()

    def loss_of(self, flight: Flight, *, final: bool) -> Lost:
        """What became of one of its chunks."""
        chunk_id, chunk = flight.chunk_id, flight.chunk
        known = self.claimed if flight.carried else {}  # what nobody had carried yet was not started
        started = len(chunk) if known is None else known.get(chunk_id, 0)
        return Lost(
            chunk_id,
            chunk.start + started,
            self.error,
            final,
            self.ended.get(chunk_id, {}),
            self.failed.get(chunk_id, {}),
            chunk_id in self.one_by_one,
        )


class Broken(NamedTuple):
    """Nothing more can run: every call ends with `error`, or with a copy of it."""

    error: Exception


Event = Settled | Rejected | WorkerJoined | WorkerLeft | Broken
Post = Callable[[Event], None]


class Stats(NamedTuple):
    """What travelled between a program and its worker processes since the executor was made.

    Attributes:
        sent_through_pipes, received_through_pipes: bytes.
        sent_through_memory, received_through_memory: bytes of large buffers, in shared memory. What all
            workers read counts once.
        copies: how many large buffers were copied into shared memory, once each.
    """

    sent_through_pipes: int = 0
    received_through_pipes: int = 0
    sent_through_memory: int = 0
    received_through_memory: int = 0
    copies: int = 0


class Backend(ABC):
    """A place where chunks run. `start`, `submit` and `close` are enough.

    Attributes:
        depth: chunks that a worker holds at once: the one it runs and those that wait behind it.
        can_give_back: `take_back` works, so that chunks may be large and their tails fetched back.
        can_abandon: `abandon` works, so that plain functions can have a time limit.
        lanes: coroutines of an async function that a worker has in flight.
        eager: chunks run on while the caller does something else; False where they run in his thread.
        reports_in_worker: a worker itself reports, and so runs the callbacks of futures, before it is free.
    """

    depth: int = 1
    can_give_back: bool = False
    can_abandon: bool = False
    lanes: int = LANES
    eager: bool = True
    reports_in_worker: bool = False

    @classmethod
    def default_workers(cls) -> int:
        """The number of workers where the user names none."""
        return cpu_count()

    @abstractmethod
    def start(self, post: Post) -> None:
        """Called once, before all else: report `WorkerJoined` for each worker there is."""

    def populate(self) -> None:  # noqa: B027 - most have nothing to start
        """Start all workers now, and from now on each as soon as it joins; not only with its first chunk.

        Raises what starting one raises.
        """

    def handles(self) -> list[Any]:
        """What runs now, in the order of the workers' indices: processes or threads, where there are some."""
        return []

    @abstractmethod
    def submit(self, worker: Hashable, chunk_id: int, work: Work, chunk: Chunk) -> None:
        """Carry a chunk to a worker that has joined. Does not wait, does not raise: it reports.

        Every chunk must be reported: settled with `last`, rejected, or with its worker left. One for a worker
        that has left is not run: it was, or will be, handed out again because of that.
        """

    def stats(self) -> Stats:
        """What travelled, where something does."""
        return Stats()

    def seal(self, item: Any) -> Any:
        """An item that may be changed before its chunk is submitted, and is to arrive as it is now.

        Where items are not copied on their way, that cannot be.
        """
        return item

    @abstractmethod
    def close(self, *, kill: bool = False) -> None:
        """Let the workers go: when they have ended what they run, or with `kill` at once. Does not wait."""

    def disown(self) -> None:  # noqa: B027 - most have nothing to do
        """In a forked child: let go of what this process inherited, without touching what is the parent's."""

    def join(self, timeout: float | None = None) -> None:  # noqa: B027 - most have nothing to wait for
        """Wait until nothing of this backend is left (threads, processes), at most `timeout` seconds."""

    def take_back(self, chunk_id: int, cut: Cut) -> int | None:
        """Shorten a chunk as `cut` says; return the number of items that stay.

        With the cut `unstarted` the chunk's call is over, and nobody waits for the items that run.
        Called while the driver holds its lock, so it does not wait for a worker. None: cannot be said.
        """
        return None

    def forget(self, work: Work) -> None:  # noqa: B027 - most keep nothing
        """No chunk of this work will come any more."""

    def help(self, chunk_id: int, timeout: float | None) -> bool:
        """Called by a thread that waits for this chunk, and may do the backend's waiting in its stead.

        Returns:
            Whether it did, for as long as it made sense; else the caller waits in his own way.
        """
        return False

    def is_inside(self) -> bool:
        """Whether the calling thread holds a lock of this backend: then nothing may be asked of it.

        So it is where a garbage collector or a signal handler comes in between, and drops an iterator.
        """
        return False

    def running(self, chunk_id: int) -> tuple[int, float] | None:
        """How many items of a chunk were started, and when the last (`time.monotonic`); None if not known."""
        return None

    def abandon(self, chunk_id: int, started: int, error: Exception) -> bool:
        """Give up a worker that is stuck in an item: report `WorkerLeft` with `error`, perhaps a new one.

        Called only where `can_abandon`.

        Returns:
            Whether it was. Not if it has started more than so many items of the chunk meanwhile, or is
            through with it: another item would be hit.
        """
        raise NotImplementedError


class LazyBackend(Backend):
    """A backend of this machine: workers with an index, each started by the first chunk that it gets.

    The name of a worker is a number, its index what is left of that when it is divided by the number of
    workers. So one that takes the place of another has its index, and a name of its own.
    """

    def __init__(self, max_workers: int):
        self._max_workers = max_workers
        self._unstarted: set[int] = set()
        self._populated = False

    def start(self, post: Post) -> None:
        self._post = post
        for index in range(self._max_workers):
            self._join(index)

    def populate(self) -> None:
        self._populated = True
        for worker in sorted(self._unstarted):
            self._start(worker)

    @abstractmethod
    def _start(self, worker: int) -> object:
        """Start a worker, unless it was started before; raises what that raises."""

    def _join(self, worker: int) -> None:
        """From now on a worker may be started."""
        self._unstarted.add(worker)
        if self._populated:
            with suppress(Exception):  # then its first chunk tries again
                self._start(worker)
        self._post(WorkerJoined(worker))

    def _join_in_place_of(self, worker: int) -> None:
        self._join(worker + self._max_workers)

    def _index(self, worker: int) -> int:
        return worker % self._max_workers
