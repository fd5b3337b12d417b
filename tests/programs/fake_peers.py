"""Peers and a work for `tests/test_benchmarks.py`: one that is right, and others that are not."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterable
from typing import Any

from benchmarks.peers.base import Side
from benchmarks.works.base import Case, Measured, Plan, Work, mapped, proof_of


class Good(Side):
    family = "good"
    offers = frozenset({"fake"})

    def open(self) -> None:
        print("what a peer prints is no answer")

    def close(self) -> None:
        pass

    def map(self, function: Callable[[Any], Any], items: Iterable[Any]) -> list[Any]:
        return list(map(function, items))


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
