"""The rounds: every side of a case once, A B C A B C, until each has enough, and none can stop the others."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from statistics import median
from time import monotonic

from .children import MARK, Child, Trouble, end_all_marked
from .peers.base import Side, missing
from .peers.table import side_named
from .works.base import Case, Plan, Work

HOPELESS = 3.0
"""After two rounds, a side that takes so many times as long as the best has no more rounds."""

HOPELESS_AT_ONCE = 10.0
"""So has one that takes so many times as long after its first."""

FINALISTS = 3
"""So many of the best peers have more rounds, with parallelkit and with what all are compared with. These
alone count: after a few rounds, the best of twenty is above all the luckiest."""

CLUSTERS = ("dask", "ray")

QUICK_LEAVES_OUT = {
    "Pool.map, forkserver", "Pool.map, chunksize", "Pool.imap_unordered", "pebble, chunksize", "mpire",
    "joblib, batch_size", "loky", "dask, in pieces", "Ray, in pieces", "aiomultiprocess, childconcurrency",
}  # fmt: skip
"""Second forms, where one form of each peer has to do."""


@dataclass(frozen=True)
class Limits:
    """How much time there is.

    Attributes:
        rounds: of each case, at most, for all sides.
        final_rounds: after these, for the best.
        round_seconds: after which a side is too slow.
        start_seconds: for a side to be ready.
        case_seconds: that a side may spend on one case; it has one round at least.
        end_seconds: for all children together to leave in good order.
    """

    rounds: int
    final_rounds: int
    round_seconds: float
    start_seconds: float
    case_seconds: float
    end_seconds: float


LIMITS = (
    Limits(1, 2, 1.5, 30.0, 0.5, 2.0),
    Limits(2, 8, 5.0, 60.0, 2.5, 8.0),
    Limits(4, 20, 60.0, 90.0, 60.0, 8.0),
)
"""By level: quick, default, full."""


@dataclass
class Outcome:
    """What came of a side in a case.

    Attributes:
        rounds: the values of each, of the final ones if it was in these.
        trouble: why there are none.
        in_finals: whether it was one of the best.
    """

    rounds: list[list[float]] = field(default_factory=list)
    trouble: str = ""
    in_finals: bool = False

    @property
    def values(self) -> list[float]:
        return [value for values in self.rounds for value in values]


Outcomes = dict[tuple[str, str], Outcome]
"""By case and side."""


class WorkRun:
    """One work on many sides.

    Args:
        sides: names; those that offer nothing that a case needs take no part.
        told: is called with a line on what goes on.
    """

    def __init__(
        self,
        work: Work,
        sides: Iterable[str],
        plan: Plan,
        limits: Limits,
        environment: dict[str, str],
        told: Callable[[str], None] = print,
    ):
        self.work = work
        self.cases = work.cases(plan)
        self.plan = plan
        self.limits = limits
        self.environment = environment
        self.told = told
        self.outcomes: Outcomes = {}
        self._children: dict[str, Child] = {}
        self._proofs: dict[str, tuple[str, str]] = {}
        self._kinds = {name: side_named(name) for name in sides}

    def run(self) -> Outcomes:
        self._find_sides()
        self.work.prepare(self.plan)
        try:
            self._start({side for _, side in self.outcomes})
            for case in self.cases:
                self._run_case(case)
        finally:
            self._end_all()
        return self.outcomes

    # Who takes part

    def _find_sides(self) -> None:
        for case in self.cases:
            for name, kind in self._kinds.items():
                if takes_part(kind, case) and case.leaves_out.get(name) != "":
                    trouble = f"not installed: {module}" if (module := missing(kind)) else ""
                    trouble = trouble or case.leaves_out.get(name, "")
                    self.outcomes[case.name, name] = Outcome(trouble=trouble)

    def _sides_of(self, case: Case) -> list[str]:
        return [side for name, side in self.outcomes if name == case.name and not self._out(case, side)]

    def _out(self, case: Case, side: str) -> bool:
        return bool(self.outcomes[case.name, side].trouble)

    # Children

    def _start(self, sides: set[str]) -> None:
        """All at once; what does not start fails in all cases."""
        wanted = {
            name
            for name in sides
            if any(not outcome.trouble for (_, side), outcome in self.outcomes.items() if side == name)
        }
        new = {name: self._new_child(name) for name in self._kinds if name in wanted}
        for name, child in new.items():
            try:
                child.wait_until_ready(self.limits.start_seconds)
                self._children[name] = child
            except Trouble as trouble:
                child.end()
                for (_, side), outcome in self.outcomes.items():
                    if side == name and not outcome.rounds:
                        outcome.trouble = outcome.trouble or f"does not start: {trouble}"

    def _new_child(self, side: str) -> Child:
        return Child(
            side, self.work.spelled or self.work.name, self.plan, self.environment, self._kinds[side].restless
        )

    def _end_child(self, side: str) -> None:
        child = self._children.pop(side, None)
        if child is not None:
            child.end()

    def _end_all(self) -> None:
        """In good order, if they can; what they have left behind is killed."""
        until = monotonic() + self.limits.end_seconds
        for child in self._children.values():
            child.begin_to_end()
        for child in self._children.values():
            child.end(max(0.0, until - monotonic()))
        end_all_marked(self.environment[MARK])

    # Rounds

    def _run_case(self, case: Case) -> None:
        for side in self._sides_of(case):
            self.outcomes[case.name, side].trouble = self._foreseen(case, side)
        rounds = min(filter(None, (case.rounds, self.work.rounds, self.limits.rounds)))
        for round_number in range(rounds):
            for side in self._sides_of(case):
                if self._goes_on(case, side):
                    self._run_round(case, side, round_number)
        if self.limits.final_rounds and not (case.rounds or case.apart):
            self._run_finals(case, rounds)
        self.told(self._line(case))

    def _run_finals(self, case: Case, before: int) -> None:
        """More rounds for those who matter; what they did before only said who they are."""
        finalists = self._finalists(case)
        for side in finalists:
            self.outcomes[case.name, side].in_finals = True
            self.outcomes[case.name, side].rounds = []
        for round_number in range(before, before + self.limits.final_rounds):
            for side in finalists:
                outcome = self.outcomes[case.name, side]
                if not outcome.trouble and sum(outcome.values) <= self.limits.case_seconds:
                    self._run_round(case, side, round_number)

    def _finalists(self, case: Case) -> list[str]:
        done = [side for side in self._sides_of(case) if self.outcomes[case.name, side].rounds]
        peers = [side for side in done if not (self._kinds[side].ours or self._kinds[side].reference)]
        took = {side: median(self.outcomes[case.name, side].values) for side in peers}
        near = [side for side in peers if took[side] <= HOPELESS * min(took.values())]
        best = sorted(near, key=took.__getitem__)[:FINALISTS]
        return [side for side in done if side in best or side not in peers]

    def _foreseen(self, case: Case, side: str) -> str:
        """Trouble that a smaller case has shown."""
        smaller = self.outcomes.get((case.grows_from, side))
        if smaller is None:
            return ""
        if not smaller.values:
            return smaller.trouble
        expected = case.steady + max(0.0, median(smaller.values) - case.steady) * case.times
        return f"too slow (about {expected:.0f} s)" if expected > self._limit(case) else ""

    def _limit(self, case: Case) -> float:
        return case.limit or self.limits.round_seconds

    def _goes_on(self, case: Case, side: str) -> bool:
        """Whether another round of this side can change anything."""
        outcome = self.outcomes[case.name, side]
        if not outcome.rounds:
            return True
        if sum(outcome.values) > self.limits.case_seconds:
            return False
        if self._kinds[side].ours or self._kinds[side].reference:
            return True
        times = HOPELESS_AT_ONCE if len(outcome.rounds) < 2 else HOPELESS
        return median(outcome.values) < times * self._best(case)

    def _best(self, case: Case) -> float:
        """The best of those that have finished a round, references aside."""
        return min(
            median(self.outcomes[case.name, side].values)
            for side in self._sides_of(case)
            if not self._kinds[side].reference and self.outcomes[case.name, side].values
        )

    def _run_round(self, case: Case, side: str, round_number: int) -> None:
        outcome = self.outcomes[case.name, side]
        if case.apart and side in self._children and not self._children[side].fresh:
            self._end_child(side)
        if side not in self._children:
            self._start({side})
        if outcome.trouble or side not in self._children:
            outcome.trouble = outcome.trouble or "does not start again"
            return
        try:
            answer = self._children[side].ask(case, round_number, self._limit(case))
            self._compare(case, side, answer["proof"])
            outcome.rounds.append(answer["values"])
        except Trouble as trouble:
            outcome.trouble = str(trouble)
            outcome.rounds.clear()
        if outcome.trouble or case.apart:
            self._end_child(side)

    def _compare(self, case: Case, side: str, proof: str) -> None:
        """With the first side that answered, which is the serial loop where there is one."""
        if proof:
            first, right = self._proofs.setdefault(case.name, (side, proof))
            if proof != right:
                raise Trouble(f"wrong result: not that of {first}")

    def _line(self, case: Case) -> str:
        found = {
            side: median(outcome.values)
            for (name, side), outcome in self.outcomes.items()
            if name == case.name and outcome.values and not self._kinds[side].reference
        }
        best = sorted(found, key=found.__getitem__)[:3]
        shown = " · ".join(f"{side} {found[side]:.4g}" for side in best)
        return f"{self.work.number}. {case.name}: {shown or 'nobody'}"


def takes_part(kind: type[Side], case: Case) -> bool:
    if "floor" in kind.offers:
        return case.floor is not None
    return case.needs in kind.offers


def chosen_sides(names: Iterable[str], plan: Plan, work: Work) -> list[str]:
    """Those of a level, the serial loop first, since its results are the right ones."""
    found = []
    for name in names:
        kind = side_named(name)
        quick_out = name in QUICK_LEAVES_OUT or (kind.family in CLUSTERS and not work.quick_clusters)
        if plan.level or not quick_out:
            found.append(name)
    return sorted(found, key=lambda name: (not side_named(name).reference, not side_named(name).ours))
