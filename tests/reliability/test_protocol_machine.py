"""The scheduler and the driver, with several calls of several kinds, against workers that may always be lost.

Each rule is one thing that a user, a worker or the executor may do at that moment. `stage` has the threads
take turns, so that a thread may be held up in the middle of handing out chunks while all else goes on.
`truth` knows what became of each item. After every step that is compared with what the engine did, and in
the end every call must come to its end.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable
from concurrent.futures import CancelledError
from contextlib import ExitStack
from functools import partial
from operator import add
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from stage import Actor, Stage, TurnEvent, on
from truth import Hopeless, Laws, Refused, SourceFails, UserCall, Watched

from parallelkit import Executor, InitializerFailed, WorkerDied, _driver
from parallelkit._alarm import Alarm
from parallelkit._calls import TaskCall
from parallelkit._core.outcome import Outcomes
from parallelkit._worker import works_for
from parallelkit.backends.base import Rejected, Settled, WorkerLeft
from parallelkit.testing import FakeChunk

MOST_CALLS = 8
MOST_ENDS = 2
MOST_WORKERS = 4

ENDS = ["wait", "shutdown", "cancel all", "drop it", "kill"]

which = st.integers(0, 20)
deeds_in_between = st.sampled_from(["drop", "close", "cancel", "shutdown", "cancel all", "kill"])
deeds = st.sampled_from(["submit", "cancel", "close", "drop", "shutdown", "cancel all", "kill"])
deeds_that_may_wait = deeds | st.just("wait")


def seldom(strategy: st.SearchStrategy[Any], default: Any) -> st.SearchStrategy[Any]:
    return st.integers(0, 3).flatmap(lambda dice: strategy if dice == 2 else st.just(default))


items = st.integers(0, 11)
interrupts = seldom(st.tuples(st.integers(0, 2), st.booleans()), None)
options = st.fixed_dictionaries(
    {
        "length": st.integers(0, 12),
        "sized": st.booleans(),
        "retries": st.sampled_from([0, 0, 1, 2]),
        "chunksize": st.sampled_from([None, 1, 2, 3, 5]),
        "buffersize": st.sampled_from([None, 1, 2, 3, 5]),
        "return_exceptions": st.booleans(),
        "timeout": seldom(st.sampled_from([5.0, 0.0]), None),
        "source_fails": seldom(st.just(True), False),
        "fails": seldom(st.dictionaries(items, st.integers(1, 3), min_size=1, max_size=2), {}),
        "hopeless": seldom(st.sets(items, max_size=2), set()),
        "deeds": seldom(
            st.fixed_dictionaries({}, optional={"function": deeds, "source": deeds_that_may_wait}), {}
        ),
    }
)


class ProtocolMachine(RuleBasedStateMachine):
    """One executor, all that happens to it, and what must hold."""

    def __init__(self) -> None:
        super().__init__()
        self.stage = Stage()
        self.laws = Laws()
        self.alarms: list[Callable[[], object]] = []
        self.patches = ExitStack()
        self.limits: list[Alarm] = []
        self.patches.enter_context(on(self.stage, self.alarms, self.limits))
        gc.disable()  # else what it finalizes, and when, would depend on what ran before
        self.patches.callback(gc.enable)
        self.calls: list[UserCall] = []
        self.late: list[UserCall] = []
        self.actors = self.ends = 0
        self.killed = self.cancelled = self.waited = self.dropped = False
        self.broken: Exception | None = None

    @initialize(
        workers=st.integers(0, 3),
        depth=st.integers(1, 3),
        can_give_back=st.booleans(),
        end=st.integers(0, 45),
    )
    def begin(self, workers: int, depth: int, can_give_back: bool, end: int) -> None:
        self.steps_to_end = end
        self.backend = Watched(
            self.stage, self.laws, workers=workers, depth=depth, can_give_back=can_give_back
        )
        self.names = workers
        self.executor: Executor | None = Executor(self.backend)
        self.driver, self.tasks = self.executor._driver, self.executor._tasks
        self.driver._closed = TurnEvent(self.stage)
        self.backend.is_open = lambda work: any(
            call.work is work or (work.style == "call" and type(call) is TaskCall)
            for call in self.driver.calls
        )

    # What is there

    def act(self, name: str, deed: Callable[[], object], interrupt: tuple[int, bool] | None = None) -> Actor:
        self.actors += 1
        name = f"{name} {self.actors}"
        if interrupt is not None:
            self.backend.interrupts[name] = interrupt
        actor = self.stage.act(name, deed)
        if actor.done:
            self.backend.interrupts.pop(name, None)
        return actor

    def streams(self) -> list[UserCall]:
        """Those that can be read, closed or dropped."""
        return [call for call in self.calls if call.stream is not None and not call.reading and not call.over]

    def chunks(self) -> list[FakeChunk]:
        """Those of which nobody is about to report."""
        return [chunk for chunk in self.backend.chunks() if chunk.chunk_id not in self.backend.busy]

    def losable(self) -> list[Any]:
        busy = {chunk.worker for chunk in self.backend.chunks() if chunk.chunk_id in self.backend.busy}
        return [worker for worker in self.backend.workers() if worker not in busy]

    def pick(self, things: list[Any], which: int) -> Any:
        return things[which % len(things)]

    def may_end(self) -> bool:
        """An end that comes early leaves nothing to be found, so it comes after some steps only."""
        return self.executor is not None and self.steps_to_end <= 0 and self.ends < MOST_ENDS

    def may_call(self) -> bool:
        return self.executor is not None and len(self.calls) < MOST_CALLS

    # The user calls

    def new_call(self, kind: str, chosen: dict[str, Any]) -> UserCall:
        call = UserCall(self.laws, len(self.calls), kind, chosen)
        call.do, call.before_run = self.do, self.backend.count_starts
        self.calls.append(call)
        self.backend.calls[call.pairs if kind == "map_reduce" else call.function] = call
        return call

    def make(self, call: UserCall, begin: Callable[[], Any]) -> None:
        """Make a call, which is refused where no calls are taken.

        No frame is to keep a stream in a variable: an exception may keep that frame, and all that called it.
        """
        closing, broken = self.driver.closing, self.broken
        try:
            call.made = begin()
        except (RuntimeError, InitializerFailed) as error:
            call.end()
            refused = error is broken if broken else closing or self.driver.closing
            self.laws.hold(refused, f"{call} was refused: {error!r}")
        except KeyboardInterrupt:  # a task that nobody has the future of may run all the same
            call.end(leaves=call.kind != "submit")
        else:
            self.laws.hold(not closing and not broken, f"{call} was taken after the end")

    @precondition(may_call)
    @rule(chosen=options, ordered=st.booleans(), daemon=st.booleans(), interrupt=interrupts)
    def open_stream(
        self, chosen: dict[str, Any], ordered: bool, daemon: bool, interrupt: tuple[int, bool] | None
    ) -> None:
        call = self.new_call("stream", {**chosen, "ordered": ordered})
        call.daemon = daemon
        executor = self.executor
        assert executor is not None
        how: dict[str, Any] = {
            name: chosen[name]
            for name in ("retries", "chunksize", "buffersize", "return_exceptions", "timeout")
            if name in chosen
        }
        how |= {"ordered": ordered, "retry_on": call.worth_retrying}

        def deed() -> None:
            if daemon:
                begin = partial(executor._map_to_stream, call.function, (call.source(),), lambda: None, **how)
            else:
                begin = partial(executor.map, call.function, call.source(), **how)
            self.make(call, begin)

        self.act("map", deed, interrupt)

    @precondition(may_call)
    @rule(length=items, sized=st.booleans(), ordered=st.booleans())
    def open_a_plain_stream(self, length: int, sized: bool, ordered: bool) -> None:
        plain = {"length": length, "sized": sized, "buffersize": 4, "chunksize": 2}
        self.open_stream(plain, ordered=ordered, daemon=False, interrupt=None)

    @precondition(may_call)
    @rule(chosen=options, kind=st.sampled_from(["reduce", "map_reduce", "list"]))
    def call_whole(self, chosen: dict[str, Any], kind: str) -> None:
        """A call that returns one value, in a thread that waits for it."""
        call = self.new_call(kind, {**chosen, "ordered": False})
        executor = self.executor
        assert executor is not None
        how: dict[str, Any] = {
            name: chosen[name] for name in ("retries", "chunksize", "buffersize", "timeout") if name in chosen
        }
        how["retry_on"] = call.worth_retrying

        def deed() -> None:
            source = call.source()
            if kind == "reduce":
                begin = partial(executor.reduce, add, source, map=call.function, initial=(), **how)
            elif kind == "map_reduce":
                begin = partial(executor.map_reduce, call.pairs, add, source, **how)
            else:
                begin = partial(
                    executor._map_to_list, call.function, (source,), call.return_exceptions, **how
                )
            closing, broken = self.driver.closing, self.broken
            try:
                value = begin()
            except AssertionError:
                raise
            except Exception as error:
                refused = closing or (broken is not None and error is broken)
                refused = refused or (self.driver.closing and "after shutdown" in str(error))
                self.laws.hold(refused or self.is_due(call, error), f"{call} raised {error!r}")
            else:
                self.laws.hold(self.is_right(call, value), f"{call} returned {value}; {call.settled}")
            call.end()

        self.act(kind, deed)

    @precondition(may_call)
    @rule(
        callback=seldom(deeds_that_may_wait, "nothing"),
        function=seldom(deeds, "nothing"),
        fails=st.booleans(),
        interrupt=interrupts,
    )
    def submit(self, callback: str, function: str, fails: bool, interrupt: tuple[int, bool] | None) -> None:
        chosen = {"fails": {0: 1} if fails else {}, "deeds": {"callback": callback, "function": function}}
        self.act("submit", partial(self.submit_here, chosen), interrupt)

    def submit_here(self, chosen: dict[str, Any]) -> None:
        call = self.new_call("submit", chosen)
        executor = self.executor
        assert executor is not None
        self.make(call, partial(executor.submit, call.function))
        if call.future is not None:
            call.future.add_done_callback(lambda future: self.do(call.deeds.pop("callback", "nothing")))

    # The user reads, and leaves

    @precondition(streams)
    @rule(which=which, interrupt=interrupts)
    def read(self, which: int, interrupt: tuple[int, bool] | None) -> None:
        self.read_one(self.pick(self.streams(), which), interrupt)

    def read_one(self, call: UserCall, interrupt: tuple[int, bool] | None = None) -> None:
        call.reading = call.started = True
        if call in self.late:
            call.end()

        def deed() -> None:
            try:
                result = next(call.stream)
            except StopIteration:
                if not call.over:
                    done = len(call.delivered) == call.length and not call.source_fails
                    self.laws.hold(done, f"{call} ends after {list(call.delivered)}; {call.settled}")
                call.end()
            except AssertionError:
                raise
            except KeyboardInterrupt:
                call.end()
            except Exception as error:
                self.laws.hold(self.is_due(call, error), f"{call} raised {error!r}")
                call.end()
            else:
                if (
                    not call.over
                ):  # a kill that came in between takes effect soon, and outcomes come until then
                    call.take(result)
            finally:
                call.reading = False

        self.act(f"read {call}", deed, interrupt)

    @precondition(streams)
    @rule()
    def read_the_first(self) -> None:
        self.read_one(self.streams()[0])

    @precondition(streams)
    @rule()
    def read_the_last(self) -> None:
        self.read_one(self.streams()[-1])

    @precondition(streams)
    @rule(which=which, how=st.sampled_from(["close", "drop"]))
    def leave(self, which: int, how: str) -> None:
        call = self.pick(self.streams(), which)
        self.act(how, partial(self.leave_here, call, how))

    def leave_here(self, call: UserCall, how: str) -> None:
        """Close a stream, or drop it. Of one that nobody has read, the rest is run for its effects."""
        stream, call.made = call.stream, None
        if call.started or call.daemon:
            call.end()
        else:
            call.lifted = call.unread = True
        if how == "close":
            stream.close()
        del stream  # of which nobody else has a reference

    def futures(self) -> list[UserCall]:
        return [call for call in self.calls if call.future is not None and not call.future.done()]

    @precondition(futures)
    @rule(which=which)
    def cancel(self, which: int) -> None:
        self.act("cancel", partial(self.cancel_here, self.pick(self.futures(), which)))

    def cancel_here(self, call: UserCall) -> None:
        if call.future.cancel():
            call.end(leaves=False)

    def do(self, deed: str) -> None:
        """What the user's own code does in the middle of something: one call of ours."""
        if deed == "nothing" or (self.backend.in_between and deed in ("submit", "wait")):
            return
        if deed == "submit" and self.may_call():
            self.submit_here({})
        elif deed == "cancel" and self.futures():
            self.cancel_here(self.futures()[0])
        elif deed in ("close", "drop") and self.streams():
            self.leave_here(self.streams()[0], deed)
        elif deed in ENDS and self.may_end():
            self.shut_down_here(deed)

    # Workers

    @precondition(chunks)
    @rule(which=which, seconds=st.sampled_from([0.0, 0.001, 0.1]))
    def finish(self, which: int, seconds: float) -> None:
        chunk = self.pick(self.chunks(), which)
        self.report(chunk, partial(self.backend.finish, chunk, seconds=seconds))

    @precondition(chunks)
    @rule()
    def finish_the_first(self) -> None:
        """Once more, so that what happens often is drawn often."""
        self.finish(0, 0.0)

    @precondition(chunks)
    @rule(which=which, items=st.integers(0, 4))
    def advance(self, which: int, items: int) -> None:
        chunk = self.pick(self.chunks(), which)
        self.report(chunk, partial(self.backend.advance, chunk, items))

    @precondition(chunks)
    @rule(which=which, items=st.integers(1, 4))
    def start_items(self, which: int, items: int) -> None:
        self.backend.start_items(self.pick(self.chunks(), which), items)

    def reported(self) -> list[FakeChunk]:
        return [chunk for chunk in self.chunks() if chunk.started == chunk.settled]

    @precondition(reported)
    @rule(which=which)
    def give_back(self, which: int) -> None:
        chunk = self.pick(self.reported(), which)
        self.report(chunk, partial(self.backend.give_back, chunk))

    def unstarted(self) -> list[FakeChunk]:
        return [chunk for chunk in self.chunks() if chunk.started == chunk.chunk.start]

    @precondition(unstarted)
    @rule(which=which, items=st.sets(st.integers(0, 6), min_size=1, max_size=2))
    def reject(self, which: int, items: set[int]) -> None:
        """As it was sent: the worker cannot know which part was taken back meanwhile."""
        chunk = self.pick(self.unstarted(), which)
        indices = [chunk.chunk.start + item % len(chunk.chunk) for item in items]
        self.report(chunk, partial(self.backend.reject, chunk, Refused(), indices))

    @precondition(chunks)
    @rule(which=which, error=st.sampled_from([OSError, Hopeless]))
    def fail(self, which: int, error: type[Exception]) -> None:
        chunk = self.pick(self.chunks(), which)
        self.report(chunk, partial(self.backend.fail, chunk, error("on the way back")))

    def report(self, chunk: FakeChunk, deed: Callable[[], object]) -> None:
        self.backend.busy.add(chunk.chunk_id)

        def report() -> None:
            try:
                deed()
            finally:
                self.backend.busy.discard(chunk.chunk_id)

        self.act("report", report)

    @precondition(losable)
    @rule(which=which, known=st.booleans(), error=st.sampled_from([WorkerDied, Hopeless]))
    def lose(self, which: int, known: bool, error: type[Exception]) -> None:
        worker = self.pick(self.losable(), which)
        self.act("lose", partial(self.backend.lose, worker, error(f"{worker} was lost"), known=known))

    @precondition(lambda self: len(self.backend.workers()) < MOST_WORKERS)
    @rule()
    def join(self) -> None:
        self.names += 1
        self.act("join", partial(self.backend.join_worker, self.names))

    @precondition(lambda self: self.backend.late)
    @rule(which=which)
    def answer_too_late(self, which: int) -> None:
        chunk = self.backend.late.pop(which % len(self.backend.late))
        outcomes = Outcomes(chunk.settled, chunk.stop, ["late"] * (chunk.stop - chunk.settled))
        self.act("late", partial(self.backend._post, Settled(chunk.chunk_id, outcomes, 0.0, last=True)))
        self.act(
            "late", partial(self.backend._post, Rejected(chunk.chunk_id, {chunk.chunk.start: Refused()}))
        )
        self.act("late", partial(self.backend._post, WorkerLeft(chunk.worker, WorkerDied("once more"))))

    # Threads

    @precondition(lambda self: self.calls and not self.backend.slow)
    @rule(chunks=st.integers(1, 3))
    def have_chunks_held_up(self, chunks: int) -> None:
        """The next threads that carry chunks are slow, and much may happen meanwhile."""
        self.backend.slow = chunks

    @precondition(lambda self: self.stage.ready())
    @rule(which=which)
    def go_on(self, which: int) -> None:
        self.stage.go_on(self.pick(self.stage.ready(), which))

    def limited(self) -> list[Any]:
        """What is to be done when the time of a call is over that is not done."""
        return [limit.function for limit in self.limits if limit.function is not None]

    @precondition(limited)
    @rule(which=which)
    def time_is_up(self, which: int) -> None:
        give_up = self.pick(self.limited(), which)
        engine_call = give_up.__self__
        call = self.backend.call_of(engine_call.work)
        if engine_call.started or engine_call._daemon or engine_call._whole:
            call.end()
        else:  # it is given up when somebody comes to read
            self.late.append(call)
        self.act("clock", give_up)

    @precondition(lambda self: self.alarms)
    @rule()
    def ring(self) -> None:
        self.act("clock", self.alarms.pop(0))

    @precondition(lambda self: self.calls and self.backend.in_the_middle is None)
    @rule(deed=deeds_in_between)
    def come_in_between(self, deed: str) -> None:
        """When the engine next has its lock: a garbage collector, or a signal handler."""
        self.backend.in_the_middle = partial(self.do, deed)

    # The end

    @precondition(lambda self: self.may_end() and self.calls)
    @rule(how=st.sampled_from(["wait", "cancel all", *ENDS, "break down"]))
    def shut_down(self, how: str) -> None:
        if how != "break down":
            self.act(how, partial(self.shut_down_here, how))
        elif self.broken is None:
            self.broken = InitializerFailed("no worker can be had")
            self.act(how, partial(self.backend.break_down, self.broken))

    def shut_down_here(self, how: str) -> None:
        self.ends += 1
        executor = self.executor
        assert executor is not None
        for call in self.calls:
            call.lifted = call.lifted or call.sized
        if how == "kill":
            self.killed = True
            for call in self.calls:
                call.end()
            executor.kill_workers()
        elif how == "cancel all":
            self.cancelled = True
            executor.shutdown(wait=False, cancel_futures=True)
        elif how == "shutdown":
            executor.shutdown(wait=False)
        elif how == "wait":
            self.waited = True
            for call in self.calls:
                call.lifted = call.lifted or not (call.started or call.daemon)
            executor.shutdown()
            # In a callback or an item it does not wait.
            inside = getattr(_driver._in_backend, "driver", None) or works_for(self.backend)
            self.laws.hold(inside or not self.driver.calls, "shutdown() returns, and calls are not done")
        elif how == "drop it":
            self.executor = None

    # What must hold

    def is_due(self, call: UserCall, error: Exception) -> bool:
        """Whether a call may end with this error."""
        if isinstance(error, CancelledError):
            all_that_ran = call.kind != "stream" or len(call.delivered) == call.in_turn()
            return self.cancelled and all_that_ran
        return (
            (call.raised(error) and not call.return_exceptions)
            or (call.raised(error) and call.kind in ("reduce", "map_reduce"))
            or (isinstance(error, SourceFails) and call.source_fails and self.is_all(call))
            or (isinstance(error, TimeoutError) and call.timeout is not None)
            or (isinstance(error, WorkerDied) and self.killed)
            or (error is self.broken)
            or (isinstance(error, RuntimeError) and self.waited and "read to its end" in str(error))
        )

    def is_all(self, call: UserCall) -> bool:
        return len(call.delivered if call.kind == "stream" else call.settled) == call.length

    def is_right(self, call: UserCall, value: Any) -> bool:
        """Whether this is what a call of one value returns."""
        if call.kind == "list" and call.return_exceptions:
            expected = [call.settled.get(i) or one for i, one in enumerate(call.expected())]
            return bool(value == expected) and self.is_all(call)
        return bool(value == call.expected()) and not any(call.settled.values())

    @invariant()
    def no_law_is_broken(self) -> None:
        assert not self.laws.broken, self.laws.broken
        if not hasattr(self, "backend"):
            return
        self.steps_to_end -= 1
        self.backend.count_starts()
        for call in self.calls:
            if call.future is not None and call.future.cancelled() and not call.over:
                assert not call.starts, f"{call} was cancelled, and started"
                call.end(leaves=False)
        if not (self.stage.at("road") or self.alarms):
            self.check_at_rest()
        assert not self.laws.broken, self.laws.broken

    def check_at_rest(self) -> None:
        """No thread is in the middle of anything."""
        driver, backend = self.driver, self.backend
        assert {chunk_id for chunk_id, _ in driver._in_flight} == set(backend._chunks), (
            "what is in flight is with a worker"
        )
        assert len(driver._roster) == len(backend.workers())
        for worker in backend.workers():
            assert driver._roster.load(worker) == len(backend.chunks(worker))
        assert not driver._letters, "a letter lies there, and nobody reads it"
        # A callback may wait for the end; those that are due behind it come when it goes on.
        assert not self.tasks._due or self.stage.at("end"), "futures are not told"
        assert backend.closed == (driver.closing and not driver.calls)
        assert backend.killed <= self.killed
        for engine_call in driver.calls:
            assert not engine_call.scheduler.done
            assert engine_call.scheduler.workers == driver.workers or type(engine_call) is TaskCall
        self.check_that_nobody_is_idle()
        for call in self.calls:
            self.check_call(call)

    def check_that_nobody_is_idle(self) -> None:
        backend = self.backend
        loads = {worker: len(backend.chunks(worker)) for worker in backend.workers()}
        if any(load < backend.depth for load in loads.values()):
            for engine_call in self.driver.calls:
                scheduler = engine_call.scheduler
                room = scheduler._window_items() - (scheduler._handed_out - scheduler._consumed)
                for chunk in list(scheduler._pending)[:1]:
                    full = room < 1 and chunk.stop > scheduler._handed_out
                    assert full, f"{chunk} is pending, and there is room for it"
        if 0 in loads.values() and backend.can_give_back:
            for chunk in backend.chunks():
                call = backend.call_of(chunk.work)
                rest = chunk.stop - chunk.started
                assert rest < 2 or call.over, f"a worker is idle, and of {chunk} {rest} are not started"

    def check_call(self, call: UserCall) -> None:
        for engine_call in self.driver.calls:
            if engine_call.work.function is not None and self.backend.call_of(engine_call.work) is call:
                call.engine_call = engine_call
        if call.over:
            if call.leaves and not call.silent:
                call.silent, call.frozen = True, call.starts.total()
            if call.silent and self.backend.can_give_back:
                assert call.starts.total() == call.frozen, f"{call} was left, and an item was started"
        elif call.future is not None:
            told = call.future.done() == (0 in call.settled) or bool(self.tasks._due)
            assert told, f"{call.future}, {call.settled}"
        elif call.engine_call is not None and not call.unread:
            delivered, due = call.engine_call._inbox.outcomes, call.in_turn()
            delivered += sum(map(len, call.engine_call._gathered))
            taken = len(call.delivered) + call.reading
            consumed = call.engine_call.scheduler._consumed
            assert consumed <= taken or call.kind != "stream", (
                f"{call}: {consumed} are consumed, and {taken} taken"
            )
            assert delivered == due, f"{call}: {delivered} outcomes were delivered of {due}: {call.settled}"
            if not call.pulling:
                self.check_where_items_are(call)

    def check_where_items_are(self, call: UserCall) -> None:
        """What is neither settled nor with a worker is pending, and a call without such items is done."""
        pending = call.pulled - len(call.settled) - len(call.flying)
        if call.engine_call in self.driver.calls:
            waiting = call.engine_call.scheduler.waiting
            assert waiting == pending or self.cancelled, f"{call}: {waiting} items wait, not {pending}"
            ended = call.engine_call._source is None and self.backend.is_done(call)
            assert not ended, f"{call} does not end"
            for chunk in call.engine_call.scheduler._pending if self.cancelled else ():
                assert chunk.stop <= call.engine_call.scheduler._handed_out, f"{call}: {chunk} was cancelled"
        else:
            cut_off = self.cancelled or call.engine_call._source_error is not None
            assert not pending or cut_off, f"{call} is done, and {pending} items are pending"

    # To the end

    def teardown(self) -> None:
        try:
            if sys.exc_info()[0] is None and hasattr(self, "backend"):
                self.bring_to_its_end()
        finally:
            if hasattr(self, "driver"):
                self.driver.disown()  # what a failed example left is not to be run when the program ends
            self.stage.close()
            self.patches.close()

    def bring_to_its_end(self) -> None:
        self.backend.slow = 0
        self.backend.in_the_middle = None
        self.backend.interrupts.clear()
        self.go_on_as_long_as_possible()
        parked = [actor for actor in self.stage.parked if actor.where != "end"]
        assert not parked, f"{parked} wait for ever"
        for call in self.calls:
            if call.future is not None:
                self.check_future(call)
            else:
                assert call.over or call.unread, f"{call} did not come to its end"
        self.act("the end", self.shut_all_down)
        self.go_on_as_long_as_possible()
        assert not self.stage.parked, f"{self.stage.parked} wait for ever"
        assert self.backend.closed
        assert not self.driver.calls
        assert not list(self.driver._in_flight)
        for call in self.calls:
            if call.unread and not (call.over or self.cancelled):
                done = len(call.settled) == call.length or call.engine_call._source_error is not None
                assert done, f"{call} was not run to its end: {call.settled}"

    def shut_all_down(self) -> None:
        if self.executor is not None:
            self.shut_down_here("wait")
        else:  # as at the end of the program
            for engine_call in self.driver.calls:
                engine_call.close_input(leaving=True)
            self.driver.close()
            self.driver.join()

    def go_on_as_long_as_possible(self) -> None:
        """Let everybody go on who can, and workers do what they have, until nothing moves."""
        moved = True
        while moved:
            moved = False
            for actor in self.stage.ready():
                self.stage.go_on(actor)
                moved = True
            while self.alarms:
                self.act("clock", self.alarms.pop(0))
                moved = True
            if not self.backend.workers():
                self.join()
                moved = True
            for chunk in self.chunks():
                if chunk in self.chunks():
                    self.report(chunk, partial(self.backend.finish, chunk))
                    moved = True
            for call in self.calls:
                if call.stream is not None and not call.reading and not call.over:
                    self.read_one(call)
                    moved = True
            self.no_law_is_broken()

    def check_future(self, call: UserCall) -> None:
        future = call.future
        assert future.done(), f"{call} is pending for ever"
        if future.cancelled():
            return
        error = future.exception(0)
        if error is None:
            assert future.result(0) == (call.number, 0)
            assert call.settled == {0: None}
        else:
            due = call.settled.get(0) is error or self.is_due(call, error)
            assert due, f"{call} has {error!r}"


common = {
    "derandomize": True,  # the same games each time; who hunts for others takes this away
    "report_multiple_bugs": False,
    "suppress_health_check": [HealthCheck.too_slow],
    "phases": [Phase.generate, Phase.shrink],
}


# Ctrl-C in a finalizer is printed and forgotten, by Python itself.
in_finalizers = pytest.mark.filterwarnings(
    "ignore:(?s)Exception ignored in.*KeyboardInterrupt:pytest.PytestUnraisableExceptionWarning"
)


@in_finalizers
@pytest.mark.timeout(300)  # to make a lost game small takes long
class TestProtocol(ProtocolMachine.TestCase):  # type: ignore[name-defined]
    settings = settings(max_examples=100, stateful_step_count=40, **common)


@in_finalizers
@pytest.mark.slow
@pytest.mark.timeout(300)
class TestProtocolAtLength(ProtocolMachine.TestCase):  # type: ignore[name-defined]
    settings = settings(max_examples=300, stateful_step_count=80, **common)
