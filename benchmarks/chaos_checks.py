"""What must hold of each call in `chaos.py`: every item once, right or named, run as often as allowed."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from traceback import format_exception
from typing import Any

from chaos_items import AT_ONCE, FAILURES, Runs, Trip

from parallelkit import RemoteError, SerializationError, TaskTimeout, WorkerDied

MOST_COMPLAINTS = 30

_NOTED = re.compile(r"parallelkit: item (\d+): ")


@dataclass
class Account:
    """The items of many calls, and what became of them.

    Attributes:
        right: delivered, as they should be.
        failed: with the error that they were meant to fail with.
        died: named by a `WorkerDied`.
        timed_out: named by a `TaskTimeout`.
        cancelled: never begun, as the caller wished.
        left: of a call that was left before their turn.
        ended: of a reduce that ended with an error, which is one for all of them.
        lost: without an outcome. doubled: with two, or run too often. wrong: with one that is not theirs.
    """

    calls: Counter[str] = field(default_factory=Counter)
    right: int = 0
    failed: int = 0
    died: int = 0
    timed_out: int = 0
    cancelled: int = 0
    left: int = 0
    ended: int = 0
    lost: int = 0
    doubled: int = 0
    wrong: int = 0
    complaints: list[str] = field(default_factory=list)

    NUMBERS = ("right", "failed", "died", "timed_out", "cancelled", "left", "ended")
    FAULTS = ("lost", "doubled", "wrong")

    @property
    def items(self) -> int:
        """How many items are accounted for, or should be."""
        return sum(getattr(self, name) for name in (*self.NUMBERS, "lost", "wrong"))

    def add(self, other: Account) -> None:
        self.calls += other.calls
        for name in (*self.NUMBERS, *self.FAULTS):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.complaints = (self.complaints + other.complaints)[:MOST_COMPLAINTS]

    def complain(self, kind: str, what: str, count: int = 1) -> None:
        setattr(self, kind, getattr(self, kind) + count)
        if len(self.complaints) < MOST_COMPLAINTS:
            self.complaints.append(f"{kind}: {what}")


@dataclass
class Asked:
    """A call as it was made: what it is called in complaints, its items, and how often each may be run."""

    name: str
    trip: Trip
    retries: int = 0
    limited: bool = False

    def __str__(self) -> str:
        return f"{self.name}, {self.trip}"


def check_map(account: Account, asked: Asked, outcomes: Sequence[Any], items: int, *, ordered: bool) -> None:
    """A map that was read to its end, with `return_exceptions`."""
    runs = Runs.read(asked.trip.log)
    if ordered and len(outcomes) != items:
        account.complain("lost" if len(outcomes) < items else "doubled", f"{len(outcomes)} of {asked}")
    found = {place: [one] for place, one in enumerate(outcomes)} if ordered else _placed(outcomes, items)
    for index in range(items):
        mine = found.get(index, [])
        if len(mine) != 1:
            account.complain("doubled" if mine else "lost", f"item {index}: {len(mine)} outcomes of {asked}")
        if mine:
            check_item(account, asked, index, mine[0], runs)
    extra = [one for index, mine in found.items() if not 0 <= index < items for one in mine]
    if extra:
        notes = [getattr(one, "__notes__", None) for one in extra[:5]]
        account.complain("doubled", f"outcomes of no item, {extra[:5]!r}, noted {notes}, of {asked}")
    if not asked.retries:
        _check_names(account, asked, found)


def check_read(account: Account, asked: Asked, outcomes: Sequence[Any]) -> None:
    """What was read of an ordered map before it was left."""
    runs = Runs.read(asked.trip.log)
    for index, outcome in enumerate(outcomes):
        check_item(account, asked, index, outcome, runs)


def check_item(account: Account, asked: Asked, index: int, outcome: Any, runs: Runs) -> None:
    """One item's outcome, and how often it was run."""
    what = f"item {index} of {asked}"
    fate = asked.trip.fate(index)
    complaint = ""
    if isinstance(outcome, WorkerDied):
        account.died += 1
        if index not in outcome.indices:
            complaint = f"{what} is not named by {outcome!r}"
    elif isinstance(outcome, TaskTimeout) and asked.limited:
        account.timed_out += 1
    elif isinstance(outcome, Exception):
        account.failed += 1
        if not _is_meant(outcome, fate, index):
            complaint = f"{what} failed with\n{''.join(format_exception(outcome))}"
    else:
        account.right += 1
        deadly = fate in (*AT_ONCE, "pickling") and not asked.trip.once
        if deadly or fate in (*FAILURES, "stuck", "arriving") or outcome != asked.trip.value(index):
            complaint = f"{what}, whose fate is {fate!r}, gave {str(outcome)[:60]}"
    if complaint:
        account.complain("wrong", complaint)
    check_runs(account, asked, index, runs, least=not isinstance(outcome, WorkerDied | TaskTimeout))


