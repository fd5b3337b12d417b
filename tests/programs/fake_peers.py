"""Peers and a work for `tests/test_benchmarks.py`: one that is right, and others that are not."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterable
from typing import Any

from benchmarks.peers.base import Side
from benchmarks.works.base import Case, Measured, Plan, Work, expect, mapped, proof_of


class Good(Side):
    family = "good"
    offers = frozenset({"fake"})

    def open(self) -> None:
        print("what a peer prints is no answer")

    def close(self) -> None:
        pass

    def map(self, function: Callable[[Any], Any], items: Iterable[Any]) -> list[Any]:
        return list(map(function, items))


class Fair(Good):
    pass


class Mean(Good):
    pass


class Ours(Good):
    family = "parallelkit"
    ours = True


class Reference(Good):
    family = "serial"
    reference = True


class Slow(Good):
    """Answers, but not soon."""

    def map(self, function: Callable[[Any], Any], items: Iterable[Any]) -> list[Any]:
        time.sleep(0.01)
        return super().map(function, items)


class Hanging(Good):
    """In the larger case only."""

    def map(self, function: Callable[[Any], Any], items: Iterable[Any]) -> list[Any]:
        if len(list(items)) > 3:
            time.sleep(600)
        return super().map(function, items)


class NeverReady(Good):
    def open(self) -> None:
        time.sleep(600)


class Failing(Good):
    """In the smaller case only."""

    def map(self, function: Callable[[Any], Any], items: Iterable[Any]) -> list[Any]:
        if len(list(items)) == 3:
            raise ValueError("three are too many")
        return super().map(function, items)


class Dying(Good):
    def map(self, function: Callable[[Any], Any], items: Iterable[Any]) -> list[Any]:
        print("last words", file=sys.stderr, flush=True)
        os._exit(3)


class Absent(Good):
    modules = ("no_such_module",)


class Wrong(Good):
    def map(self, function: Callable[[Any], Any], items: Iterable[Any]) -> list[Any]:
        return [result + 1 for result in super().map(function, items)]


def cases(plan: Plan) -> list[Case]:
    return [
        mapped("three", abs, lambda: [1, 2, 3], needs="fake"),
        mapped("four", abs, lambda: [1, 2, 3, 4], needs="fake"),
    ]


def apart_cases(plan: Plan) -> list[Case]:
    def measure(side: Side, round_number: int) -> Measured:
        return Measured([os.getpid() / 1e6], proof_of([1]))

    return [Case(name="apart", measure=measure, needs="fake", apart=True)]


WORK = Work(number=99, name="fake", title="Fake", text="Nothing.", cases=cases)
APART = Work(number=98, name="apart", title="Apart", text="Nothing.", cases=apart_cases)


# ---------------------------------------------------------------- every call of every side


def negative(number: int) -> int:
    return -number


def plus(thing: int, number: int) -> int:
    return thing + number


def add(left: int, right: int) -> int:
    return left + right


def letters(word: str) -> dict[str, int]:
    return dict.fromkeys(word, 1)


async def later(number: int) -> int:
    return -number


def first_two(side: Side) -> list[Any]:
    results = iter(side.stream(negative, range(5)))
    return [next(results), next(results), *results]


CALLS: dict[str, Callable[[Side], Any]] = {
    "start": lambda side: side.start(negative, [0, 1, 2, 3, 4]) == [0, -1, -2, -3, -4],
    "map": lambda side: side.map(negative, range(5)) == [0, -1, -2, -3, -4],
    "stream": lambda side: first_two(side) == [0, -1, -2, -3, -4],
    "call": lambda side: side.call(negative, 7) == -7,
    "shared": lambda side: side.shared(plus, 10, [1, 2, 3]) == [11, 12, 13],
    "reduce": lambda side: side.reduce(add, negative, range(10)) == -45,
    "merge": lambda side: side.merge(letters, ["ab", "bc"]) == {"a": 1, "b": 2, "c": 1},
    "coroutines": lambda side: side.coroutines(later, range(5)) == [0, -1, -2, -3, -4],
    "loops": lambda side: side.coroutines(later, range(5)) == [0, -1, -2, -3, -4],
    "threads": lambda side: side.map(negative, range(5)) == [0, -1, -2, -3, -4],
}


def call_cases(plan: Plan) -> list[Case]:
    def measure(side: Side, needs: str) -> Measured:
        return Measured([1.0], expect(True, CALLS[needs](side)))

    def case(needs: str) -> Case:
        return Case(
            name=needs, measure=lambda side, round_number: measure(side, needs), needs=needs, rounds=1
        )

    return list(map(case, CALLS))


EVERY_CALL = Work(number=97, name="every call", title="Calls", text="Nothing.", cases=call_cases)
