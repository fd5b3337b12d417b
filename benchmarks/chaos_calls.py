"""The calls that go on in `chaos.py`: drawn from a seed, made by several threads, checked one by one."""

from __future__ import annotations

import os
import random
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Future
from functools import partial
from itertools import count, islice
from time import monotonic, sleep
from typing import Any, NamedTuple

from chaos_checks import Account, Asked, check_all_runs, check_item, check_map, check_read, check_runs
from chaos_items import Join, Runs, Span, Trip, enter, run_item, run_item_async, run_pairs, run_span

from parallelkit import Executor, RemoteError, SerializationError, WorkerDied

LIMIT_SECONDS = 0.25
"""The `task_timeout` of those calls that have one: more than an item should take on a busy machine."""

PATIENCE = 20.0
"""Seconds to wait for what comes in a fraction of one."""


class Profile(NamedTuple):
    """What the items of a call are like: how many at most, and the bounds that `Trip` has."""

    items: int
    seconds: float
    most_bytes: int
    item_bytes: int
    peril: float


PROFILES = {
    "many": Profile(1500, 0.0, 0, 0, 0.004),
    "some": Profile(300, 0.004, 2_000, 0, 0.02),
    "slow": Profile(50, 0.02, 50_000, 10_000, 0.06),
    "large": Profile(10, 0.002, 4 << 20, 1 << 20, 0.2),
}


class Arena:
    """What all threads share: the executors that are attacked, and the places for notes.

    Attributes:
        targets: the executors whose workers may be killed.
        deaths: workers that ended: (process id, exit code), those aside that were told to.
    """

    def __init__(self, folder: str, method: str, workers: int):
        self.folder = folder
        self.method = method
        self.faults = os.path.join(folder, "faults")
        self.parent = os.getpid()
        self.targets: list[Executor] = []
        self.deaths: list[tuple[int, int | None]] = []
        self._logs = count()
        with open(self.faults, "wb"):
            pass
        self.executor = self.open(workers)

    def new_log(self) -> str:
        path = os.path.join(self.folder, f"call-{next(self._logs)}")
        with open(path, "wb"):
            pass
        return path

    def open(self, workers: int, **options: Any) -> Executor:
        """An executor whose workers may be killed, until `close` is told of it."""
        executor = Executor("process", workers, self.method, enter, **options)
        self._watch(executor, leave=options.get("max_tasks_per_child") is not None)
        self.targets.append(executor)
        return executor

    def close(self, executor: Executor) -> None:
        """It is no target any more."""
        self.targets.remove(executor)

    def _watch(self, executor: Executor, *, leave: bool) -> None:
        backend: Any = executor._backend
        on_death = backend.on_death

        def noted(peer: Any, exitcode: int | None) -> None:
            if not (peer.expendable or (leave and exitcode == 0)):
                self.deaths.append((peer.process.pid, exitcode))
            on_death(peer, exitcode)

        backend.on_death = noted


