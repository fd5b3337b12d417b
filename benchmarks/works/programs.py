"""Work 11: pieces of real programs. Each is a function, its items, and how its results are compared."""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

from ..peers.base import Side
from .base import QUICK, Case, Measured, Plan, Work, proof_of, timed

FILES = 64


def mandelbrot_row(width: int, row: int) -> bytes:
    """How many steps each point of a row stays near: rows in the middle take long, the others do not."""
    steps = bytearray(width)
    for column in range(width):
        c = complex(3.0 * column / width - 2.0, 2.0 * row / width - 1.0)
        z = 0j
        for step in range(60):
            z = z * z + c
            if abs(z) > 2.0:
                steps[column] = step
                break
    return bytes(steps)


def inside_circle(points: int, seed: int) -> int:
    dice = random.Random(seed)
    return sum(dice.random() ** 2 + dice.random() ** 2 < 1.0 for _ in range(points))


def zip_file(path: str) -> int:
    """The size of a file when it is compressed."""
    return len(gzip.compress(Path(path).read_bytes(), 6, mtime=0))


def parse_file(path: str) -> int:
    """The sum of one field of all records of a file."""
    return sum(record["value"] for record in json.loads(Path(path).read_text()))


def blurred(frame: Any) -> Any:
    """Each pixel the mean of its neighbours, in both directions."""
    import numpy as np

    total = np.zeros(frame.shape, np.uint16)
    for down in range(-2, 3):
        total += np.roll(frame, down, 0)
    across = np.zeros(frame.shape, np.uint16)
    for right in range(-2, 3):
        across += np.roll(total, right, 1)
    return (across // 25).astype(np.uint8)


def is_prime(number: int) -> bool:
    if number % 2 == 0:
        return number == 2
    return all(number % divisor for divisor in range(3, int(number**0.5) + 1, 2))


def score(given: tuple[Any, Any], fold: tuple[Any, Any]) -> float:
    """Fit on one part of the samples, score on the other."""
    from sklearn.tree import DecisionTreeClassifier

    (samples, classes), (fitted, tested) = given, fold
    model = DecisionTreeClassifier(random_state=1).fit(samples[fitted], classes[fitted])
    return float(model.score(samples[tested], classes[tested]))


# ---------------------------------------------------------------- their items


@cache
def files_of(folder: str, kind: str) -> list[str]:
    return sorted(str(path) for path in Path(folder).glob(f"*.{kind}"))


def write_files(plan: Plan) -> None:
    """Of very different lengths, as files are."""
    dice = random.Random(1)
    for number in range(plan.choose(16, FILES, 2 * FILES)):
        count = int(200 * dice.paretovariate(1.2)) % 5000 + 100
        records = [{"value": dice.randrange(1000), "name": f"{dice.random()}"} for _ in range(count)]
        Path(plan.folder, f"{number:03}.json").write_text(json.dumps(records))


@cache
def frames(count: int) -> list[Any]:
    import numpy as np

    return list(np.random.default_rng(1).integers(0, 255, (count, 720, 1280), np.uint8))


@cache
def samples(count: int) -> tuple[Any, list[Any]]:
    """Samples with their classes, and twelve folds of them."""
    import numpy as np
    from sklearn.datasets import make_classification
    from sklearn.model_selection import KFold

    given = make_classification(count, 20, n_informative=10, random_state=1)
    return given, list(KFold(12).split(np.zeros((count, 1))))


def proof_of_frames(results: list[Any]) -> str:
    return proof_of([int(frame.sum(dtype="int64")) for frame in results])


# ---------------------------------------------------------------- the cases


def program(
    name: str,
    function: Callable[[Any], Any],
    items: Callable[[], Any],
    check: Callable[[Any], str] = proof_of,
    **more: Any,
) -> Case:
    def measure(side: Side, round_number: int) -> Measured:
        return timed(lambda given: side.map(function, given), check, items, warm_up=round_number == 0)

    return Case(name=name, measure=measure, panel=name, **more)


def cross_validation(count: int, ideal: float) -> Case:
    def measure(side: Side, round_number: int) -> Measured:
        given, folds = samples(count)
        return timed(lambda _: side.map(partial(score, given), folds), warm_up=round_number == 0)

    name = "cross-validation with scikit-learn, 12 folds"
    return Case(name=name, measure=measure, panel=name, ideal=ideal, item_seconds=0.05)


def program_cases(plan: Plan) -> list[Case]:
    ideal = 1 / plan.workers
    width = plan.choose(100, 240, 400)
    points, folder = plan.choose(3000, 20_000, 40_000), plan.folder
    most = plan.choose(20_000, 80_000, 200_000)
    files, pictures = plan.choose(16, FILES, 2 * FILES), plan.choose(8, 32, 64)
    cases = [
        program(
            f"Mandelbrot set, {width} rows", partial(mandelbrot_row, width), lambda: range(width),
            ideal=ideal, item_seconds=0.003,
        ),
        program(
            f"parse {files} JSON files", parse_file, lambda: files_of(folder, "json"),
            ideal=ideal, item_seconds=0.001,
        ),
        program(
            f"pi by Monte Carlo, 100 times {points:,} points", partial(inside_circle, points),
            lambda: range(100), ideal=ideal, item_seconds=2e-7 * points,
        ),
        program(
            f"gzip {files} files", zip_file, lambda: files_of(folder, "json"),
            ideal=ideal, item_seconds=0.005,
        ),
        program(
            f"primes below {most:,}", is_prime, lambda: range(2, most), ideal=ideal, item_seconds=5e-6,
        ),
        program(
            f"blur {pictures} frames of 1280 by 720", blurred,
            lambda: frames(pictures), proof_of_frames, ideal=ideal, item_seconds=0.02,
        ),
        cross_validation(plan.choose(500, 1500, 3000), ideal),
    ]  # fmt: skip
    return cases if plan.level > QUICK else cases[:2]


WORKS = [
    Work(
        number=11,
        name="programs",
        title="Real programs",
        text="A map over rows, seeds, files, numbers, frames or folds. The ideal is the serial loop's time "
        "divided by the number of workers.",
        cases=program_cases,
        prepare=write_files,
        plot="skew",
    )
]
