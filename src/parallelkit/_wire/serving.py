"""The main function of a worker process: reads chunks, runs them, answers."""

from __future__ import annotations

import gc
import os
import select
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from functools import partial
from multiprocessing import parent_process
from multiprocessing.connection import Connection
from time import perf_counter
from types import ModuleType
from typing import Any, NoReturn

from .._core.outcome import Outcomes
from .._sharing import forget_arrived, keep_arrived
from .._work import Work
from .._worker import Worker
from ..errors import InitializerFailed, SerializationError
from .arena import Arena
from .claims import Allowance, ClaimTable
from .exceptions import pack_exception
from .frames import (
    FUNCTION,
    LAST,
    ONCE,
    RECORDS,
    SHARED,
    UNRETRIABLE,
    Frame,
    FrameReader,
    Kind,
    SharedWriter,
    is_readable,
)
from .heritage import Heritage
from .logs import tell_parent
from .native_threads import limit_native_threads
from .outgoing import Outgoing
from .pickling import dumps, follow, loads, salvage, unpicklable
from .placing import OutOfBand, Writer, whole
from .portable import Portable
from .rules import Rules

__all__ = ["serve"]

LOOKOUT_SECONDS = 0.0002  # benchmarks/constants.py
"""How long a worker stays awake for the next chunk: a few times what it takes to wake it."""

MOST_SHOWN = 1000
"""Characters of the `repr()` of a result that an error carries."""