class Caller(threading.Thread):
    """Makes one call after the other until it is told to stop.

    Attributes:
        doing: the call that goes on, and since when.
    """

    def __init__(self, arena: Arena, seed: str, over: Callable[[], bool]):
        super().__init__(name=f"caller {seed}", daemon=True)
        self.account = Account()
        self.doing = "", 0.0
        self.crash: BaseException | None = None
        self._arena = arena
        self._seed = seed
        self._random = random.Random(seed)
        self._over = over
        self._left: list[tuple[Asked, list[int], int]] = []  # calls that were left; pulled then, and how many

    def run(self) -> None:
        kinds: list[tuple[Callable[[Executor, str], None], int]] = [
            (self.map, 8), (self.stream, 4), (self.reduce, 4), (self.map_reduce, 1),
            (self.submit, 5), (self.limited, 1), (self.short_lived, 1),
        ]  # fmt: skip
        calls, weights = zip(*kinds, strict=True)
        try:
            for number in count():
                if self._over():
                    break
                (call,) = self._random.choices(calls, weights)
                name = f"{self._seed}/{number} {call.__name__}"
                self.doing = name, monotonic()
                call(self._arena.executor, name)
                self.account.calls[call.__name__] += 1
        except BaseException as error:
            error.add_note(f"in call {self.doing[0]}")
            self.crash = error
        self.doing = "", 0.0

    def check_left(self) -> None:
        """What became of the calls that were left, when all is quiet."""
        for asked, pulled, before in self._left:
            check_all_runs(self.account, asked)
            if len(pulled) != before:
                late = f"{len(pulled) - before} items were pulled when it had been left"
                self.account.complain("wrong", f"{late}, of {asked}")
            os.remove(asked.trip.log)
        self._left.clear()

    # What is drawn

    def _asked(self, name: str, **changes: Any) -> tuple[Asked, int, int]:
        """A call, how many items it has, how large they are."""
        draw = self._random
        profile_name = draw.choice([*PROFILES])
        profile = PROFILES[profile_name]
        items = 1 + int(profile.items * draw.random() ** 2)
        trip = Trip(
            name,
            self._arena.new_log(),
            self._arena.faults,
            self._arena.parent,
            seconds=draw.choice([0.0, profile.seconds]),
            most_bytes=draw.choice([0, profile.most_bytes]),
            peril=draw.choice([0.0, profile.peril]),
            failing=draw.choice([0.0, 0.0, 0.05]),
            once=draw.random() < 0.5,
        )._replace(**changes)
        asked = Asked(f"{name} of {items} {profile_name}", trip, draw.choice([0, 0, 1, 2]))
        return asked, items, draw.choice([0, profile.item_bytes])

    def _options(self, asked: Asked) -> dict[str, Any]:
        draw = self._random
        options = {
            "retries": asked.retries,
            "chunksize": draw.choice([None, None, None, 1, 7]),
            "buffersize": draw.choice([None, None, None, 3, 40]),
        }
        asked.name += f" {options}"
        return options

    def _function(self, trip: Trip) -> Callable[[Any], Any]:
        kind = self._random.choice(["partial", "partial", "lambda", "async"])
        if kind == "lambda":
            return lambda item: run_item(trip, item)
        return partial(run_item_async if kind == "async" else run_item, trip)

    def _input(self, trip: Trip, items: int, item_bytes: int) -> Any:
        kind = self._random.choice(["list", "list", "range", "generator"])
        if kind == "range" and not trip.peril:
            return range(items)
        made = (trip.item(index, item_bytes) for index in range(items))
        return made if kind == "generator" else list(made)

    # The calls

    def map(self, executor: Executor, name: str) -> None:
        asked, items, item_bytes = self._asked(name)
        options = self._options(asked)
        ordered = self._random.random() < 0.6
        source = self._input(asked.trip, items, item_bytes)
        function = self._function(asked.trip)
        outcomes = list(executor.map(function, source, ordered=ordered, return_exceptions=True, **options))
        check_map(self.account, asked, outcomes, items, ordered=ordered)
        os.remove(asked.trip.log)

    def stream(self, executor: Executor, name: str) -> None:
        """A map that is left in its middle: by the caller, by an error, or because its time is over."""
        asked, items, item_bytes = self._asked(name)
        options = self._options(asked)
        if self._random.random() < 0.2:
            options["timeout"] = 0.3 * self._random.random()
        patient = self._random.random() < 0.6  # else the first error is the end
        pulled: list[int] = []
        endless = self._random.random() < 0.3

        def source() -> Iterator[Any]:
            for index in count() if endless else range(items):
                pulled.append(index)
                yield asked.trip.item(index, item_bytes)

        stream = executor.map(self._function(asked.trip), source(), return_exceptions=patient, **options)
        read: list[Any] = []
        try:
            read.extend(islice(stream, self._random.randint(1, items)))
            stream.close()  # type: ignore[attr-defined]
        except TimeoutError:
            if "timeout" not in options:
                raise
        except Exception as error:
            if patient:
                raise
            read.append(error)
        check_read(self.account, asked, read)
        self.account.left += len(pulled) - len(read)
        self._left.append((asked, pulled, len(pulled)))

    def reduce(self, executor: Executor, name: str) -> None:
        asked, items, item_bytes = self._asked(name, failing=self._random.choice([0.0, 0.0, 0.0, 0.01]))
        options = self._options(asked)
        trip = asked.trip
        source = self._input(trip, items, item_bytes)
        try:
            found = executor.reduce(Join(trip), source, map=partial(run_span, trip), **options)
        except (WorkerDied, ValueError, SerializationError, RemoteError) as error:
            self._ended(asked, items, error)
        else:
            spans = [Span(i, i + 1, trip.weight(i), b"") for i in range(items)]
            with Executor("serial") as serial:
                right = serial.reduce(Join(trip), spans)
            self._reduced(asked, items, found[:3] == right[:3], found[:3])

    def map_reduce(self, executor: Executor, name: str) -> None:
        asked, items, item_bytes = self._asked(name, failing=0.0)
        options = self._options(asked)
        source = self._input(asked.trip, items, item_bytes)
        try:
            found = executor.map_reduce(partial(run_pairs, asked.trip), max, source, **options)
        except WorkerDied as error:
            self._ended(asked, items, error)
        else:
            right: dict[int, int] = {}
            for index in range(items):
                right.setdefault(index % 10, 0)
                right.setdefault(-1, 1)
                right[index % 10] = index
            self._reduced(asked, items, list(found.items()) == list(right.items()), found)

    def _ended(self, asked: Asked, items: int, error: Exception) -> None:
        """A reduce ended with an error."""
        self.account.ended += items
        if isinstance(error, WorkerDied):
            if not error.indices or not set(error.indices) <= set(range(items)):
                self.account.complain("wrong", f"{error!r} names no item of {asked}")
        elif not asked.trip.failing:
            self.account.complain("wrong", f"{error!r} in {asked}")
        self._left.append((asked, [], 0))

    def _reduced(self, asked: Asked, items: int, right: bool, found: Any) -> None:
        self.account.right += items
        if not right:
            self.account.complain("wrong", f"{found} is the value of {asked}")
        runs = Runs.read(asked.trip.log)
        for index in range(items):
            check_runs(self.account, asked, index, runs, least=True)
        os.remove(asked.trip.log)

    def submit(self, executor: Executor, name: str) -> None:
        """Many calls of a function at once, some of which are cancelled."""
        asked, items, item_bytes = self._asked(name)
        asked.retries = 0
        items = min(items, 80)
        function = self._function(asked.trip)
        rang: list[int] = []
        futures = []
        for index in range(items):
            future = executor.submit(function, asked.trip.item(index, item_bytes))
            future.add_done_callback(lambda _, index=index: rang.append(index))  # type: ignore[misc]
            futures.append(future)
        cancelled = {i for i, future in enumerate(futures) if self._random.random() < 0.1 and future.cancel()}
        order = [*range(items)]
        self._random.shuffle(order)
        named: Counter[int] = Counter()
        for index in order:
            outcome = outcome_of(futures[index])
            runs = Runs.read(asked.trip.log)
            if index in cancelled:
                self.account.cancelled += 1
                if runs.begun[index] or not isinstance(outcome, CancelledError):
                    self.account.complain("wrong", f"item {index}, cancelled, gave {outcome!r}, {asked}")
                continue
            if isinstance(outcome, WorkerDied):  # which knows the number of the task, not ours
                named.update(outcome.indices)
                if len(outcome.indices) != 1:
                    self.account.complain("wrong", f"{outcome!r} of one future, {asked}")
                outcome = WorkerDied(str(outcome), outcome.exitcode, [index])
            check_item(self.account, asked, index, outcome, runs)
        if named and max(named.values()) > 1:
            self.account.complain("doubled", f"{named.most_common(3)}: named twice, {asked}")
        deadline = monotonic() + PATIENCE  # the last callback comes after who waits was woken
        while len(rang) < items and monotonic() < deadline:
            sleep(0.001)
        if sorted(rang) != [*range(items)]:
            self.account.complain("doubled", f"{len(rang)} callbacks, of {asked}")
        os.remove(asked.trip.log)

    def limited(self, executor: Executor, name: str) -> None:
        """A map whose items have a time limit, and some of which never end."""
        stuck = self._random.choice([0.0, 0.05])
        asked, items, item_bytes = self._asked(name, stuck=stuck, seconds=0.001)
        options = self._options(asked)
        asked.limited = True
        items = min(items, 60)
        source = [asked.trip.item(index, item_bytes) for index in range(items)]
        function = partial(run_item, asked.trip)
        found = executor.map(function, source, task_timeout=LIMIT_SECONDS, return_exceptions=True, **options)
        check_map(self.account, asked, list(found), items, ordered=True)
        os.remove(asked.trip.log)

    def short_lived(self, executor: Executor, name: str) -> None:
        """An executor of its own, which ends in one way or another while it is at work."""
        draw = self._random
        asked, items, item_bytes = self._asked(name)
        items = min(items, 60)
        end = draw.choice(["read", "shut down", "cancel", "kill", "drop"])
        asked.name += f", {end}"
        asked.retries = 0
        own = self._arena.open(2, max_tasks_per_child=draw.choice([None, None, 5]))
        try:
            function = self._function(asked.trip)
            futures = [own.submit(function, asked.trip.item(i, item_bytes)) for i in range(items)]
            unread = own.map(abs, range(100))
            if end == "read":
                for future in futures:
                    outcome_of(future)
            if end == "kill":
                own.kill_workers()
            if end != "drop":
                own.shutdown(cancel_futures=end == "cancel")
        finally:
            self._arena.close(own)
        del own, unread
        self._settled(asked, futures, may_be_cut=end in ("cancel", "kill"))
        os.remove(asked.trip.log)

    def _settled(self, asked: Asked, futures: list[Future[Any]], *, may_be_cut: bool) -> None:
        for index, future in enumerate(futures):
            outcome = outcome_of(future)
            if may_be_cut and isinstance(outcome, CancelledError):
                self.account.cancelled += 1
                continue
            if isinstance(outcome, WorkerDied) and (outcome.indices or may_be_cut):
                outcome = WorkerDied(str(outcome), outcome.exitcode, [index])
            check_item(self.account, asked, index, outcome, Runs.read(asked.trip.log))


def outcome_of(future: Future[Any]) -> Any:
    """The result or the error of a future, which is waited for."""
    try:
        return future.result()
    except (Exception, CancelledError) as error:
        return error


class Bystander(threading.Thread):
    """Works with an executor of its own, which nobody attacks, and to which nothing may happen."""

    def __init__(self, executor: Executor, over: Callable[[], bool]):
        super().__init__(name="bystander", daemon=True)
        self.account = Account()
        self.doing = "", 0.0
        self.crash: BaseException | None = None
        self._executor = executor
        self._over = over

    def run(self) -> None:
        squares = [item * item for item in range(200)]
        try:
            while not self._over():
                self.doing = "bystander", monotonic()
                futures = [self._executor.submit(pow, item, 2) for item in range(20)]
                found = [*self._executor.map(pow, range(200), [2] * 200)]
                if found != squares or [future.result() for future in futures] != squares[:20]:
                    self.account.complain("wrong", "an executor that is not attacked gave other results")
                self.account.right += 220
                self.account.calls["bystander"] += 1
                threading.Event().wait(0.05)  # it is to be there, not to take the machine
        except BaseException as error:
            error.add_note("in an executor that is not attacked")
            self.crash = error
        self.doing = "", 0.0
