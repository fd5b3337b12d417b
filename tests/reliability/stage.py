"""Threads that take turns, so that a test of several threads has one order of events, which it chooses.

An actor does its deed in a thread of its own until that is done, or until it parks: the engine waits there
for something, or the test holds it up. Then the test goes on, and may have another actor do something
meanwhile, before it has this one go on. One thread runs at a time, so what happens depends on the test alone,
and hypothesis can make it small. Who neither ends nor parks in time waits where nobody can see it: a hang.
"""

from __future__ import annotations

import sys
import threading
import traceback
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

from parallelkit import _calls, _driver, _worker
from parallelkit._alarm import Alarm

PATIENCE = 20.0
"""Seconds that an actor may take for one turn, before it counts as hanging."""


class CurtainDown(BaseException):
    """Ends an actor that is parked when the play is over."""


class Actor:
    """Who does `deed` in a thread of his own, in turns.

    Attributes:
        where: what he is parked at ("inbox", "road", ...); None while he runs, and when he is done.
        ready: whether what he waits for has come.
    """

    def __init__(self, name: str, deed: Callable[[], object]):
        self.name = name
        self.deed: Callable[[], object] | None = deed
        self.where: str | None = None
        self.ready: Callable[[], bool] = bool
        self.done = False
        self.error: BaseException | None = None

    def __repr__(self) -> str:
        return f"<{self.name}, {'done' if self.done else self.where or 'runs'}>"

    def play(self) -> None:
        assert self.deed is not None
        try:
            self.deed()
        except CurtainDown:
            pass
        except BaseException as error:
            self.error = error
        finally:
            self.deed = None  # in this turn, for it may be the last to know an executor, which ends with that
            self.done = True


class _Thread:
    """Plays one actor after the other: to start a thread takes longer than most deeds."""

    def __init__(self, stage: Stage):
        self.stage = stage
        self.turn = threading.Lock()
        self.turn.acquire()
        self.actor: Actor | None = None
        self.thread = threading.Thread(target=self._play, name="actor", daemon=True)
        self.thread.start()

    def _play(self) -> None:
        while True:
            self.turn.acquire()
            if self.actor is None:
                return
            self.actor.play()
            self.actor = None
            self.stage.idle.append(self)
            self.stage.turn.release()


class Stage:
    """Where actors take turns; the test is the one who has them play."""

    def __init__(self) -> None:
        self.turn = threading.Lock()
        self.turn.acquire()
        self.now: _Thread | None = None
        self.idle: list[_Thread] = []
        self.over = False
        self._parked: dict[Actor, _Thread] = {}

    def act(self, name: str, deed: Callable[[], object]) -> Actor:
        """Begin a deed; return when it is done, or parked. What it raises is raised here."""
        actor = Actor(name, deed)
        thread = self.idle.pop() if self.idle else _Thread(self)
        thread.actor = actor
        self._watch(actor, thread)
        return actor

    def go_on(self, actor: Actor) -> None:
        """Let an actor who is parked go on."""
        assert actor.ready(), f"{actor} is not ready"
        self._watch(actor, self._parked.pop(actor))

    @property
    def parked(self) -> list[Actor]:
        """Those who wait, in the order in which they began to."""
        return list(self._parked)

    def ready(self) -> list[Actor]:
        """Those who are parked and can go on."""
        return [actor for actor in self._parked if actor.ready()]

    def at(self, where: str) -> list[Actor]:
        """Those who are parked there."""
        return [actor for actor in self._parked if actor.where == where]

    @property
    def actor(self) -> Actor:
        """Whose turn it is."""
        assert self.now is not None
        assert self.now.actor is not None, "the test itself does what actors do"
        return self.now.actor

    def park(self, where: str, ready: Callable[[], bool]) -> None:
        """Called by an actor: wait until the test lets him go on."""
        if self.over:
            self._leave(where)
            return
        actor, thread = self.actor, self.now
        assert thread is not None
        actor.where, actor.ready = where, ready
        self._parked[actor] = thread
        self.turn.release()
        thread.turn.acquire()
        actor.where = None
        if self.over:
            self._leave(where)

    def close(self) -> None:
        """End those who are parked, as they are, and all threads."""
        self.over = True
        for actor in self.parked:
            self._watch(actor, self._parked.pop(actor), silent=True)
        for thread in self.idle:
            thread.turn.release()
            thread.thread.join(PATIENCE)
            assert not thread.thread.is_alive()

    def _leave(self, where: str) -> None:
        if where != "road":  # perhaps within a finalizer, which must not raise
            raise CurtainDown

    def _watch(self, actor: Actor, thread: _Thread, *, silent: bool = False) -> None:
        self.now = thread
        thread.turn.release()
        if not self.turn.acquire(timeout=PATIENCE):
            frame = sys._current_frames().get(thread.thread.ident or 0)
            raise AssertionError(f"{actor} hangs\n{''.join(traceback.format_stack(frame))}")
        self.now = None
        if actor.error is not None and not silent:
            raise actor.error


class Inbox:
    """A `SimpleQueue` whose readers park; it knows how many items' outcomes were ever put into it."""

    def __init__(self, stage: Stage):
        self._stage = stage
        self._entries: deque[Any] = deque()
        self.outcomes = 0

    def put(self, entry: Any) -> None:
        self._entries.append(entry)
        self.outcomes += 0 if entry is None else len(entry)

    def empty(self) -> bool:
        return not self._entries

    def get(self) -> Any:
        while not self._entries:
            self._stage.park("inbox", lambda: bool(self._entries))
        return self._entries.popleft()


class TurnLock:
    """A `threading.RLock` whose waiters park."""

    def __init__(self, stage: Stage):
        self._stage = stage
        self._owners: list[Actor] = []

    def _is_owned(self) -> bool:
        return self._stage.actor in self._owners

    def acquire(self, blocking: bool = True) -> bool:
        while self._owners and not self._is_owned():
            if not blocking:
                return False
            self._stage.park("lock", lambda: not self._owners)
        self._owners.append(self._stage.actor)
        return True

    def release(self) -> None:
        self._owners.pop()


class TurnEvent(threading.Event):
    """A `threading.Event` whose waiters park."""

    def __init__(self, stage: Stage):
        super().__init__()
        self._stage = stage

    def wait(self, timeout: float | None = None) -> bool:
        if not self.is_set():
            self._stage.park("end", self.is_set)
        return True


@contextmanager
def on(stage: Stage, alarms: list[Callable[[], object]], limits: list[Alarm]) -> Iterator[None]:
    """Have the engine wait on this stage, in a time that stands still.

    Args:
        alarms: what it wants done soon.
        limits: what it wants done when the time of a call is over.
    """

    def call_at(when: float, function: Callable[[], object]) -> Alarm:
        limits.append(Alarm(when, function))
        return limits[-1]

    with ExitStack() as patches:
        for module, names in [
            (
                _calls,
                {
                    "SimpleQueue": lambda: Inbox(stage),
                    "threading": SimpleNamespace(RLock=lambda: TurnLock(stage)),
                    "monotonic": lambda: 0.0,
                    "call_at": call_at,
                },
            ),
            (_driver, {"call_soon": alarms.append, "monotonic": lambda: 0.0}),
            (_worker, {"perf_counter": lambda: 0.0}),
        ]:
            for name, stand_in in names.items():
                patches.enter_context(patch.object(module, name, stand_in))
        yield
