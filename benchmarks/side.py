"""One side in one work, in a process of its own: python -m benchmarks.side SIDE WORK PLAN

Opens the side, then reads lines from stdin, each a JSON list of the name of a case and the number of a round,
and answers each with one line of JSON: the values that were measured and a proof of the result, or the error.
The first line that it writes says that it is ready, and how long that took. It ends with its input.

The parent keeps the time: nothing here waits for a peer with a limit, so a peer that hangs hangs this process
and no other.
"""

from __future__ import annotations

import json
import os
import sys
from contextlib import AbstractContextManager, nullcontext
from time import perf_counter, sleep
from typing import Any, TextIO

from .peers.base import Side
from .peers.ours import Floor
from .work import burn
from .works.base import Case, Measured, Plan, Work

SETTLE_SECONDS = 0.1
"""After it was stopped for a while, a restless peer first does what it has missed."""


def protocol() -> tuple[TextIO, TextIO]:
    """Where questions come from and answers go to. What peers print goes to stderr, and they read nothing."""
    questions = os.fdopen(os.dup(0), "r")
    answers = os.fdopen(os.dup(1), "w")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    return questions, answers


def warm_up(side: Side) -> None:
    """Workers are there, and know where functions come from."""
    if "map" in side.offers and not side.reference:
        for _ in range(2):
            side.map(burn, [1] * (2 * side.workers))


def measured(side: Side, case: Case, round_number: int) -> Measured:
    side.item_seconds = case.item_seconds
    if side.restless:
        sleep(SETTLE_SECONDS)
    if isinstance(side, Floor):
        assert case.floor is not None, "the parent asks for floors that there are"
        return case.floor(side, round_number)
    return case.measure(side, round_number)


def message(error: BaseException) -> str:
    text = str(error).strip().partition("\n")[0]
    return f"{type(error).__name__}: {text}"[:150]


def serve(side: Side, cases: dict[str, Case], questions: TextIO, answers: TextIO) -> None:
    for line in questions:
        name, round_number = json.loads(line)
        answer: dict[str, Any]
        try:
            found = measured(side, cases[name], round_number)
            answer = {"values": found.values, "proof": found.proof}
        except Exception as error:
            answer = {"error": message(error)}
        print(json.dumps(answer), file=answers, flush=True)


def workers_of(side: type[Side], work: Work, plan: Plan) -> int:
    """Threads and loops have the number of the work, processes that of the plan."""
    return work.workers if work.workers and not side.processes else plan.workers


def main() -> None:
    questions, answers = protocol()
    from .peers.table import side_named
    from .works.table import work_named

    side_name, work_name, plan_text = sys.argv[1:]
    plan, kind, work = Plan(**json.loads(plan_text)), side_named(side_name), work_named(work_name)
    side = kind(workers_of(kind, work, plan))
    began = perf_counter()
    try:
        opened: AbstractContextManager[Any] = side if work.opens else nullcontext()
        with opened:
            if work.opens:
                warm_up(side)
            print(json.dumps({"ready": perf_counter() - began}), file=answers, flush=True)
            serve(side, {case.name: case for case in work.cases(plan)}, questions, answers)
    except Exception as error:
        print(json.dumps({"error": message(error)}), file=answers, flush=True)
        raise


if __name__ == "__main__":
    main()
