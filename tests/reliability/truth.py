"""What truly happens to every item of every call, seen from the workers' side and from the user's.

`Watched` is a `FakeBackend` that writes down what reaches the workers, what they start, and what they report.
A `UserCall` has that of one call, and what the user got of it. Both know the laws, and not the engine:
an item is pending, in one chunk in flight, or settled; it is tried 1 + retries times at the most; what is
settled is delivered once, in order where that was asked for.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterator
from typing import Any

from stage import Stage

from parallelkit._core.chunks import Chunk, Cut
from parallelkit._core.keyed import KeyedMap
from parallelkit.backends.base import Broken, Event, Post, Rejected, Settled, WorkerLeft
from parallelkit.testing import FakeBackend, FakeChunk
from parallelkit.testing.fake import Work


class Boom(Exception):
    """An item raises this; another try may help."""


class Hopeless(Exception):
    """An item raises this, which the call does not try again."""


class Refused(Exception):
    """An item cannot travel."""


class SourceFails(Exception):
    """The input raises this after its last item."""


class Laws:
    """What was broken: also where the engine has a reason to catch what is raised."""

    def __init__(self) -> None:
        self.broken: list[str] = []

    def hold(self, holds: object, message: str) -> None:
        if not holds:
            self.broken.append(message)
            raise AssertionError(message)


class UserCall:
    """One call of the user, and the truth about its items.

    Attributes:
        kind: "stream", "submit", "list", "reduce" or "map_reduce".
        fails: how many first attempts of an item raise; `hopeless` items raise what is not tried again.
        over: the user expects nothing more of it.
        leaves: its end is to end the work on it.
        silent: that was heard everywhere: nothing of it is handed out any more.
        lifted: nobody reads it, so its window bounds nothing.
    """

    def __init__(self, laws: Laws, number: int, kind: str, options: dict[str, Any]):
        self.laws = laws
        self.number = number
        self.kind = kind
        self.length: int = options.get("length", 1)
        self.ordered: bool = options.get("ordered", True)
        self.retries: int = options.get("retries", 0)
        self.chunksize: int | None = options.get("chunksize")
        self.buffersize: int | None = options.get("buffersize")
        self.return_exceptions: bool = options.get("return_exceptions", False)
        self.timeout: float | None = options.get("timeout")
        self.sized: bool = options.get("sized", True)
        self.source_fails: bool = options.get("source_fails", False) and not self.sized
        self.fails: dict[int, int] = options.get("fails", {})
        self.hopeless: set[int] = options.get("hopeless", set())
        self.deeds: dict[str, str] = options.get("deeds", {})
        self.do: Callable[[str], object] = lambda deed: None
        self.before_run: Callable[[], object] = lambda: None
        self.base = 0  # of a submit: its position in the endless input of all submits
        self.pulled = self.length if self.sized else 0
        self.starts: Counter[int] = Counter()
        self.attempts: Counter[int] = Counter()
        self.flying: dict[int, int] = {}  # item -> chunk_id
        self.settled: dict[int, Exception | None] = {}
        self.delivered: dict[int, None] = {}
        self.daemon = self.started = self.reading = self.pulling = self.unread = False
        self.over = self.leaves = self.silent = self.lifted = False
        self.frozen: int | None = None
        self.engine_call: Any = None
        self.made: Any = None

    def __repr__(self) -> str:
        return f"{self.kind} {self.number}"

    @property
    def stream(self) -> Any:
        return self.made if self.kind == "stream" else None

    @property
    def future(self) -> Any:
        return self.made if self.kind == "submit" else None

    # The user's functions

    def function(self, item: int = 0) -> Any:
        self.before_run()
        if item == self.length // 2:
            self.do(self.deeds.pop("function", "nothing"))
        if item in self.hopeless:
            raise Hopeless(self, item)
        if self.attempts[item] <= self.fails.get(item, 0):
            raise Boom(self, item)
        return (item,) if self.kind == "reduce" else (self.number, item)

    def pairs(self, item: int) -> list[tuple[int, tuple[int, ...]]]:
        self.function(item)
        return [(item % 3, (item,))]

    def source(self) -> Any:
        return range(self.length) if self.sized else self._pull()

    def _pull(self) -> Iterator[int]:
        for item in range(self.length):
            if item == self.length // 2:
                self.pulling = True
                self.do(self.deeds.pop("source", "nothing"))
                self.pulling = False
            self.pulled += 1
            self._bound(self.pulled, "pulled")
            yield item
        if self.source_fails:
            raise SourceFails(self)

    def worth_retrying(self, error: Exception) -> bool:
        return not isinstance(error, Hopeless)

    def expected(self) -> Any:
        """What a call that returns one value returns, where no item failed."""
        if self.kind == "reduce":
            return tuple(range(self.length))
        if self.kind == "map_reduce":
            return {key: tuple(range(key, self.length, 3)) for key in range(min(3, self.length))}
        return [(self.number, item) for item in range(self.length)]

    # What happens to its items

    def hand_out(self, chunk_id: int, chunk: Chunk) -> None:
        """A chunk reaches a worker."""
        if self.kind == "submit":
            self.base = chunk.start
        self._law(not self.silent, "handed out after its end")
        items = range(chunk.start - self.base, chunk.stop - self.base)
        self._law(self.kind == "submit" or list(chunk.items) == list(items), f"the items of {chunk}")
        self._law(items.stop <= self.pulled, f"{chunk} was never pulled")
        self._law(self.chunksize is None or len(items) <= self.chunksize, f"{chunk} is too long")
        if self.over:
            return
        self._bound(items.stop, "handed out")
        for item in items:
            self._law(item not in self.settled, f"item {item} is handed out, and was settled")
            self._law(item not in self.flying, f"item {item} is in two chunks")
            self._law(chunk.attempts == self.attempts[item], f"item {item} has {chunk.attempts} attempts")
            self.flying[item] = chunk_id

    def _bound(self, items: int, what: str) -> None:
        if self.buffersize is not None and self.kind == "stream" and not self.lifted:
            ahead = items - len(self.delivered) - self.reading
            self._law(ahead <= self.buffersize, f"{ahead} items are {what}, and not taken")

    def start(self, item: int) -> None:
        """A worker starts an item."""
        self.starts[item] += 1
        self.attempts[item] += 1
        self._law(self.starts[item] <= 1 + self.retries, f"item {item} was started once too often")

    def come_back(self, item: int, chunk_id: int) -> None:
        """An item is pending again."""
        if not self.over:
            self._law(self.flying.pop(item, None) == chunk_id, f"item {item} was not in chunk {chunk_id}")

    def settle(self, item: int, chunk_id: int, error: Exception | None, *, final: bool = False) -> None:
        """An item ended; perhaps it is tried again."""
        if self.over:
            return
        self.come_back(item, chunk_id)
        again = error is not None and not final and self.worth_retrying(error)
        if not again or self.attempts[item] > self.retries:
            self.settled[item] = error

    # What the user gets

    def take(self, result: Any) -> None:
        """The stream yields something."""
        waiting = [item for item in self.settled if item not in self.delivered]
        candidates = [len(self.delivered)] if self.ordered else waiting
        if isinstance(result, Exception):
            is_it = [item for item in candidates if self.settled.get(item) is result]
        else:
            number, item = result
            self._law(number == self.number, f"a result of call {number}")
            is_it = [item] if item in candidates and self.settled.get(item, result) is None else []
        self._law(is_it, f"{result!r} is yielded, out of turn or twice; {self.settled}")
        self.delivered[is_it[0]] = None

    def in_turn(self) -> int:
        """How many outcomes can have been delivered by now, if none is held back."""
        if not self.ordered:
            return len(self.settled)
        return next(item for item in range(self.length + 1) if item not in self.settled)

    def raised(self, error: BaseException) -> bool:
        """The call ends with this: is it the error of an item, and that one's turn?"""
        if self.ordered and self.kind == "stream":
            return self.settled.get(len(self.delivered)) is error
        return any(settled is error for settled in self.settled.values())

    def end(self, *, leaves: bool = True) -> None:
        self.over = True
        self.leaves = leaves

    def _law(self, holds: object, message: str) -> None:
        self.laws.hold(holds, f"{self}: {message}")


