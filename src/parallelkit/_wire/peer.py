"""The parent's side of one worker process."""

from __future__ import annotations

import os
import select
import selectors
import threading
from collections.abc import Iterable
from contextlib import ExitStack, suppress
from functools import partial
from multiprocessing import process as processes
from time import monotonic
from typing import Any, NamedTuple, Protocol

from .._core.chunks import Chunk, Cut
from .._lifetime import closing_fds
from .._work import owned
from .claims import SLOTS, ClaimTable
from .endings import poll_one_at_a_time, reap
from .frames import ONCE, Frame, FrameReader, FrameWriter, Kind, is_readable
from .logs import Hearing
from .rules import rules

__all__ = ["Owner", "Peer", "Selector"]

MOST_SECONDS = 1e6
"""More than poll() can count to; whoever has waited for so long may ask again."""

PIPE_BYTES = 1 << 18  # benchmarks/constants.py
"""As much as a socket pair holds. More would bring many workers to the limit of a user's pipes, 64 MiB."""


class Selector(selectors.DefaultSelector):
    """Waits for many descriptors, some of which may be left out for a while where there is epoll."""

    _selector: Any  # the epoll object

    can_pause = hasattr(select, "epoll")

    def __init__(self) -> None:
        super().__init__()
        self._open = True
        try:
            self._woken, self._waker = os.pipe()
        except BaseException:
            super().close()
            raise
        self.register(self._woken, selectors.EVENT_READ, lambda events: os.read(self._woken, 1))

    def wake(self) -> None:
        """Let `select` return, in whichever thread it waits."""
        os.write(self._waker, b"x")

    def disown(self) -> None:
        """In a forked child: close our copies; what the parent watches stays."""
        if self._open:
            self.close()

    def close(self) -> None:
        with closing_fds:
            self._open = False  # from here on, the numbers may be those of other files
            super().close()
            os.close(self._woken)
            os.close(self._waker)

    def pause(self, fd: int) -> None:
        """Do not report this descriptor until `resume`."""
        self._selector.modify(fd, 0)

    def resume(self, fd: int) -> None:
        """Report it again, when it can be read."""
        self._selector.modify(fd, select.EPOLLIN)


class Owner(Protocol):
    """Who makes the processes, and is told what comes of them."""

    def new_pipe(self) -> tuple[Any, Any]:
        """The end to read from and the end to write to, as connections of multiprocessing."""
        ...

    def new_process(self, worker: int, chunks: Any, answers: Any, claims: ClaimTable) -> Any:
        """A worker process, not started yet, with its ends of two pipes."""
        ...

    def on_send(self, peer: Peer, frame: Frame) -> bool:
        """A chunk, or a work, is about to be sent to a worker that lives. False: not this one any more."""
        ...

    def on_frame(self, peer: Peer, frame: Frame) -> None:
        """A worker has answered."""
        ...

    def on_death(self, peer: Peer, exitcode: int | None) -> None:
        """A worker process has ended; all that it wrote has been read."""
        ...


class LeftBehind(NamedTuple):
    """What a dead worker leaves.

    Attributes:
        claimed: of each chunk, how many items were started.
        values, failures: of each, values of items that ended, exceptions of those that cannot be rebuilt.
        indices: the items without an outcome: it was in them.
        one_by_one: chunks that it died of while it read their items: one of them is to blame, none was run.
        function: key of the function that it died of while it read that.
        read: keys of functions that it had read.
    """

    claimed: dict[int, int]
    values: dict[int, dict[int, Any]]
    failures: dict[int, dict[int, BaseException]]
    indices: list[int]
    one_by_one: set[int]
    function: int | None
    read: set[int]


