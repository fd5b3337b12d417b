"""The scheduler against workers that do anything, at any moment, without a thread.

The game knows the truth: which items were started how often, where each chunk really ends, what was pulled,
delivered and consumed. The laws are checked at every move; in the end all chunks are settled, and the call
must come to its end. Moves are drawn from a `random.Random`: many games from seeds, and some from one that
hypothesis steers, which it makes small when a game is lost.
"""

from __future__ import annotations

import math
from collections import Counter
from itertools import count
from random import Random

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from parallelkit._core.outcome import Outcomes
from parallelkit._core.scheduler import Ended, GivenBack, Lost, Pulled, Rejected, Scheduler, Settled
from parallelkit._core.splitters import Adaptive, Fixed

WORKERS = 8
DEPTH = 2


class WorthTrying(Exception):
    """An error that the call retries."""


class Hopeless(Exception):
    """An error that it does not."""


class Carried:
    """A chunk with its worker, as the worker and the claim know it."""

    def __init__(self, flight):
        self.id = flight.chunk_id
        self.worker = flight.worker
        self.start = self.claimed = self.settled = flight.chunk.start
        self.sent = self.stop = flight.chunk.stop
        self.asked = self.gave = 0
        self.spent = False  # nothing is left of it, because its tail was given back

    def __repr__(self):
        return f"chunk {self.id}"


