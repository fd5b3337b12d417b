"""The one loop: carries steps from the schedulers to a backend, and facts from the backend to them.

One driver serves one executor and all of its running calls. It owns the clock, the lock and the book
of what is in flight. Nobody owns a thread for it: whoever brings a fact (the backend, from a thread of
its own) or a wish (the caller, from his) takes the lock, lets the schedulers decide, and then carries
out what they decided, without the lock, since carrying may run the user's code (a `__reduce__`, a
slice) and may take long.

    caller                        driver                         backend
      | open(call), feed(items)     |                                |
      |---------------------------->|  next_chunk()                  |
      |                             |------ submit(worker, chunk) -->|
      |                             |<----- post(Settled) -----------|
      |<---- call.deliver ----------|  receive(fact)                 |

What a garbage collector or a signal handler may call in the middle of anything (`stop`, `lift_window`)
takes no lock: it leaves a letter, which whoever has the lock reads before he is done.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Hashable, Mapping
from functools import partial
from itertools import count
from time import monotonic
from typing import Any

from ._alarm import call_soon
from ._call import Call
from ._core.chunks import Sliceable, all_of_it, unstarted
from ._core.outcome import Outcomes
from ._core.roster import Roster
from ._core.scheduler import Ended, Fact, Flight, GivenBack, Pulled, Scheduler
from ._core.splitters import Splitter
from ._in_flight import InFlight
from ._lifetime import INHERITED, is_over, register
from ._time_limits import watch
from ._work import is_free, owned
from ._worker import works_for
from .backends.base import Backend, Event, Rejected, Settled, WorkerJoined, WorkerLeft
from .errors import WorkerDied

__all__ = ["Driver"]


class Driver:
    """Runs calls on a backend, from any number of threads.

    Attributes:
        closing: no new calls are taken.
        inherited: this process was forked from the one that the driver belongs to.
        daemon: it does not keep the program from ending, whoever owns it ends it in time; and nothing that
            runs is ended because its call was left.
    """

    def __init__(self, backend: Backend, *, daemon: bool = False):
        self.backend = backend
        self.daemon = daemon
        self.inherited = False
        self._lock = threading.RLock()  # which knows who has it
        self._letters: deque[Callable[[], object]] = deque()
        self._calls: dict[Call, None] = {}  # in the order of whose turn it is
        self._in_flight = InFlight()
        self._roster = Roster(backend.depth)
        self._chunk_ids = count(1).__next__
        self.closing = False
        self._closed = threading.Event()
        self._killed = False
        self._broken: Exception | None = None
        self._owing: dict[Call, None] = {}  # calls whose `resolve` is due
        self._stuck: list[tuple[int, int, Exception]] = []  # whom to give up: see `Backend.abandon`
        register(self)
        backend.start(self._post)

    # What callers ask

    @property
    def workers(self) -> int:
        """How many workers there are now."""
        return max(1, len(self._roster))

    def new_scheduler(self, splitter: Splitter, **options: Any) -> Scheduler:
        """A scheduler for a call on this driver; `options` as in `Scheduler`."""
        return Scheduler(splitter, self._chunk_ids, workers=self.workers, **options)

    def open(self, call: Call, items: Sliceable | None = None, *, ended: bool = False) -> None:
        """Begin a call, with its first items.

        Raises:
            RuntimeError: the executor is shut down, or belongs to the parent of this process.
            InitializerFailed: no worker can be had.
        """
        self.check_process()
        with self._lock:
            refusal = self._refusal()
            if refusal is None:
                self._calls[call] = None
                call.opened()
                self._take_in(call, items, ended)
        self._advance(resolve=False)  # in any case: a letter may have come in while this had the lock
        if refusal is not None:
            raise refusal

    def feed(self, call: Call, items: Sliceable | None, *, ended: bool = False) -> None:
        """More items of a call, in the order of the input."""
        self.check_process()
        with self._lock:
            if call in self._calls:
                self._take_in(call, items, ended)
        self._advance(resolve=False)

    def consumed(self, call: Call, items: int) -> None:
        """The caller has taken outcomes: there is room for more of his items."""
        self.check_process()
        if call.scheduler.window_is_open:
            return
        with self._lock:
            call.scheduler.consumed(items)
        self._advance(resolve=False)

    def stop(
        self, call: Call, error: BaseException | None = None, *, abandon: Exception | None = None
    ) -> None:
        """End a call now: what was not started never will be. May be called from anywhere.

        Workers that are inside of its items are given up for `abandon`.
        """
        if call in self._calls:
            self._leave_letter(partial(self._end, call, error, stop=True, abandon=abandon))

    def lift_window(self, call: Call) -> None:
        """Run the rest of a call whether somebody reads it or not. May be called from anywhere."""
        self._leave_letter(call.lift_window)

    def close(self, *, cancel: bool = False, kill: BaseException | None = None) -> None:
        """Take no new calls; end when those that are open are done. May be called from anywhere.

        Args:
            cancel: of each call, only what is with a worker already is done.
            kill: end all calls at once with this error, and the workers with them.
        """
        self.closing = True
        self._leave_letter(partial(self._begin_close, cancel, kill))
        if kill is not None and self._closed.is_set():  # the backend was let go, and may not be gone
            end = partial(self.backend.close, kill=True)
            call_soon(end) if self.backend.is_inside() else end()

    def join(self) -> bool:
        """Wait until the backend is gone. Its threads and its items do not: it would be for ever."""
        if self.inherited or getattr(_in_backend, "driver", None) is self or works_for(self.backend):
            return False
        self._closed.wait()
        self.backend.join()
        return True

    @property
    def usable(self) -> bool:
        """Whether `open` will take a call."""
        return not (self.closing or self._broken or self.inherited)

    @property
    def calls(self) -> list[Call]:
        """The calls that are not done."""
        return list(self._calls)

    # What the backend reports

    def _post(self, event: Event) -> None:
        outer = getattr(_in_backend, "driver", None)
        _in_backend.driver = self if self.backend.eager else outer
        if self.backend.reports_in_worker and type(event) is Settled:
            _in_backend.worker = self._in_flight.find(event.chunk_id)[1]
        try:
            final: dict[Call, bool] = {}
            if type(event) is Settled:
                if event.outcomes.failures:
                    event.outcomes.final = self._in_flight.note(event.chunk_id, event.outcomes.failures)
            elif isinstance(event, Rejected):
                self._in_flight.note(event.chunk_id, event.failures)
            elif isinstance(event, WorkerLeft):
                final = {call: call.is_final(event.error) for call in self.calls}
                for chunk_id, failures in event.failed.items():
                    self._in_flight.note(chunk_id, failures)
            with self._lock:
                self._receive(event, final)
            # Who carries this chunk goes on by himself, not on top of it; but letters may end its call.
            if self._letters or not self._in_flight.is_carried_here(getattr(event, "chunk_id", 0)):
                self._advance()
        finally:
            _in_backend.driver = outer
            _in_backend.worker = None

    def _receive(self, event: Event, final: Mapping[Call, bool]) -> None:
        if isinstance(event, _LANDINGS):
            self._land(event)
        elif isinstance(event, WorkerLeft):
            self._lose(event, final)
        elif isinstance(event, WorkerJoined):
            self._roster.join(event.worker)
            self._count_workers()
        else:
            self._broken = event.error
            for call in list(self._calls):
                self._end(call, event.error, stop=True)

    def _land(self, event: Settled | Rejected) -> None:
        call, worker = self._in_flight.find(event.chunk_id)
        if call is None:
            return  # its worker was given up before it answered
        if isinstance(event, Rejected) or event.last:
            self._in_flight.remove(event.chunk_id)
            self._roster.add(worker, -1)
        self._tell(call, event)

    def _lose(self, event: WorkerLeft, final: Mapping[Call, bool]) -> None:
        if not self._roster.leave(event.worker):
            return
        self._count_workers()
        # The later chunk is put back first, so that it ends up behind.
        for chunk_id, call in reversed(self._in_flight.of_worker(event.worker)):
            self._in_flight.remove(chunk_id)
            if (flight := call.scheduler.flight(chunk_id)) is not None:
                self._tell(call, event.loss_of(flight, final=final.get(call, False)))

    def _tell(self, call: Call, fact: Fact) -> None:
        outcomes = call.scheduler.receive(fact, monotonic())
        if outcomes:
            call.deliver(outcomes)
            self._owing[call] = None
        if call in self._calls and call.scheduler.done:
            self._end(call, None)

    def _take_in(self, call: Call, items: Sliceable | None, ended: bool) -> None:
        if items is not None:
            self._tell(call, Pulled(items))
        if ended:
            self._tell(call, Ended())

    def _end(
        self, call: Call, error: BaseException | None, stop: bool = False, abandon: Exception | None = None
    ) -> None:
        if call not in self._calls:
            return
        del self._calls[call]
        for flight in call.scheduler.stop() if stop else ():
            self.backend.take_back(flight.chunk_id, unstarted)
            if abandon is not None:
                self._give_up(flight.chunk_id, abandon)
        call.finish(error)  # first: who waits for it need not wait for what follows
        self.backend.forget(call.work)
        self._owing[call] = None

    # What to do next

    def _leave_letter(self, letter: Callable[[], object]) -> None:
        """Have something done under the lock, soon, without waiting for it: this thread may be in anything.

        Who has the lock looks for letters after giving it back; who leaves one looks whether the lock is free
        after that. So one of them finds it. A thread that is inside of the backend leaves it to the clock's.
        """
        if self.inherited:
            return
        self._letters.append(letter)
        if owned(self._lock):
            return
        if self.backend.is_inside():
            call_soon(self._advance)
        elif is_free(self._lock):
            self._advance()

    def _advance(self, *, resolve: bool = True) -> None:
        """Carry out steps and read letters until there is nothing to do.

        Without `resolve`, callbacks that are due because of others' facts are left to those who brought them.
        """
        asked: list[tuple[Call, Flight]] = []
        while True:
            owing: dict[Call, None] = {}
            with self._lock:
                while self._letters:
                    self._letters.popleft()()
                    resolve = True
                for call, flight in asked:
                    call.scheduler.name_again(flight)
                steps = self._decide()
                if resolve:
                    owing, self._owing = self._owing, owing
                close = self.closing and not self._calls and not self._closed.is_set()
                if close:
                    self._begin_end()
                stuck, self._stuck = self._stuck, []
            carried = 0
            try:
                for call, flight in steps:
                    self._in_flight.begin_to_carry(flight)
                    self._carry(call, flight)
                    self._in_flight.end_to_carry(flight)
                    carried += 1
                for call in owing:
                    call.resolve()
            except BaseException:  # Ctrl-C, as a rule
                self._leave_off(steps, carried, owing)
                raise
            finally:  # whoever waits for the backend to be gone must not wait in vain
                for chunk_id, started, error in stuck:
                    self.backend.abandon(chunk_id, started, error)
                if close:
                    self.backend.close(kill=self._killed)
            # A tail may have been wanted, by this thread or another, before the chunk had been carried.
            asked = [step for step in steps if step[1].asked]
            landed = self._in_flight.have_landed(steps)
            resolve = resolve or landed
            if not (asked or landed or self._letters):
                return

    def _leave_off(self, steps: list[tuple[Call, Flight]], carried: int, owing: dict[Call, None]) -> None:
        """This thread was stopped in the middle of carrying: others go on where it was."""
        landed = self._in_flight.have_landed(steps[: carried + 1])
        with self._lock:
            for _, flight in steps[carried:]:
                self._in_flight.end_to_carry(flight)
                if self.backend.take_back(flight.chunk_id, all_of_it) is None:
                    self._receive(Rejected(flight.chunk_id, {}), {})
            self._owing.update(owing)
        if self.backend.eager or landed or len(steps) > carried + 1:  # else it is this thread's own
            call_soon(self._advance)

    def _decide(self) -> list[tuple[Call, Flight]]:
        """Give every worker that has room something to do; an idle one, of what a busy one has left."""
        steps: list[tuple[Call, Flight]] = []
        for call in self._calls:
            if call.scheduler.has_work:
                break
        else:
            return steps
        now = monotonic()
        for load in range(self.backend.depth):
            while self._roster.has(load):
                worker = self._roster.pick(load, getattr(_in_backend, "worker", None))
                step = self._next_step(worker, load, now)
                if step is None and load == 0 and self._fetch_back(now):
                    step = self._next_step(worker, load, now)
                if step is None:
                    return steps  # who has work has none for another either
                steps.append(step)
                self._roster.add(worker, +1)
        return steps

    def _next_step(self, worker: Hashable, load: int, now: float) -> tuple[Call, Flight] | None:
        for call in self._calls:
            if not call.scheduler.waiting:
                continue
            flight = call.scheduler.next_chunk(
                worker, now, can_give_back=self.backend.can_give_back, waits=load > 0
            )
            if flight is not None:
                del self._calls[call]  # to the end of the line
                self._calls[call] = None
                self._in_flight.add(flight.chunk_id, call, worker)
                return call, flight
        return None

    def _fetch_back(self, now: float) -> bool:
        """Take back a part of the chunk that will end last; whether anything came."""
        for call in self._calls:
            while (victim := call.scheduler.next_victim()) is not None:
                cut = call.scheduler.cut(victim, alone=self._roster.load(victim.worker) == 1)
                victim.asked = True  # before it is asked: who carries it may be through with that right after
                keeps = self.backend.take_back(victim.chunk_id, cut)
                victim.asked = keeps is None
                if keeps is not None and victim.chunk.start + keeps < victim.chunk.stop:
                    call.scheduler.receive(GivenBack(victim.chunk_id, victim.chunk.start + keeps), now)
                    return True
        return False

    def _carry(self, call: Call, flight: Flight) -> None:
        """Send a chunk on its way, without the lock: slicing and pickling may run the user's code."""
        chunk = flight.chunk
        if len(chunk.source) < chunk.stop - chunk.base:
            shrunk = RuntimeError("the input became shorter while it was mapped over; pass a copy of it")
            self._post(Rejected(flight.chunk_id, dict.fromkeys(range(chunk.start, chunk.stop), shrunk)))
            return
        parcel = call.carry(flight) if call in self._calls else None
        if parcel is None:
            skipped = Outcomes(chunk.start, chunk.stop, [None] * len(chunk))
            self._post(Settled(flight.chunk_id, skipped, 0.0, last=True))
            return
        work, chunk = parcel
        flight.carried = True
        if work.task_timeout is not None and not work.is_async:
            watch(flight, work, self._in_flight, self._in_flight.alarms, self.backend)
        self.backend.submit(flight.worker, flight.chunk_id, work, chunk)
        if call not in self._calls:  # it ended meanwhile, and asked for this too early
            with self._lock:
                self.backend.take_back(flight.chunk_id, unstarted)
                self.backend.forget(work)

    def _count_workers(self) -> None:
        for call in self._calls:
            call.scheduler.workers = self.workers

    def _begin_end(self) -> None:
        """Nothing more will come. Nobody waits for workers that are in an item of a call that was left."""
        self._closed.set()
        for chunk_id, call in self._in_flight:
            if call.scheduler.stopped and not self.daemon:
                self._give_up(chunk_id, WorkerDied("its call was left"))

    def _give_up(self, chunk_id: int, error: Exception) -> None:
        """Give up a worker, if it is in an item of this chunk, as soon as the lock is free."""
        started, _ = (self.backend.can_abandon and self.backend.running(chunk_id)) or (0, 0.0)
        if started:
            self._stuck.append((chunk_id, started, error))

    def _begin_close(self, cancel: bool, kill: BaseException | None) -> None:
        self._killed = self._killed or kill is not None
        for call in list(self._calls):
            if kill is not None:
                self._end(call, kill, stop=True)
                continue
            for fact in call.shut_down(cancel=cancel):
                self._tell(call, fact)
            self._owing[call] = None

    def disown(self) -> None:
        """In a forked child: the workers, their pipes and the work are the parent's."""
        self.inherited = True
        self._lock = threading.RLock()
        self._calls.clear()
        self.backend.disown()

    def _refusal(self) -> Exception | None:
        """Why no call is taken; None if one is."""
        if is_over() and not self.daemon:
            return RuntimeError("cannot schedule new futures after interpreter shutdown")
        if self._broken is None and self.closing:
            return RuntimeError("cannot schedule new futures after shutdown; make a new Executor")
        return self._broken

    def check_process(self) -> None:
        """RuntimeError where this process was forked from the one that the driver belongs to."""
        if self.inherited:
            raise RuntimeError(INHERITED)


_LANDINGS = Settled, Rejected  # a union would be made anew each time it is asked about
_in_backend = threading.local()
"""The driver in whose backend's thread this is, as `driver`; the worker that reports in it, as `worker`."""