def serve(
    chunks: Connection,
    answers: Connection,
    claims: ClaimTable,
    arena: Arena | None,
    index: int,
    parent: int,
    initializer: Portable,
    finalizer: bytes | None,
    max_tasks: int | None,
    max_memory: int | None,
    forked: bool,
    inherits: bool,
    rules: bytes,
    native_threads: tuple[int, dict[str, str]],
) -> None:
    """Serve one parent until it says LEAVE, or is gone.

    Args:
        chunks, answers: the ends of two pipes, to read from and to write to.
        arena: where large buffers are; None where all goes through the pipes.
        parent: its process id.
        initializer: a function, perhaps pickled, or None, and its arguments.
        finalizer: a pickled function.
        max_tasks: leave after this many tasks; what one is, the work says.
        max_memory: leave when this process has more in memory than this, in bytes.
        forked: this process is a copy of the parent, with its main module.
        inherits: what it has of that goes by name.
        rules: see `rules`.
        native_threads: how many libraries may use in this process, and what the user has said of that.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})  # see `starting.start_server`
    _leave_with_parent()
    if not forked:
        # Functions of the user's script live here, apart from the names that multiprocessing needs.
        sys.modules["__main__"] = ModuleType("__main__")
    limit_native_threads(*native_threads)
    follow(parent)

    def initialize() -> object:
        function, arguments = server.rules.arrive(initializer.load, server.receive)
        if isinstance(function, bytes):
            function = server.rules.arrive(loads, function)
        return None if function is None else function(*arguments)

    def finalize() -> object:
        return None if finalizer is None else loads(finalizer)()

    worker = Worker(index, initialize, finalize)
    allowance = Allowance(max_tasks, max_memory, None if max_memory is None else resident_bytes())
    server = _Server(chunks.fileno(), answers.fileno(), claims, worker, allowance)
    if arena is not None:
        arena.adopt()
        server.arena, server.results = arena, Writer(arena, index + 1)
    if inherits:
        server.outgoing = Outgoing(True, Heritage())
    server.rules = tell_parent(server.writer, index, rules)
    try:
        worker.enter()
    except InitializerFailed as error:
        server.answer(Frame(Kind.BROKEN, extra=dumps(pack_exception(error.__cause__ or error))))
        return
    try:
        server.run()
    finally:
        worker.leave()


class _Server:
    def __init__(self, chunks: int, answers: int, claims: ClaimTable, worker: Worker, allowance: Allowance):
        self._reader = FrameReader(chunks)
        self.writer = SharedWriter(answers)
        self._claims = claims
        self._worker = worker
        self._journal = claims.journal()
        self._allowance = allowance
        self._works: dict[int, Work] = {}
        self._failed = False  # something of the chunk that is run
        self._unread: dict[int, tuple[Any, Sequence[Any]]] = {}
        self._unreadable: dict[int, Exception] = {}
        self._lookout = Lookout(chunks)
        self._pid = os.getpid()
        self._thread = threading.get_ident()
        self.outgoing = Outgoing(True, None)
        self.arena: Arena | None = None
        self.results: Writer | None = None
        self.rules: Rules

    def run(self) -> None:
        try:
            self.answer(Frame(Kind.READY))
            while True:
                self._lookout.look()
                frames = self._reader.read()
                self._lookout.note()
                for frame in frames:
                    if frame.kind == Kind.LEAVE:
                        return
                    if frame.kind == Kind.FORGET:
                        self._forget(frame.first)
                    elif frame.kind == Kind.WORK:
                        self._keep_unread(frame)
                    elif frame.kind == Kind.TRIM:
                        if self.results is not None:
                            self.results.trim()
                    elif frame.kind == Kind.RULES:
                        self.rules.obey(frame.extra)
                    else:
                        self._run_chunk(frame)
                        if self._failed and frame.places:
                            gc.collect()  # exceptions keep each other alive, and with them large buffers
                        if self._allowance.spent:
                            return
                    del frame  # an idle worker keeps nothing of the user's alive
        except (EOFError, ConnectionError):
            return  # the parent is gone

    def answer(self, frame: Frame) -> None:
        if os.getpid() != self._pid:  # the item has forked, and this is the child, on its way back from there
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(0)
        self.writer.write(frame)

    def _forget(self, key: int) -> None:
        self._works.pop(key, None)
        self._unread.pop(key, None)
        forget_arrived(key)
        if self.arena is not None:
            self.arena.forget(key)
        if self._unreadable.pop(key, None) is not None:
            gc.collect()

    def _run_chunk(self, frame: Frame) -> None:
        self._failed = False
        try:
            # First of all: a block of which nobody has had a view does not go back.
            buffers = self.arena.views(0, frame.places) if self.arena is not None and frame.places else []
            self._claims.note_reading(frame.slot, "function")
            work = self._work(frame)
        except SerializationError as error:
            self._reject(frame, {-1: error})  # of no item: of all
            return
        self._claims.note_reading(frame.slot, "items")
        pickled, rest = whole(frame.extra, buffers)
        try:
            items = self.rules.arrive(partial(loads, buffers=rest), pickled)
        except BaseException:
            failures = self._failures_on_loading(frame.second, pickled, rest)
            self._reject(frame, failures)
            return
        del pickled, rest, buffers  # they live as long as the items that are made of them
        self._allowance.begin(frame.first, work.task_items, len(items))
        claim = self._claims.claim(frame.slot, self._allowance)
        if len(items) > 1:  # the death of one tells by itself which item it was
            self._journal.begin(frame.number, frame.second, frame.first)
        self._worker.run(work, items, frame.second, claim, partial(self._report, frame.number), self._journal)

    def _keep_unread(self, frame: Frame) -> None:
        try:
            if (received := self.receive(frame)) is not None:
                self._unread[frame.first] = received
        except SerializationError as error:
            self._unreadable[frame.first] = error
            if frame.flags & SHARED:
                keep_arrived(frame.first, partial(_raise, error))

    def receive(self, frame: Frame) -> tuple[Any, Sequence[Any]] | None:
        """Take in a shared value, or something that is large: then, its pickle and its buffers."""
        buffers: list[memoryview] = []
        if self.arena is not None and frame.places:
            let_go = partial(self.answer, Frame(Kind.LET_GO, first=frame.first))
            buffers = self.arena.copy_on_write(frame.first, frame.places, let_go)
        pickled, rest = whole(frame.body, buffers)
        if frame.flags & SHARED:
            keep_arrived(frame.first, partial(self.rules.arrive, partial(loads, buffers=rest), pickled))
            return None
        return pickled, rest

    def _work(self, frame: Frame) -> Work:
        key = frame.first
        if key in self._unreadable:
            raise self._unreadable[key]
        work = self._works.get(key)
        if work is None:
            body, buffers = self._unread.pop(key, (frame.body, []))
            try:
                loaded = self.rules.arrive(partial(loads, buffers=buffers), body)
            except BaseException as error:
                failure = SerializationError(
                    f"the function could not be rebuilt in the worker: {type(error).__name__}: {error}"
                )
                failure.__cause__ = error
                if not frame.flags & ONCE:
                    self._unreadable[key] = failure
                raise failure from error
            work = Work(loaded, "call") if frame.flags & FUNCTION else loaded
            if not frame.flags & ONCE:
                self._works[key] = work
        return work

    def _failures_on_loading(self, start: int, pickled: Any, buffers: Sequence[Any]) -> dict[int, Exception]:
        try:
            _, failures = salvage(bytes(pickled), buffers)
        except SerializationError as error:
            return {-1: error}
        return {start + offset: _arrival_failed(cause) for offset, cause in failures.items()}

    def _reject(self, frame: Frame, failures: dict[int, Exception]) -> None:
        self._failed = True
        self.answer(Frame(Kind.REJECTED, number=frame.number, extra=_pack_failures(failures)))

    def _report(self, number: int, outcomes: Outcomes, seconds: float, last: bool) -> None:
        flags = (LAST if last else 0) | (0 if outcomes.retriable else UNRETRIABLE)
        # A late report comes from another thread, while the journal is written to.
        late = threading.get_ident() != self._thread
        values = None if late else self._journal.report_of(outcomes.start, outcomes.values)
        places = b""
        if values is not None:
            flags |= RECORDS
        else:
            buffers = None if self.results is None else OutOfBand(self.results)
            try:
                values = self.outgoing.dumps(outcomes.values, buffers)
            except BaseException:
                self._replace_unpicklable(outcomes)
                values = self.outgoing.dumps(outcomes.values, buffers)
            if buffers is not None:
                places = buffers.places.tobytes()
        failures = b""
        if outcomes.failures:
            failures = _pack_failures(outcomes.failures)
            self._failed = True
        start, stop = outcomes.start, outcomes.stop
        self.answer(Frame(Kind.SETTLED, flags, 0, number, start, stop, seconds, values, failures, places))

    def _replace_unpicklable(self, outcomes: Outcomes) -> None:
        """Values that cannot be pickled become failures."""
        for offset, error in unpicklable(outcomes.values).items():
            value = outcomes.values[offset]
            failure = SerializationError(
                f"the result, of type {type(value).__qualname__}, cannot be pickled, so it cannot leave the "
                f"worker: {type(error).__name__}: {error}",
                part="result",
                value=_shown(value),
                reason=_shown(error),
            )
            failure.__cause__ = error
            outcomes.failures[outcomes.start + offset] = failure
            outcomes.values[offset] = None


def resident_bytes() -> Callable[[], int]:
    """How to measure what this process has in memory (its resident set), in bytes, without what it shares.

    Else the arrays that all workers read, and blocks that are used again, would count for each of them.
    """
    import psutil  # 40 ms; only workers whose memory is limited pay it

    process = psutil.Process()

    def measure() -> int:
        info = process.memory_info()
        return int(info.rss - getattr(info, "shared", 0))

    return measure


def _raise(error: Exception) -> NoReturn:
    raise error


def _arrival_failed(cause: Exception) -> SerializationError:
    error = SerializationError(
        f"the item could not be rebuilt in the worker: {type(cause).__name__}: {cause}", part="item"
    )
    error.__cause__ = cause
    return error


def _shown(value: object) -> str:
    """What is shown of an object, whatever its class does and however long it is."""
    try:
        text = repr(value)
    except BaseException:
        text = f"<{type(value).__qualname__} whose repr() raises>"
    return text if len(text) <= MOST_SHOWN else f"{text[:MOST_SHOWN]}…"


class Lookout:
    """Looks out for the next chunk for a moment before going to sleep, where the last one came in a moment.

    To wake a sleeping process on another core takes 30 to 50 µs, most of a short round trip. Who calls, waits
    for the answer and calls again would pay that each time. With one core, looking would hold up the caller.
    """

    def __init__(self, fd: int):
        self._look = None
        if hasattr(select, "poll") and hasattr(os, "sched_getaffinity") and len(os.sched_getaffinity(0)) > 1:
            poll = select.poll()
            poll.register(fd, select.POLLIN)
            self._look = partial(poll.poll, 0)
        self._prompt = False
        self._since = 0.0

    def look(self) -> None:
        """Return when there is something to read, or when waiting awake is not worth it any more."""
        self._since = now = perf_counter()
        if self._prompt and self._look is not None:
            while not self._look() and now < self._since + LOOKOUT_SECONDS:
                os.sched_yield()
                now = perf_counter()

    def note(self) -> None:
        """Something was read."""
        self._prompt = perf_counter() < self._since + LOOKOUT_SECONDS


def _pack_failures(failures: dict[int, Exception]) -> bytes:
    return dumps([(index, pack_exception(error)) for index, error in failures.items()])


def _leave_with_parent() -> None:
    """See to it that this process ends when its parent does, whatever it is doing then.

    The far end of the sentinel pipe is open in the parent alone, so it becomes readable when the parent
    is gone, also by SIGKILL. On Linux the kernel can then send SIGKILL by itself, which ends a worker even
    inside C code that never lets go of the GIL.
    """
    parent = parent_process()
    if parent is None:
        return
    sentinel: Any = parent.sentinel
    try:
        import fcntl

        fcntl.fcntl(sentinel, fcntl.F_SETSIG, signal.SIGKILL)
        fcntl.fcntl(sentinel, fcntl.F_SETOWN, os.getpid())
        fcntl.fcntl(sentinel, fcntl.F_SETFL, fcntl.fcntl(sentinel, fcntl.F_GETFL) | os.O_ASYNC)
        if not is_readable(sentinel):
            return
    except (ImportError, AttributeError, OSError):
        pass
    _watch(parent.join)


def _watch(wait: Callable[[], object]) -> None:
    def leave() -> None:
        wait()
        os._exit(1)

    threading.Thread(target=leave, name="parallelkit-parent", daemon=True).start()
