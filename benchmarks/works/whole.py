"""Works 7 and 8: reductions, and streams that do not fit into memory."""

from __future__ import annotations

import operator
import sysconfig
from collections import Counter
from collections.abc import Iterator
from functools import cache, partial
from itertools import count, islice
from pathlib import Path
from time import perf_counter
from typing import Any

from ..measuring import WrongResult
from ..peers.base import Side
from ..peers.ours import Floor
from ..work import square, sum_of_squares
from .base import Case, Measured, Plan, Work, expect, slices, timed

# ---------------------------------------------------------------- 7: reduce


def sum_case(length: int, smaller: int) -> Case:
    numbers = range(length)
    expected = (length - 1) * length * (2 * length - 1) // 6

    def measure(side: Side, round_number: int) -> Measured:
        return timed(lambda _: side.reduce(operator.add, square, numbers), partial(expect, expected))

    def floor(side: Floor, round_number: int) -> Measured:
        parts = slices(numbers, side.workers)
        took, answers = side.together([partial(sum_of_squares, part) for part in parts])
        expect(expected, sum(answers))
        return Measured([took])

    return Case(
        name=sum_name(length),
        measure=measure,
        needs="reduce",
        floor=floor,
        floor_name="plain processes",
        grows_from=sum_name(smaller) if smaller else "",
        times=length / smaller if smaller else 1.0,
        panel=sum_name(length),
    )


def sum_name(length: int) -> str:
    return f"sum of {length:,} squares"


def count_words(path: str) -> dict[str, int]:
    return Counter(Path(path).read_text(encoding="utf-8", errors="replace").split())


LIST = "sources.txt"


def find_sources(plan: Plan) -> None:
    """The modules of the standard library, but not what is installed beside them; each is read once."""
    folder = Path(sysconfig.get_path("stdlib"))
    found = sorted(path for path in folder.rglob("*.py") if "site-packages" not in path.parts)
    wanted = found[: files_of(plan)]
    for path in wanted:
        path.read_bytes()  # so that they are in memory for all sides
    Path(plan.folder, LIST).write_text("\n".join(map(str, wanted)))


def files_of(plan: Plan) -> int:
    return int(plan.choose(60, 400, 10_000))


@cache
def sources(folder: str) -> list[str]:
    return Path(folder, LIST).read_text().split("\n")


def proof_of_counts(counts: dict[str, int]) -> str:
    return f"{len(counts)}:{sum(counts.values())}:{hash(frozenset(counts.items())):x}"


def words_case(plan: Plan) -> Case:
    def measure(side: Side, round_number: int) -> Measured:
        paths = sources(plan.folder)
        return timed(lambda _: side.merge(count_words, paths), proof_of_counts)

    name = "word count over the standard library"
    name += plan.choose(f": {files_of(plan)} files", f": {files_of(plan)} files", "")
    return Case(name=name, measure=measure, needs="merge", item_seconds=1.0, panel=name)


def reduce_cases(plan: Plan) -> list[Case]:
    lengths = plan.choose([20_000], [100_000, 10_000_000], [100_000, 1_000_000, 10_000_000])
    sums = [sum_case(length, smaller) for smaller, length in zip([0, *lengths], lengths, strict=False)]
    return [*sums, words_case(plan)]


# ---------------------------------------------------------------- 8: streams


def first_result(side: Side, round_number: int, length: int) -> Measured:
    numbers = (number for number in range(length))
    began = perf_counter()
    results = iter(side.stream(square, numbers))
    first = next(results)
    took = perf_counter() - began
    expect(sum(map(square, range(length))), first + sum(results))
    return Measured([took])


def whole_stream(side: Side, round_number: int, length: int) -> Measured:
    """The parent measures the memory meanwhile."""
    numbers = (number for number in range(length))
    began = perf_counter()
    total = sum(side.stream(square, numbers))
    took = perf_counter() - began
    expect((length - 1) * length * (2 * length - 1) // 6, total)
    return Measured([took])


ENDLESS = 1000


def endless(side: Side, round_number: int) -> Measured:
    began = perf_counter()
    results: Iterator[Any] = iter(side.stream(square, count()))
    found = list(islice(results, ENDLESS))
    took = perf_counter() - began
    if found != [square(number) for number in range(ENDLESS)]:
        raise WrongResult("endless")
    return Measured([took])


def stream_cases(plan: Plan) -> list[Case]:
    length, many = plan.choose(2000, 10_000, 20_000), plan.choose(20_000, 200_000, 1_000_000)
    cases = [
        Case(
            name=f"first result of a generator of {length:,}",
            measure=partial(first_result, length=length),
            needs="stream",
            panel="first result",
        ),
        Case(
            name=f"first {ENDLESS:,} results of an endless input",
            measure=endless,
            needs="stream",
            apart=True,
            rounds=plan.choose(1, 2, 2),
            limit=plan.choose(1.0, 3.0, 10.0),
            panel="endless input",
            leaves_out={"serial loop": ""},
        ),
        Case(
            name=f"growth of memory over a generator of {many:,}",
            measure=partial(whole_stream, length=many),
            needs="stream",
            unit="byte",
            apart=True,  # memory that was used before would be used again
            watch=True,
            rounds=2,
            limit=plan.choose(4.0, 20.0, 120.0),
            panel="growth of memory",
            leaves_out={"serial loop": ""},
        ),
    ]
    return cases[: plan.choose(2, 3, 3)]  # memory needs children of its own, which take long to start


WORKS = [
    Work(
        number=7,
        name="reduce",
        title="Reduce",
        text="Peers have no reduction: with their defaults, all results come to the caller, who adds them; "
        "in the tuned form, the caller cuts the input into four pieces for each worker, and adds the sums "
        "of the pieces. parallelkit is given the function, the operation and the input.",
        cases=reduce_cases,
        prepare=find_sources,
    ),
    Work(
        number=8,
        name="streams",
        title="Streams",
        text="`square` over a generator, results read one by one. Growth is that of all processes together "
        "over what they had before, measured from outside.",
        cases=stream_cases,
        rounds=3,
    ),
]