class Peer:
    """One worker process as the parent sees it: its two pipes, its claims, the chunks it has."""

    def __init__(self, worker: int, owner: Owner, selector: Selector, claims: ClaimTable):
        self.worker = worker
        self.ready = False
        self.expendable = False  # its death is no news: it was told to go
        self.given_up_for: Exception | None = None
        self._killed = False  # by us
        self._owner = owner
        self._selector = selector
        self._lock = threading.RLock()  # which knows who has it
        self._reading = threading.RLock()  # held by the one thread that reads answers and takes them in
        self._claims = claims
        self._gone = False
        self._knows: set[int] = set()
        self._chunks: dict[int, tuple[Chunk, int, int]] = {}  # by number: chunk, slot, key of the work
        self._settled: dict[int, int] = {}
        self._free_slots = list(range(SLOTS))
        self._hearing = Hearing()
        self._rules = rules()  # the ones it has; it is started with these, or with newer ones
        with ExitStack() as ours, ExitStack() as theirs:
            self._up, answers = owner.new_pipe()
            ours.callback(self._up.close)
            theirs.callback(answers.close)
            chunks, self._down = owner.new_pipe()
            ours.callback(self._down.close)
            theirs.callback(chunks.close)
            self.process = owner.new_process(worker, chunks, answers, self._claims)
            self.process.start()
            poll_one_at_a_time(self.process)
            ours.pop_all()  # from here on they are closed with the process
        self._up_fd, self._down_fd = self._up.fileno(), self._down.fileno()
        for fd in (self._up_fd, self._down_fd):
            os.set_blocking(fd, False)
            widen(fd)
        self._reader = FrameReader(self._up_fd)
        self._writer = FrameWriter(self._down_fd)
        self._open = True  # the pipes
        self._death = death_fd(self.process)
        self._selector.register(self._up_fd, selectors.EVENT_READ, self._on_answers)
        self._selector.register(self._death, selectors.EVENT_READ, self._on_death)
        if selector.can_pause:
            self._poll = select.poll()
            self._poll.register(self._up_fd, select.POLLIN)
            self._poll.register(self._death, select.POLLIN)

    # Down

    def send_chunk(self, frame: Frame, chunk: Chunk, before: Iterable[Frame] = ()) -> bool:
        """Send a chunk, after the works that it needs and that go alone, if the worker lives; whether so."""
        now = rules()
        with self._lock:
            if self._gone:
                return False
            if now is not self._rules:
                self._rules = now
                self._write(Frame(Kind.RULES, extra=now))
            for work in before:
                # Without its work, where the call is over already, the chunk is rejected.
                if work.first not in self._knows and self._owner.on_send(self, work):
                    self._knows.add(work.first)
                    self._write(work)
            self._owner.on_send(self, frame)
            slot = self._free_slots.pop()
            self._claims.open(slot, len(chunk))
            self._chunks[frame.number] = chunk, slot, frame.first
            known = frame.first in self._knows
            if not frame.flags & ONCE:
                self._knows.add(frame.first)
            self._write(frame, slot, with_body=not known)
            return True

    def learn(self, key: int) -> None:
        """It has this since it was started."""
        self._knows.add(key)

    def forget(self, key: int) -> None:
        with self._lock:
            if key in self._knows:
                self._knows.discard(key)
                self._write(Frame(Kind.FORGET, first=key))

    def trim(self) -> None:
        with self._lock:
            if not self._gone:
                self._write(Frame(Kind.TRIM))

    def leave(self) -> None:
        self.expendable = True
        with self._lock:
            self._write(Frame(Kind.LEAVE))

    def kill(self, reason: Exception | None) -> None:
        with self._lock:
            if not self._gone:
                self.expendable = self._killed = True
                self.given_up_for = reason
                self.process.kill()

    def kill_inside(self, chunk_id: int, started: int, reason: Exception) -> bool:
        """Kill the worker if it has started so many items of a chunk and none after; whether it was so."""
        with self._lock:
            if self._gone or chunk_id not in self._chunks:
                return False
            numbers = [*self._chunks]
            later = [self._chunks[number][1] for number in numbers[numbers.index(chunk_id) + 1 :]]
            slot = self._chunks[chunk_id][1]
            return self._claims.while_at(slot, started, later, partial(self.kill, reason))

    def disown(self) -> None:
        """In a forked child: the worker must not take this process for its parent, nor wait for its end."""
        if self._gone:
            return
        self._gone = True
        self._open = False
        finalizer = self.process._popen.finalizer
        self._up.close()
        self._down.close()
        everywhere: Any = processes
        everywhere._children.discard(self.process)  # else it would be joined at exit, by one that cannot
        if finalizer.still_active():
            for fd in finalizer._args:
                os.close(fd)

    def _write(self, frame: Frame, slot: int = 0, *, with_body: bool = True) -> None:
        if not self._open:
            return
        waited = self._writer.waits
        try:
            if not self._writer.write(frame, slot, with_body=with_body) and not waited:
                self._selector.register(self._down_fd, selectors.EVENT_WRITE, self._on_room)
        except OSError:
            pass  # it is dying; its death is reported on its own

    # Up, in the listening thread

    def listen_here(self, chunk_id: int, timeout: float | None) -> bool:
        """Read this worker's answers in the calling thread until the chunk has landed or time is over.

        It saves the way from the listening thread to the one that waits, half of a short round trip.
        """
        if not self._selector.can_pause or owned(self._reading):
            return False
        try:
            if not self._reading.acquire(blocking=False):
                return False
            with self._lock:
                if not self._open:
                    return False
                self._selector.pause(self._up_fd)
            deadline = None if timeout is None else monotonic() + min(timeout, MOST_SECONDS)
            while chunk_id in self._chunks:
                left = None if deadline is None else max(0.0, deadline - monotonic()) * 1000
                ready = self._poll.poll(left)
                if not ready or not self._open:
                    break
                if not self._read_or_kill() or any(fd == self._death for fd, _ in ready):
                    break
                if deadline is not None and monotonic() > deadline:  # it may log without end
                    break
            return True
        finally:
            if owned(self._reading):  # also where Ctrl-C comes just after it was taken
                with self._lock:
                    if self._open:
                        self._selector.resume(self._up_fd)
                self._reading.release()

    def _read_or_kill(self) -> bool:
        try:
            return self._read()
        except BaseException:  # Ctrl-C while an answer was half taken in: what is left of it is lost
            self.kill(None)
            raise

    def _on_answers(self, events: int) -> None:
        if self._reading.acquire(blocking=False):
            try:
                self._read()
            finally:
                self._reading.release()

    def _on_room(self, events: int) -> None:
        """There is room for what could not be written at once."""
        with self._lock:
            try:
                done = self._open and self._writer.flush()
            except OSError:  # it is dying
                done = True
            if done and self._open:
                self._selector.unregister(self._down_fd)

    def _read(self) -> bool:
        """Read once, and pass on what came; whether there may be more."""
        if not self._open:
            return False
        try:
            frames = self._reader.read()
        except BlockingIOError:
            return False
        except (EOFError, OSError):
            self._close_pipes()
            return False
        for frame in frames:
            if frame.kind == Kind.TOLD:
                self._hearing.take(frame)
                continue
            self.ready = True
            self._owner.on_frame(self, frame)
        return True

    def _on_death(self, events: int) -> None:
        if not is_readable(self._death):
            return  # an old event of another descriptor of this number
        with self._reading:  # who listens in our stead is woken by the same death, and lets go
            while self._read():
                pass
            self._close_pipes()
        self._selector.unregister(self._death)
        exitcode = reap(self.process)
        with self._lock, closing_fds:
            self._gone = True
            if exitcode is not None:
                self.process._popen.close()  # its descriptors; its exit code can still be asked for
        self._owner.on_death(self, exitcode)

    def _close_pipes(self) -> None:
        with self._lock, closing_fds:
            if self._open:
                self._open = False
                self._selector.unregister(self._up_fd)
                with suppress(KeyError):  # only while something waits to be written
                    self._selector.unregister(self._down_fd)
                self._up.close()
                self._down.close()

    @property
    def traffic(self) -> tuple[int, int]:
        """Bytes that were sent and received through its pipes."""
        return self._writer.bytes_written, self._reader.bytes_read

    def is_inside(self) -> bool:
        """Whether the calling thread holds the lock."""
        return owned(self._lock)

    # The chunks it has

    def land(self, chunk_id: int) -> Chunk:
        with self._lock:
            chunk, slot, _ = self._chunks.pop(chunk_id)
            self._settled.pop(chunk_id, None)
            self._free_slots.append(slot)
            return chunk

    def key_of(self, chunk_id: int) -> int:
        """The key of the work of a chunk."""
        return self._chunks[chunk_id][2]

    def note_settled(self, chunk_id: int, stop: int) -> None:
        self._settled[chunk_id] = stop

    def left_behind(self) -> LeftBehind:
        """What became of the chunks it had, now that it is dead."""
        left = LeftBehind({}, {}, {}, [], set(), None, set())
        journal = self._claims.ended()
        for chunk_id, (chunk, slot, work) in self._chunks.items():
            settled = self._settled.get(chunk_id, chunk.start)
            started = self._claims.started(slot)
            # One that we have ended did not die of what it was reading.
            reading = None if self._killed else self._claims.died_reading(slot)
            if reading == "function":
                started, left = self._claims.stop(slot), left._replace(function=work)
            elif reading == "items":
                started = len(chunk) if len(chunk) == 1 else 0
                left.one_by_one.add(chunk_id)
            elif journal.number == chunk_id:
                left.values[chunk_id], left.failures[chunk_id] = journal.values, journal.failures
                if journal.begun is not None:
                    started = min(started, max(journal.begun, settled) - chunk.start)
            left.claimed[chunk_id] = started
            if reading != "function" and (started or reading):
                left.read.add(work)
            ended = left.values.get(chunk_id, {}).keys() | left.failures.get(chunk_id, {}).keys()
            left.indices.extend(i for i in range(settled, chunk.start + started) if i not in ended)
        return left

    def take_back(self, chunk_id: int, cut: Cut) -> int | None:
        with self._lock:
            if self._gone or chunk_id not in self._chunks:
                return None
            return self._claims.take_back(self._chunks[chunk_id][1], cut)

    def running(self, chunk_id: int) -> tuple[int, float] | None:
        with self._lock:
            if self._gone or chunk_id not in self._chunks:
                return None
            slot = self._chunks[chunk_id][1]
            return self._claims.started(slot), self._claims.since(slot)


def widen(fd: int) -> None:
    """Have a pipe hold more than the 64 KiB that it does by itself, at which large answers move slowly."""
    try:
        import fcntl

        fcntl.fcntl(fd, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
    except (ImportError, AttributeError, OSError):  # not Linux, or this user has as much as he may
        pass


def death_fd(process: Any) -> int:
    """A descriptor that becomes readable when the process has ended: its sentinel.

    That of a forked or spawned process is a pipe that its own children inherit, and stays open as long as
    one of them lives. A pidfd does not, so it takes its place. With the fork server the server has the pipe.
    """
    sentinel: int = process.sentinel
    if hasattr(os, "pidfd_open") and process._popen.method != "forkserver":
        try:
            pidfd = os.pidfd_open(process.pid)
        except OSError:  # an old kernel
            return sentinel
        with closing_fds:
            os.dup2(pidfd, sentinel, inheritable=False)
            os.close(pidfd)
    return sentinel