class Game:
    """One call; `random` decides about all that happens to it."""

    def __init__(self, random):
        self.random = random
        self.log = []
        self.window = self.one_of([None, math.inf, random.randint(1, 40)])
        self.ordered = self.maybe()
        self.retries = self.one_of([0, 0, 1, 2])
        self.can_give_back = self.one_of([True, True, False])
        self.sized = self.maybe()
        options = {
            "workers": random.randint(1, WORKERS),
            "window": self.window,
            "ordered": self.ordered,
            "retries": self.retries,
            "align": self.one_of([1, 4]),
        }
        first = random.randint(1, 30)
        splitter = self.one_of([Fixed(first), Adaptive(first, chunk_seconds=random.uniform(0.01, 10))])
        self.log.append(f"Scheduler({type(splitter).__name__}({first}), {options}), sized: {self.sized}")
        self.scheduler = Scheduler(splitter, count(1).__next__, **options)
        self.now = 0.0
        self.carried: dict[int, Carried] = {}  # in the order in which they were handed out
        self.pulled = self.handed_out = self.consumed = 0
        self.ended = False
        self.starts: Counter[int] = Counter()
        self.delivered: list[int] = []
        self.is_delivered: set[int] = set()
        if self.sized:  # an input whose length is known is there at once
            self.pulled = random.randint(0, 150)
            self.tell(Pulled(range(self.pulled)))
            self.end_input()

    def play(self):
        """Make some moves, then bring the game to its end."""
        moves = [
            self.pull, self.pull, self.hand_out, self.hand_out, self.hand_out, self.start_items, self.report,
            self.finish, self.finish, self.give_back, self.ask_victims, self.lose_worker, self.reject,
            self.consume, self.consume, self.workers_come_and_go, self.late_facts,
        ]  # fmt: skip
        if self.random.random() < 0.1:
            moves.append(self.end_input)
        try:
            for _ in range(self.random.randint(1, 80)):
                self.one_of(moves)()
                self.check_laws()
            self.bring_to_its_end()
        except AssertionError as error:
            error.add_note("\n".join(self.log))
            raise

    # What happens

    def pull(self):
        if not self.ended:
            items = self.random.randint(0, min(self.scheduler.wanted, 200 - self.pulled))
            first, self.pulled = self.pulled, self.pulled + items
            self.tell(Pulled(range(first, self.pulled)))

    def end_input(self):
        if not self.ended:
            self.tell(Ended())
            self.ended = True

    def hand_out(self):
        self.now += self.random.uniform(0, 5)
        for worker in range(self.random.randint(1, WORKERS)):
            self.hand_out_to(worker)

    def hand_out_to(self, worker):
        if sum(carried.worker == worker for carried in self.carried.values()) >= DEPTH:
            return
        flight = self.scheduler.next_chunk(worker, self.now, can_give_back=self.can_give_back)
        if flight is None:
            return
        self.log.append(f"worker {worker} takes {flight.chunk} as chunk {flight.chunk_id}")
        assert len(flight.chunk) > 0
        assert list(flight.chunk.items) == list(range(flight.chunk.start, flight.chunk.stop))
        self.carried[flight.chunk_id] = Carried(flight)
        self.handed_out = max(self.handed_out, flight.chunk.stop)

    def start_items(self):
        if self.carried:
            carried = self.any_chunk()
            self.claim(carried, self.random.randint(carried.claimed, carried.stop))

    def report(self):
        """Of some of what was started; it would be its worker's error to report more."""
        if self.carried:
            carried = self.any_chunk()
            self.settle(carried, self.random.randint(carried.settled, carried.claimed), last=False)

    def finish(self):
        """The worker is done with its chunk, with some luck with all of it."""
        if self.carried:
            carried = self.any_chunk()
            stop = self.one_of(
                [carried.stop, carried.stop, self.random.randint(carried.claimed, carried.stop)]
            )
            self.claim(carried, stop)
            self.settle(carried, stop, last=True)

    def give_back(self):
        if self.carried and self.can_give_back:
            self.take_back(self.any_chunk())

    def ask_victims(self):
        """As a worker that has run dry: until one gives something."""
        while (victim := self.scheduler.next_victim()) is not None:
            assert self.can_give_back
            carried = self.carried[victim.chunk_id]
            carried.asked += 1
            assert carried.asked <= 1 + carried.gave, "asking who gives nothing would never end"
            if self.take_back(carried):
                break

    def lose_worker(self):
        if not self.carried:
            return
        worker = self.any_chunk().worker
        lost = [carried for carried in self.carried.values() if carried.worker == worker]
        for carried in reversed(lost):
            claimed = carried.claimed
            if self.maybe():  # whoever does not know what was started says: all of it, as it was sent
                self.claim(carried, carried.stop)
                claimed = carried.sent
            del self.carried[carried.id]
            error = self.any_error()
            self.tell(Lost(carried.id, claimed, error, isinstance(error, Hopeless)))

    def reject(self):
        """The chunk could not travel, as it was sent."""
        unstarted = [carried for carried in self.carried.values() if carried.claimed == carried.start]
        if unstarted:
            carried = self.one_of(unstarted)
            at_fault = {self.random.randrange(carried.start, carried.sent) for _ in range(3)}
            del self.carried[carried.id]
            self.tell(Rejected(carried.id, {index: Hopeless() for index in at_fault}))

    def consume(self):
        self.take_out(self.random.randint(0, len(self.delivered) - self.consumed))

    def workers_come_and_go(self):
        self.scheduler.workers = self.random.randint(1, WORKERS)

    def late_facts(self):
        chunk_id, stop = self.random.randint(-3, 100), self.random.randint(1, 200)
        if chunk_id not in self.carried:
            self.tell(Settled(chunk_id, Outcomes(0, stop, [None] * stop), 1.0, True))
            self.tell(GivenBack(chunk_id, stop))
            self.tell(Lost(chunk_id, stop, Hopeless()))
            self.tell(Rejected(chunk_id, {stop: Hopeless()}))

    # How it is done, and told

    def one_of(self, things):
        return self.random.choice(things)

    def maybe(self):
        return self.one_of([True, False])

    def any_chunk(self):
        return self.one_of(list(self.carried.values()))

    def any_error(self):
        return self.one_of([WorthTrying, Hopeless])()

    def claim(self, carried, claimed):
        for index in range(carried.claimed, claimed):
            self.starts[index] += 1
            assert self.starts[index] <= 1 + self.retries, f"item {index} was started once too often"
        carried.claimed = claimed

    def settle(self, carried, stop, *, last, fails=True):
        start, carried.settled = carried.settled, stop
        failures = {}
        if fails and start < stop and self.maybe():
            failures = {self.random.randrange(start, stop): self.any_error() for _ in range(2)}
        if last:
            del self.carried[carried.id]
        outcomes = Outcomes(start, stop, list(range(start, stop)), failures)
        outcomes.final = {index for index, error in failures.items() if isinstance(error, Hopeless)}
        self.tell(Settled(carried.id, outcomes, self.random.uniform(0, 10), last))

    def take_back(self, carried):
        stop = self.random.randint(carried.claimed, carried.stop)
        if stop == carried.stop:
            return False
        carried.stop = stop
        carried.gave += 1
        carried.spent = stop <= carried.settled
        self.tell(GivenBack(carried.id, stop))
        return True

    def take_out(self, items):
        self.scheduler.consumed(items)
        self.consumed += items

    def tell(self, fact):
        self.log.append(str(fact))
        for outcomes in self.scheduler.receive(fact, self.now):
            self.log.append(f"    -> {outcomes}")
            assert len(outcomes), "nothing was delivered"
            for index in range(outcomes.start, outcomes.stop):
                self.deliver(index, outcomes)

    def deliver(self, index, outcomes):
        assert index not in self.is_delivered, f"item {index} was delivered twice"
        error = outcomes.failures.get(index)
        if error is None:
            assert outcomes.values[index - outcomes.start] == index
            assert self.starts[index] > 0, f"item {index} has an outcome, but was never started"
        elif isinstance(error, WorthTrying):
            assert self.starts[index] == 1 + self.retries, f"item {index} was given up too early"
        if self.ordered:
            assert index == len(self.delivered)
        self.delivered.append(index)
        self.is_delivered.add(index)

    # The laws

    def check_laws(self):
        if self.window is not None:
            taken = self.handed_out if self.sized else self.pulled
            assert taken - self.consumed <= self.window
        in_flight = sum(carried.stop - carried.settled for carried in self.carried.values())
        settled = self.pulled - in_flight - self.scheduler.waiting
        assert settled == len(self.delivered) if not self.ordered else settled >= len(self.delivered)
        everything = self.ended and len(self.delivered) == self.pulled
        assert self.scheduler.done == (everything and all(c.spent for c in self.carried.values()))

    def bring_to_its_end(self):
        """When every chunk is settled sooner or later, the call ends, and nothing is missing."""
        self.end_input()
        while not self.scheduler.done:
            before = self.starts.total(), len(self.delivered), self.consumed, -len(self.carried)
            for worker in range(WORKERS):
                self.hand_out_to(worker)
            for carried in list(self.carried.values()):
                self.claim(carried, carried.stop)
                self.settle(carried, carried.stop, last=True, fails=False)
            self.take_out(len(self.delivered) - self.consumed)
            after = self.starts.total(), len(self.delivered), self.consumed, -len(self.carried)
            assert after > before, "no worker can go on, and the call is not done"
        assert sorted(self.delivered) == list(range(self.pulled))


@pytest.mark.parametrize("batch", range(10))
def test_many_games(batch):
    for seed in range(300 * batch, 300 * (batch + 1)):
        Game(Random(seed)).play()


@pytest.mark.timeout(300)  # to make a lost game small takes long
@settings(max_examples=50, report_multiple_bugs=False, phases=[Phase.reuse, Phase.generate, Phase.shrink])
@given(st.randoms(use_true_random=False))
def test_a_few_games_that_are_made_small_when_they_are_lost(random):
    Game(random).play()