def check_runs(account: Account, asked: Asked, index: int, runs: Runs, *, least: bool) -> None:
    """How often an item was run; `least`: it was run, since it has an outcome of its own."""
    begun, ended = runs.begun[index], runs.ended[index]
    if begun > 1 + asked.retries or ended > begun:
        account.complain("doubled", f"item {index} begun {begun} times, ended {ended}, of {asked}")
    if least and not begun and asked.trip.fate(index) != "arriving":
        account.complain("wrong", f"item {index} was delivered but not run, of {asked}")


def check_all_runs(account: Account, asked: Asked) -> None:
    """Of a call whose outcomes nobody took."""
    runs = Runs.read(asked.trip.log)
    for index in runs.begun:
        check_runs(account, asked, index, runs, least=False)


def _is_meant(error: Exception, fate: str, index: int) -> bool:
    if fate == "raise":
        return isinstance(error, ValueError) and error.args == (index,)
    if fate == "leave":
        return isinstance(error, RemoteError) and error.type_name == "SystemExit"
    return fate in ("unpicklable", "unloadable") and isinstance(error, SerializationError | ArithmeticError)


def _placed(outcomes: Sequence[Any], items: int) -> dict[int, list[Any]]:
    """Outcomes that came in any order, by the item that they are of, as far as they say."""
    found: dict[int, list[Any]] = defaultdict(list)
    deaths = [outcome for outcome in outcomes if isinstance(outcome, WorkerDied)]
    for outcome in outcomes:
        if not isinstance(outcome, WorkerDied):
            found[_index_of(outcome)].append(outcome)
    # One error stands for all items that it names; with retries, some of them have another outcome.
    times = Counter(id(error) for error in deaths)
    missing = [index for index in range(items) if index not in found]
    for error in deaths:
        for index in error.indices:
            if times[id(error)] and index in missing and not found[index]:
                found[index].append(error)
                times[id(error)] -= 1
    for error in deaths:
        if times[id(error)]:  # it came more often than it has items
            times[id(error)] -= 1
            found[next(iter(error.indices), -1)].append(error)
    return {index: mine for index, mine in found.items() if mine}


def _index_of(outcome: Any) -> int:
    if not isinstance(outcome, Exception):
        return int(outcome[0])
    noted = [found for note in getattr(outcome, "__notes__", ()) if (found := _NOTED.match(note))]
    return int(noted[-1].group(1)) if noted else -1


def _check_names(account: Account, asked: Asked, found: dict[int, list[Any]]) -> None:
    """Where nothing is tried again, all items that an error names have that error and nothing else."""
    errors = {id(one): one for mine in found.values() for one in mine if isinstance(one, WorkerDied)}
    for error in errors.values():
        its = {index for index, mine in found.items() if any(one is error for one in mine)}
        if others := set(error.indices) - its:
            account.complain("doubled", f"{error!r} names {others}, which have outcomes, of {asked}")