class Seen:
    """A chunk with a worker, as far as it is known from outside."""

    def __init__(self, call: UserCall, chunk: FakeChunk):
        self.call = call
        self.chunk = chunk
        self.base = call.base
        self.start = self.counted = self.settled = chunk.chunk.start
        self.stop = chunk.chunk.stop
        self.spent = False  # nothing is left of it, because its tail was taken back


class Watched(FakeBackend):
    """A `FakeBackend` that knows the truth.

    Attributes:
        slow: so many chunks from now on are held up on the road.
        is_open: whether the engine has a call of that work.
        interrupts: Ctrl-C comes after an actor, by name, has carried so many chunks: did the next arrive?
        in_the_middle: what a garbage collector or a signal handler does when the engine next has its lock.
        busy: chunks that an actor is about to report of.
        late: chunks of workers that were lost.
    """

    def __init__(self, stage: Stage, laws: Laws, **options: Any):
        super().__init__(**options)
        self.stage = stage
        self.laws = laws
        self.is_open: Callable[[Work], bool] = lambda work: True
        self.slow = 0
        self.interrupts: dict[str, tuple[int, bool | None]] = {}
        self.in_the_middle: Callable[[], object] | None = None
        self.in_between = False
        self.busy: set[int] = set()
        self.late: list[FakeChunk] = []
        self.gone: set[Hashable] = set()
        self.calls: dict[Any, UserCall] = {}
        self.road: dict[int, tuple[UserCall, Hashable, Chunk]] = {}
        self.seen: dict[int, Seen] = {}

    def call_of(self, work: Work) -> UserCall:
        return self.calls[work.function._mapper if isinstance(work.function, KeyedMap) else work.function]

    # What the engine asks

    def start(self, post: Post) -> None:
        def observed(event: Event) -> None:
            self.observe(event)
            post(event)

        super().start(observed)

    def submit(self, worker: Hashable, chunk_id: int, work: Work, chunk: Chunk) -> None:
        call = self.call_of(work)
        self.laws.hold(not call.silent, f"{call}: carried after its end")
        self.laws.hold(self.is_open(work), f"{call}: carried when it is over")
        arrived = self._ctrl_c(self.stage.actor.name)
        if arrived is False:
            raise KeyboardInterrupt
        if self.slow:
            self.slow -= 1
            self.road[chunk_id] = call, worker, chunk
            self.stage.park("road", lambda: True)
            del self.road[chunk_id]
        else:
            self.laws.hold(not self.closed, "a chunk is carried to workers that were let go")
        super().submit(worker, chunk_id, work, chunk)
        if worker in self.workers():
            self.laws.hold(len(self.chunks(worker)) <= self.depth, f"worker {worker} has too many chunks")
            call.hand_out(chunk_id, chunk)
            self.seen[chunk_id] = Seen(call, self._chunks[chunk_id])
        if arrived:
            raise KeyboardInterrupt

    def _ctrl_c(self, actor: str) -> bool | None:
        """Whether Ctrl-C comes now: before the chunk arrives (False), or after that (True)."""
        after, arrived = self.interrupts.pop(actor, (0, None))
        if after:
            self.interrupts[actor] = after - 1, arrived
            return None
        # What is with a worker that cannot be asked counts as not carried, and is run once more.
        return arrived and self.can_give_back

    def take_back(self, chunk_id: int, cut: Cut) -> int | None:
        self._interrupted()
        keeps = super().take_back(chunk_id, cut)
        seen = self.seen.get(chunk_id)
        if keeps is not None and seen is not None:
            stop = seen.start + keeps
            for index in range(stop, seen.stop):
                seen.call.come_back(index - seen.base, chunk_id)
            seen.spent = seen.spent or (stop <= seen.settled and stop < seen.stop)
            seen.stop = stop
        return keeps

    def forget(self, work: Work) -> None:
        self._interrupted()

    def _interrupted(self) -> None:
        deed, self.in_the_middle = self.in_the_middle, None
        if deed is not None:
            self.in_between = True
            deed()
            self.in_between = False

    def is_done(self, call: UserCall) -> bool:
        """Whether nothing more will come of what was pulled."""
        has_some = any(seen.call is call and not seen.spent for seen in self.seen.values())
        return len(call.settled) == call.pulled and not has_some

    # What the workers say

    def count_starts(self) -> None:
        """Note what the workers have started since the last time."""
        for seen in list(self.seen.values()):
            while seen.counted < seen.chunk.started:
                seen.counted += 1
                seen.call.start(seen.counted - 1 - seen.base)

    def observe(self, event: Event) -> None:
        self.count_starts()
        if isinstance(event, Settled | Rejected):
            seen = self.seen.get(event.chunk_id)
            if seen is not None:
                (self._settled if isinstance(event, Settled) else self._rejected)(seen, event)
        elif isinstance(event, WorkerLeft) and event.worker not in self.gone:
            self.gone.add(event.worker)
            if event.claimed is None:
                self._lost_on_the_road(event)
            for chunk_id, seen in list(self.seen.items()):
                if seen.chunk.worker == event.worker:
                    self.late.append(seen.chunk)
                    self._lost(seen, chunk_id, event)
        elif isinstance(event, Broken):
            for call in self.calls.values():
                call.end()

    def _settled(self, seen: Seen, event: Settled) -> None:
        outcomes = event.outcomes
        assert outcomes.start == seen.settled
        for index in range(outcomes.start, outcomes.stop):
            error = outcomes.failures.get(index)
            seen.call.settle(index - seen.base, event.chunk_id, error, final=not outcomes.retriable)
        seen.settled = outcomes.stop
        if event.last:
            self._land_seen(seen, event.chunk_id, seen.settled)

    def _rejected(self, seen: Seen, event: Rejected) -> None:
        for index, error in event.failures.items():
            if seen.settled <= index < seen.stop:
                seen.call.settle(index - seen.base, event.chunk_id, error, final=True)
        self._land_seen(seen, event.chunk_id, seen.settled, set(event.failures))

    def _lost(self, seen: Seen, chunk_id: int, event: WorkerLeft) -> None:
        whole = seen.stop - seen.start
        started = seen.start + (whole if event.claimed is None else event.claimed.get(chunk_id, 0))
        for index in range(seen.settled, started):
            item = index - seen.base
            if index >= seen.counted and not seen.call.over:
                seen.call.attempts[item] += 1  # as far as the engine can know
            seen.call.settle(item, chunk_id, event.error)
        self._land_seen(seen, chunk_id, max(seen.settled, started))

    def _lost_on_the_road(self, event: WorkerLeft) -> None:
        """Nobody can know of what is on its way to a worker either whether it was started."""
        for chunk_id, (call, worker, chunk) in self.road.items():
            if worker == event.worker and not call.over:
                if call.kind == "submit":
                    call.base = chunk.start
                for item in range(chunk.start - call.base, chunk.stop - call.base):
                    call.attempts[item] += 1
                    call.flying[item] = chunk_id
                    call.settle(item, chunk_id, event.error)

    def _land_seen(
        self, seen: Seen, chunk_id: int, start: int, but: set[int] | frozenset[int] = frozenset()
    ) -> None:
        for index in range(start, seen.stop):
            if index not in but:
                seen.call.come_back(index - seen.base, chunk_id)
        del self.seen[chunk_id]
