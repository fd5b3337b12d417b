"""Workers that are processes: for work that computes.

Each worker is a `multiprocessing.Process` with two pipes of its own, in which chunks go down and outcomes
come up in frames (see `_wire.frames`), and a table of claims in shared memory. One thread of the
parent, started with the first worker, reads all answers and learns of all deaths.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Hashable
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

from .._core.chunks import Chunk, Cut
from .._core.scheduler import Rejected, Settled
from .._wire.answers import all_failed, read_failures, read_outcomes, result_failed
from .._wire.claims import ClaimFile, ClaimTable
from .._wire.endings import ATTEMPTS, TOO_MANY, DeadlyFunctions, died, dies_at_start, start_failed, weight
from .._wire.exceptions import unpack_exception
from .._wire.frames import LAST, Frame, Kind
from .._wire.heritage import Heritage
from .._wire.native_threads import said_by_user
from .._wire.packing import Packer, Unpicklable
from .._wire.peer import Peer, Selector
from .._wire.pickling import (
    dumps,
    is_immutable,
    loads,
)
from .._wire.portable import Portable, WorkerName
from .._wire.rules import rules
from .._wire.serving import serve
from .._wire.starting import fill_standard_streams, prepare_start, start_context
from .._work import Work, as_item_error, initializer_failed, owned
from ..cpus import cpu_count
from ..errors import SerializationError
from .base import Broken, LazyBackend, Stats, WorkerLeft

if TYPE_CHECKING:
    from multiprocessing.context import BaseContext

__all__ = ["ProcessBackend"]


class ProcessBackend(LazyBackend):
    """Processes, each started by the first chunk it gets, and replaced under the same index when it dies.

    With `inherit_main`, functions and classes of `__main__` that workers have since they were forked go by
    name, and see its globals as they were then; else all of `__main__` goes by value, as it is at each call.
    """

    depth = 2
    can_give_back = True
    can_abandon = True

    def __init__(
        self,
        max_workers: int,
        *,
        mp_context: BaseContext | str | None = None,
        initializer: partial[object] | None = None,
        finalizer: Callable[[], object] | None = None,
        max_tasks_per_child: int | None = None,
        max_memory_per_child: int | None = None,
        inherit_main: bool = False,
    ):
        super().__init__(max_workers)
        self._context: Any = start_context(mp_context)
        self._server_signals = self._context.get_start_method() == "forkserver" and hasattr(
            signal, "pthread_sigmask"
        )
        self._initializer = initializer
        self._finalizer = finalizer
        self._max_tasks = max_tasks_per_child
        self._max_memory = max_memory_per_child
        fill_standard_streams()
        self._claims = ClaimFile(max_workers)
        try:
            self._selector = Selector()
        except BaseException:
            self._claims.close()
            raise
        self._thread: threading.Thread | None = None
        self._starting = threading.RLock()
        self._peers: dict[int, Peer] = {}
        self._carriers: dict[int, Peer] = {}  # by number of chunk
        self._heritage = Heritage() if inherit_main and self._context.get_start_method() == "fork" else None
        self._packer = Packer(max_workers, self._heritage, self._tell_all_to_forget, self._tell_all_to_trim)
        self._gone_traffic: tuple[int, ...] = (0, 0)  # of workers that are gone
        self._failed_starts = 0
        self._deadly = DeadlyFunctions()
        self._populating = False
        self._broken = False
        self._closed = False

    # Down

    def submit(self, worker: Hashable, chunk_id: int, work: Work, chunk: Chunk) -> None:
        assert isinstance(worker, int)
        try:
            frame, before = self._pack(chunk_id, work, chunk)
        except Unpicklable as unpicklable:
            self._packer.note_not_sent(chunk_id)
            self._post(Rejected(chunk_id, unpicklable.failures))
            return
        try:
            peer = self._peers.get(worker) or self._start(worker)
        except Exception as error:
            # Not broken: what is missing, processes or descriptors, may be there for the next.
            self._packer.note_not_sent(chunk_id, frame.places)
            failure = start_failed(error)
            self._post(Rejected(chunk_id, dict.fromkeys(range(chunk.start, chunk.stop), failure)))
            return
        if peer is not None:
            self._carriers[chunk_id] = peer
            if peer.send_chunk(frame, chunk, before):
                return
            del self._carriers[chunk_id]
        self._packer.note_not_sent(chunk_id, frame.places)

    def _pack(self, chunk_id: int, work: Work, chunk: Chunk) -> tuple[Frame, list[Frame]]:
        """A chunk as it travels, and what has to travel before it."""
        flags, key, body, before = self._packer.function(chunk_id, work, chunk)
        if (refusal := self._deadly.refusal(key, range(chunk.start, chunk.stop))) is not None:
            raise Unpicklable(dict.fromkeys(refusal.indices, refusal))
        extra, places = self._packer.items(chunk_id, chunk, before)
        return Frame(Kind.CHUNK, flags, 0, chunk_id, key, chunk.start, 0.0, body, extra, places), before

    def stats(self) -> Stats:
        piped = [self._gone_traffic, *(peer.traffic for peer in list(self._peers.values()))]
        sent, received = map(sum, zip(*piped, strict=True))
        return Stats(sent, received, *self._packer.traffic)

    def seal(self, item: Any) -> Any:
        if is_immutable(item):
            return item
        try:
            return self._packer.sealed(item)
        except Exception:  # as when its chunk is packed, which will say so
            return item

    def _start(self, worker: int) -> Peer | None:
        """Start the process of a worker; None if it has ended already."""
        with self._starting:
            peer = self._peers.get(worker)
            if peer is None and worker in self._unstarted:
                if self._closed:
                    raise RuntimeError("the executor is closed")
                prepare_start(self._server_signals)
                claims = ClaimTable(self._claims, self._index(worker))
                self._claims.lent = True
                try:
                    peer = self._peers[worker] = self._new_peer(worker, claims)
                finally:
                    self._claims.lent = False
                self._unstarted.discard(worker)
                if not self._populating:
                    self._start_listening()
            return peer

    def _new_peer(self, worker: int, claims: ClaimTable) -> Peer:
        for _ in range(ATTEMPTS - 1):
            with suppress(BrokenPipeError):  # it ended before it had read what it is to do
                return self._new_peer_at_once(worker, claims)
        return self._new_peer_at_once(worker, claims)

    def _new_peer_at_once(self, worker: int, claims: ClaimTable) -> Peer:
        try:
            with self._packer.starting(worker):
                peer = Peer(worker, self, self._selector, claims)
        except BaseException:
            self._packer.note_gone(worker, self._index(worker))
            raise
        for frame in self._packer.with_initializer:
            peer.learn(frame.first)
        return peer

    def _start_listening(self) -> None:
        if self._thread is None:
            # Not joined at interpreter exit: close() and join() are called there in time.
            thread = threading.Thread(target=self._listen, name="parallelkit-answers", daemon=True)
            try:
                thread.start()
            finally:  # Ctrl-C may come when it runs already
                self._thread = thread if thread.ident is not None else None

    def populate(self) -> None:
        """All processes first, then the thread: a process had better be forked where there are no others."""
        with self._starting:
            self._populating = True
            try:
                super().populate()
            finally:
                self._populating = False
                self._start_listening()

    def new_pipe(self) -> tuple[Any, Any]:
        to_read, to_write = self._context.Pipe(duplex=False)
        return to_read, to_write

    def new_process(self, worker: int, chunks: Any, answers: Any, claims: ClaimTable) -> Any:
        """A worker process, not started yet."""
        function: Any = None
        arguments: tuple[Any, ...] = ()
        if self._initializer is not None:
            function, arguments = self._initializer.func, self._initializer.args
            if self._heritage is None:
                try:
                    # By value also to a forked worker, which has it but must see whose globals it sets.
                    function = dumps(function)
                except Exception:
                    pass  # it may be one that travels while a process starts: a method of a lock
        process = self._context.Process(
            target=serve,
            args=(
                chunks,
                answers,
                claims,
                self._packer.arena,
                self._index(worker),
                os.getpid(),
                Portable((function, arguments), partial(self._packer.initializer, worker)),
                None if self._finalizer is None else dumps(self._finalizer),
                self._max_tasks,
                self._max_memory,
                self._context.get_start_method() == "fork",
                self._heritage is not None,
                rules(),
                (max(1, cpu_count() // self._max_workers), said_by_user()),
            ),
            name=WorkerName(f"parallelkit-{self._index(worker)}"),
        )
        if type(process).__module__ in ("__main__", "__mp_main__"):
            process.name = str(process.name)  # a class of the script: its process must import that
        return process

    # Up

    def _listen(self) -> None:
        """The thread that reads answers and learns of deaths."""
        try:
            while self._peers or not self._closed:
                for key, events in self._selector.select():
                    key.data(events)
        except BaseException as error:  # a defect of ours; nobody is to wait for answers that nobody reads
            self._post(Broken(as_item_error(error)))
            for peer in list(self._peers.values()):
                peer.kill(None)
            raise
        finally:
            with self._starting:
                self._closed = True
                self._selector.close()
                self._close_memory()

    def on_send(self, peer: Peer, frame: Frame) -> bool:
        return self._packer.note_sent(peer.worker, frame)

    def on_frame(self, peer: Peer, frame: Frame) -> None:
        if frame.kind == Kind.SETTLED:
            try:
                outcomes = read_outcomes(frame, self._packer.buffers(self._index(peer.worker), frame))
            except SerializationError as failure:
                outcomes = all_failed(frame, failure)
            if self._deadly:
                self._deadly.forget(peer.key_of(frame.number))
            if frame.flags & LAST:
                self._land(peer, frame.number)
            else:
                peer.note_settled(frame.number, frame.second)
            self._post(Settled(frame.number, outcomes, frame.seconds, bool(frame.flags & LAST)))
        elif frame.kind == Kind.REJECTED:
            chunk = self._land(peer, frame.number)
            failures = read_failures(frame)
            if -1 in failures:
                failures = dict.fromkeys(range(chunk.start, chunk.stop), failures[-1])
            self._post(Rejected(frame.number, failures))
        elif frame.kind == Kind.LET_GO:
            self._packer.note_let_go(peer.worker, frame.first)
        elif frame.kind == Kind.READY:
            self._failed_starts = 0
        elif frame.kind == Kind.BROKEN:
            cause = unpack_exception(loads(frame.extra))
            error = initializer_failed(cause)
            error.__cause__ = cause
            self._break(error)

    def on_death(self, peer: Peer, exitcode: int | None) -> None:
        """A worker process has ended, all that it wrote has been read."""
        with self._starting:  # it may end before the thread that starts it has put it there
            del self._peers[peer.worker]
        self._packer.note_gone(peer.worker, self._index(peer.worker))
        self._gone_traffic = tuple(map(sum, zip(self._gone_traffic, peer.traffic, strict=True)))
        left = peer.left_behind()
        for chunk_id in left.claimed:
            self._carriers.pop(chunk_id, None)
            self._packer.note_landed(chunk_id)
        if not peer.ready and not peer.expendable:
            self._failed_starts += weight(exitcode)
            if self._failed_starts >= TOO_MANY:
                self._break(dies_at_start(exitcode))
        error = peer.given_up_for or died(self._index(peer.worker), exitcode, left.indices)
        for key in left.read if self._deadly else ():
            self._deadly.forget(key)
        if left.function is not None:
            self._deadly.note_death(left.function, exitcode)
        failed = {
            chunk_id: {index: result_failed(cause) for index, cause in failures.items()}
            for chunk_id, failures in left.failures.items()
        }
        self._post(WorkerLeft(peer.worker, error, left.claimed, left.values, failed, left.one_by_one))
        if not (self._closed or self._broken):
            self._join_in_place_of(peer.worker)

    def _break(self, error: Exception) -> None:
        """No worker can be had: none is started any more."""
        self._broken = True
        self._post(Broken(error))

    def _land(self, peer: Peer, chunk_id: int) -> Chunk:
        self._carriers.pop(chunk_id, None)
        self._packer.note_landed(chunk_id)
        return peer.land(chunk_id)

    # While it runs

    def handles(self) -> list[Any]:
        names = sorted(self._peers, key=self._index)
        return [peer.process for name in names if (peer := self._peers.get(name)) is not None]

    def take_back(self, chunk_id: int, cut: Cut) -> int | None:
        peer = self._carriers.get(chunk_id)
        return None if peer is None else peer.take_back(chunk_id, cut)

    def help(self, chunk_id: int, timeout: float | None) -> bool:
        peer = self._carriers.get(chunk_id)
        return peer is not None and peer.listen_here(chunk_id, timeout)

    def running(self, chunk_id: int) -> tuple[int, float] | None:
        peer = self._carriers.get(chunk_id)
        return None if peer is None else peer.running(chunk_id)

    def abandon(self, chunk_id: int, started: int, error: Exception) -> bool:
        peer = self._carriers.get(chunk_id)
        return peer is not None and peer.kill_inside(chunk_id, started, error)

    def forget(self, work: Work) -> None:
        if work.packed is not None:
            self._tell_all_to_forget(work.packed[0])

    def is_inside(self) -> bool:
        peers = list(self._peers.values())
        if owned(self._starting) or self._packer.is_inside():
            return True
        return any(peer.is_inside() for peer in peers)

    def _tell_all_to_forget(self, key: int) -> None:
        self._deadly.forget(key)
        for peer in list(self._peers.values()):
            peer.forget(key)
        self._packer.forget(key)

    def _tell_all_to_trim(self) -> None:
        for peer in list(self._peers.values()):
            peer.trim()

    # The end

    def close(self, *, kill: bool = False) -> None:
        with self._starting:
            peers = list(self._peers.values())
            if not self._closed:
                self._closed = True
                if self._thread is None:
                    self._selector.close()
                    self._close_memory()
                elif not peers:
                    self._selector.wake()  # there is no end of a worker that it could notice
        for peer in peers:
            if kill:
                peer.kill(None)
            else:
                peer.leave()

    def disown(self) -> None:
        self._thread = None
        self._selector.disown()
        for peer in self._peers.values():
            peer.disown()
        if not self._claims.lent:
            self._packer.disown()
        self._claims.disown()

    def _close_memory(self) -> None:
        self._claims.close()
        self._packer.close()

    def join(self, timeout: float | None = None) -> None:
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(timeout)
