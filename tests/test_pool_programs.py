"""Programs and libraries that know only multiprocessing's pools get from ours what they get from theirs."""

from __future__ import annotations

import io
import multiprocessing
import multiprocessing.pool
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import parallelkit
from programs.watching import METHODS, run

pytestmark = pytest.mark.timeout(120)

# ---------------------------------------------------------------- libraries that are handed a pool

CONTEXT = multiprocessing.get_context("spawn")  # fork warns where there are threads, as in a test run


@pytest.fixture(scope="module")
def theirs() -> Iterator[Any]:
    with CONTEXT.Pool(2) as pool:
        yield pool


@pytest.fixture(scope="module", params=["processes", "threads"])
def ours(request: pytest.FixtureRequest) -> Iterator[Any]:
    if request.param == "processes":
        pool = parallelkit.Pool(2, context=CONTEXT)
    else:
        pool = parallelkit.ThreadPool(2)
    with pool:
        yield pool


@pytest.fixture
def pools_made(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """From now on, who asks multiprocessing for a pool gets one of ours; here is which ones were made."""
    made: list[str] = []

    class Counted(parallelkit.Pool):
        def __init__(self, *args: Any, **options: Any):
            super().__init__(*args, **options)
            made.append(self._ctx.get_start_method())

    monkeypatch.setattr(multiprocessing.pool, "Pool", Counted)
    return made


def rosenbrock(x: Any) -> float:
    return float(np.sum(100.0 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2))


def wave(x: float) -> Any:
    return np.array([np.sin(x), np.cos(10 * x)])


def evolve(workers: Any) -> tuple[Any, ...]:
    optimize = pytest.importorskip("scipy.optimize")
    result = optimize.differential_evolution(
        rosenbrock,
        [(-2, 2)] * 3,
        workers=workers,
        updating="deferred",
        seed=np.random.RandomState(20),
        maxiter=8,
        polish=False,
    )
    return result.x.tolist(), result.fun, result.nfev


def test_differential_evolution(theirs: Any, ours: Any) -> None:
    expected = evolve(theirs.map)
    assert expected[2] > 100
    assert evolve(ours.map) == expected


def test_differential_evolution_with_a_pool_of_its_own(theirs: Any, pools_made: list[str]) -> None:
    expected = evolve(theirs.map)
    before = multiprocessing.get_start_method(allow_none=True)
    multiprocessing.set_start_method("spawn", force=True)
    try:
        assert evolve(2) == expected
    finally:
        multiprocessing.set_start_method(before, force=True)
    assert pools_made == ["spawn"]


def test_brute_force_and_quadrature(theirs: Any, ours: Any) -> None:
    optimize = pytest.importorskip("scipy.optimize")
    integrate = pytest.importorskip("scipy.integrate")

    def answers(pool: Any) -> list[Any]:
        ranges = [slice(-2, 2, 0.5)] * 2
        least = optimize.brute(rosenbrock, ranges, workers=pool.map, full_output=True, finish=None)
        area, error = integrate.quad_vec(wave, 0, 3, workers=pool.map)
        return [np.asarray(part).tolist() for part in (*least, area, error)]

    assert answers(ours) == answers(theirs)


def log_probability(x: Any, widths: Any) -> tuple[float, float]:
    return float(-0.5 * np.sum((x / widths) ** 2)), float(x[0])  # the second one is a blob


def test_emcee(theirs: Any, ours: Any) -> None:
    emcee = pytest.importorskip("emcee")

    def sampled(pool: Any) -> tuple[Any, ...]:
        walkers, widths = 8, np.array([1.0, 2.0, 0.5])
        random = np.random.RandomState(1)
        start = emcee.State(random.standard_normal((walkers, 3)), random_state=random.get_state())
        sampler = emcee.EnsembleSampler(walkers, 3, log_probability, args=[widths], pool=pool)
        sampler.run_mcmc(start, 25)
        return sampler.get_chain(), sampler.get_log_prob(), sampler.get_blobs()

    expected = sampled(theirs)
    assert expected[0].shape == (25, 8, 3)
    for mine, other in zip(sampled(ours), expected, strict=True):
        assert np.array_equal(mine, other)


def test_tqdm(theirs: Any, ours: Any) -> None:
    tqdm = pytest.importorskip("tqdm").tqdm

    def results(pool: Any, bar: Any) -> list[int]:
        return sorted(bar(pool.imap_unordered(abs, range(-500, 500)), total=1000, file=io.StringIO()))

    class Bar(tqdm):
        def close(self) -> None:
            ended.append(self.n)
            super().close()

    ended: list[int] = []
    assert results(ours, Bar) == results(theirs, tqdm)
    assert ended[0] == 1000


def affine(x: int, factor: int, offset: int = 0) -> int:
    return x * factor + offset


def test_parmap(theirs: Any, ours: Any, pools_made: list[str]) -> None:
    """It looks at how many workers a pool has, and at how much of a map is left."""
    parmap = pytest.importorskip("parmap")

    def results(pool: Any) -> list[Any]:
        return [
            parmap.map(affine, range(100), 3, offset=1, pm_pool=pool, pm_pbar={"file": io.StringIO()}),
            parmap.map(affine, range(100), 3, pm_pool=pool, pm_chunksize=7),
            parmap.starmap(affine, [(1, 2), (3, 4)], offset=1, pm_pool=pool),
            parmap.map_async(affine, range(100), 3, pm_pool=pool).get(),
        ]

    assert results(ours) == results(theirs)
    assert not pools_made


# ---------------------------------------------------------------- programs that make their own

NAMES = ["multiprocessing.Pool", "multiprocessing.pool.Pool"]
"""Where programs look for it; contexts look for the second one."""

SLOW_TO_SPAWN = [
    pytest.param(method, marks=pytest.mark.slow) if method == "spawn" else method for method in METHODS
]

SET_METHOD = "multiprocessing.set_start_method(sys.argv[1])"

RUNNER = """
import runpy, sys
import multiprocessing, multiprocessing.pool
import parallelkit

made = []
for kind in parallelkit.Pool, parallelkit.ThreadPool:
    def start(self, *args, start=kind.__init__, **options):
        start(self, *args, **options)
        made.append(type(self).__name__)
    kind.__init__ = start
%s
runpy.run_path(sys.argv.pop(1), run_name="__main__")
print(*made, file=sys.stderr)
"""

OUR_POOL = "%s = parallelkit.Pool"
OUR_THREAD_POOL = "multiprocessing.pool.ThreadPool = parallelkit.ThreadPool"


class Program:
    """A program in a file of its own, run as it is, or with our pools under names of multiprocessing."""

    def __init__(self, folder: Path, text: str):
        self._folder = folder
        self._file = folder / "program.py"
        self._file.write_text(text)

    def run(self, *arguments: str) -> str:
        """What it prints. Their workers complain when a pool is ended while one of them is starting."""
        out, _ = run([self._file, *arguments], cwd=self._folder)
        return out

    def run_with_ours(self, *arguments: str, names: list[str]) -> tuple[str, list[str]]:
        """What it prints, and the pools that were made."""
        runner = self._folder / "runner.py"
        runner.write_text(RUNNER % "\n".join(names))
        out, err = run([runner, self._file, *arguments], cwd=self._folder)
        return out, err.split()


@pytest.fixture
def program(tmp_path: Path) -> Callable[[str], Program]:
    return lambda text: Program(tmp_path, text)


CALLS = """
import multiprocessing
import os
import random
import sys
import time
from collections import namedtuple

Point = namedtuple("Point", "x y")


class Unwilling(Exception):
    def __init__(self, item, reason):
        super().__init__(item, reason)
        self.item = item


class Scale:
    def __init__(self, factor):
        self.factor = factor

    def __call__(self, x):
        return self.factor * x

    def shift(self, x):
        return self.factor + x


def square(x):
    return x * x


def power(base, exponent=2):
    return base**exponent


def flip(point):
    return Point(point.y, point.x)


def slowly(x):
    time.sleep(random.random() / 100)
    return x


def picky(x):
    if x % 5 == 3:
        raise Unwilling(x, "no threes")
    return x


def sleep(seconds):
    time.sleep(seconds)
    return os.getpid()


def lines():
    for number in range(20):
        yield f"line {number}"


def broken_lines():
    yield "line 0"
    raise OSError("no more lines")


def maps():
    pool = multiprocessing.Pool(2)
    print(pool.map(square, range(100)))
    print(pool.map(square, range(10), chunksize=3), pool.map(square, iter(range(10)), 1))
    print(pool.map(len, {"one": 1, "three": 3}), pool.map(str.upper, "text"), pool.map(square, []))
    print(pool.map(Scale(3), range(5)), pool.map(Scale(3).shift, range(5)), pool.map(Scale, [1])[0].factor)
    print(pool.starmap(power, [(2, 3), (3,), [4, 1]]), pool.starmap(power, zip(range(5), range(5)), 2))
    print(pool.map(flip, [Point(1, 2)]), pool.map(flip, [Point("x", None)])[0].x)
    print(pool.apply(power, (2,), {"exponent": 5}), pool.apply(power, [7]))
    print(list(pool.imap(slowly, range(30))), list(pool.imap(len, lines(), chunksize=4)))
    print(sorted(pool.imap_unordered(slowly, range(30))), sorted(pool.imap_unordered(square, range(9), 2)))
    pool.close()
    pool.join()
    for call in (lambda: pool.map(square, [1]), lambda: pool.apply_async(square, (1,)), pool.__enter__):
        try:
            call()
        except ValueError as error:
            print(error)


def results_to_come():
    came, failed = [], []
    with multiprocessing.Pool(processes=2) as pool:
        results = [pool.apply_async(picky, (x,), {}, came.append, failed.append) for x in range(9)]
        for result in results:
            result.wait()
        print(sorted(came), sorted(error.item for error in failed))
        print([result.ready() and result.successful() for result in results])
        squares = pool.map_async(square, range(10), callback=came.append)
        powers = pool.starmap_async(power, [(2, 2), (3, 3)], callback=came.append)
        print(squares.get(timeout=20) in came, powers.get(20) in came, len(came))
        late = pool.apply_async(sleep, (0.3,))
        try:
            late.get(timeout=0.01)
        except multiprocessing.TimeoutError:
            print("late", late.ready())
        print(late.get() != os.getpid(), late.successful())


def errors():
    with multiprocessing.Pool(2) as pool:
        for call in (
            lambda: pool.map(picky, range(6)),
            lambda: pool.apply(picky, (3,)),
            lambda: pool.starmap_async(picky, [(1,), (3,)]).get(),
            lambda: pool.apply(power),
            lambda: pool.map(square, broken_lines()),
        ):
            try:
                print(call())
            except Exception as error:
                print(type(error), error, type(error.__cause__).__name__)
        for results in pool.imap(picky, range(10)), pool.imap(len, broken_lines()):
            while True:
                try:
                    print(next(results))
                except StopIteration:
                    break
                except Exception as error:
                    print(type(error), error)


def remember(counter, lock):
    global shared
    shared = counter, lock


def count(step):
    counter, lock = shared
    with lock:
        counter.value += step
    return os.getpid()


def shared_state():
    counter = multiprocessing.Value("i", 0, lock=False)
    with multiprocessing.Pool(2, initializer=remember, initargs=(counter, multiprocessing.Lock())) as pool:
        workers = pool.map(count, range(100))
        print(counter.value, os.getpid() in workers, len(set(workers)) <= 2)
        children = multiprocessing.active_children()
        print(sorted(child.name for child in children) == sorted(worker.name for worker in pool._pool))


def short_lives():
    with multiprocessing.Pool(2, maxtasksperchild=1) as pool:
        print(len(set(pool.map(sleep, [0] * 6, chunksize=1))))
        print(len({pool.apply(sleep, (0,)) for _ in range(4)}))


if __name__ == "__main__":
    multiprocessing.set_start_method(sys.argv[1])
    maps()
    results_to_come()
    errors()
    shared_state()
    short_lives()
"""


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("method", SLOW_TO_SPAWN)
def test_a_program_that_knows_nothing(program: Callable[[str], Program], method: str, name: str) -> None:
    calls = program(CALLS)
    out, made = calls.run_with_ours(method, names=[OUR_POOL % name])
    assert made == ["Pool"] * 5
    assert out == calls.run(method)


@pytest.mark.parametrize("method", SLOW_TO_SPAWN)
def test_a_program_with_a_context(program: Callable[[str], Program], method: str) -> None:
    calls = program(
        "import multiprocessing, sys\n"
        "context = multiprocessing.get_context(sys.argv[1])\n"
        + re.sub(r"multiprocessing\.(Pool|Value|Lock)\(", r"context.\1(", CALLS).replace(SET_METHOD, "pass")
    )
    out, made = calls.run_with_ours(method, names=[OUR_POOL % "multiprocessing.pool.Pool"])
    assert made == ["Pool"] * 5
    assert out == calls.run(method)


@pytest.mark.parametrize("name", NAMES)
def test_a_program_that_imports_the_name(program: Callable[[str], Program], name: str) -> None:
    imports = f"from {name.rpartition('.')[0]} import Pool\n"
    calls = program(imports + CALLS.replace("multiprocessing.Pool(", "Pool(").replace(SET_METHOD, "pass"))
    out, made = calls.run_with_ours(names=[OUR_POOL % name])
    assert made == ["Pool"] * 5
    assert out == calls.run()


DROPPED = """
import multiprocessing
import sys


def square(x):
    return x * x


if __name__ == "__main__":
    multiprocessing.set_start_method(sys.argv[1])
    print(multiprocessing.Pool(2).map(square, range(5)))
    print(list(multiprocessing.Pool(2).imap(square, range(5))))
    print(multiprocessing.Pool(2).apply_async(square, (5,)).get())
    pool = multiprocessing.Pool(2)
    print(pool.starmap(pow, [(2, 3), (3, 2)]))
"""


@pytest.mark.parametrize("method", METHODS)
def test_a_program_that_ends_no_pool(program: Callable[[str], Program], method: str) -> None:
    """With theirs it hangs when it ends, one time in two hundred, so it is not run with theirs."""
    out, made = program(DROPPED).run_with_ours(method, names=[OUR_POOL % "multiprocessing.pool.Pool"])
    assert made == ["Pool"] * 4
    assert out == "[0, 1, 4, 9, 16]\n[0, 1, 4, 9, 16]\n25\n[8, 9]\n"


SUBCLASS = """
import multiprocessing
import multiprocessing.pool
import sys

context = multiprocessing.get_context("fork")


class Process(context.Process):
    @property
    def daemon(self):
        return False

    @daemon.setter
    def daemon(self, value):
        pass


class Context(type(context)):
    Process = Process


class NestingPool(multiprocessing.pool.Pool):
    def __init__(self, *args, **options):
        super().__init__(*args, context=Context(), **options)


def square(x):
    return x * x


def squares(x):
    with multiprocessing.pool.ThreadPool(2) as threads, context.Pool(2) as pool:
        return threads.map(lambda y: y + 1, pool.map(square, range(x)))


if __name__ == "__main__":
    with NestingPool(2) as pool:
        print(pool.map(squares, range(4)), isinstance(pool, multiprocessing.pool.Pool))
"""


@pytest.mark.skipif("fork" not in METHODS, reason="there is no fork here")
def test_a_pool_of_a_class_of_the_programs_own(program: Callable[[str], Program]) -> None:
    nesting = program(SUBCLASS)
    out, made = nesting.run_with_ours(names=[OUR_POOL % "multiprocessing.pool.Pool", OUR_THREAD_POOL])
    assert made == ["NestingPool"]
    assert out == nesting.run()


THREADS = """
import threading
from multiprocessing.dummy import Pool
from multiprocessing.pool import ThreadPool

state = threading.local()
notes = []


def remember(value):
    state.value = value


def main():
    same = object()
    with ThreadPool(3, remember, (5,)) as pool:
        print(pool.map(lambda x: x + state.value, range(50)), pool.map(lambda x: x is same, [same]))
        print(list(pool.imap(str.upper, iter('abc'), 2)), sorted(pool.imap_unordered(abs, range(-5, 0))))
        pool.map_async(notes.extend, [[1], [2], [3]], callback=notes.append).wait()
        print(sorted(notes[:-1]), notes[-1])
        try:
            pool.starmap(divmod, [(3, 2), (1, 0)])
        except ZeroDivisionError as error:
            print(error, error.__cause__)
    pool = Pool(2)
    print(pool.apply(lambda *, x: x, kwds={"x": 1}), pool.starmap(pow, [(2, 3)]))
    pool.close()
    pool.join()


main()
"""


def test_a_program_with_threads(program: Callable[[str], Program]) -> None:
    threads = program(THREADS)
    out, made = threads.run_with_ours(names=[OUR_THREAD_POOL])
    assert made == ["ThreadPool"] * 2
    assert out == threads.run()


JOBLIB = """
import multiprocessing
import sys

import numpy as np
from joblib import Parallel, delayed


def total(array, power):
    return float((array**power).sum())


if __name__ == "__main__":
    multiprocessing.set_start_method(sys.argv[1])
    for backend in "multiprocessing", "threading":
        calls = [delayed(total)(np.arange(n), power=2) for n in range(40)]
        print(Parallel(2, backend=backend, max_nbytes=100)(calls))
        try:
            Parallel(2, backend=backend)(delayed(divmod)(1, x) for x in range(3))
        except ZeroDivisionError as error:
            print(error)
"""


@pytest.mark.parametrize("method", SLOW_TO_SPAWN)
def test_joblib(program: Callable[[str], Program], method: str) -> None:
    """It derives its own class from `multiprocessing.pool.Pool`."""
    pytest.importorskip("joblib")
    jobs = program(JOBLIB)
    out, made = jobs.run_with_ours(method, names=[OUR_POOL % "multiprocessing.pool.Pool", OUR_THREAD_POOL])
    assert made == ["MemmappingPool"] * 2 + ["ThreadPool"] * 2
    assert out == jobs.run(method)


DEAP = """
import multiprocessing
import random
import sys

from deap import algorithms, base, creator, tools

creator.create("Fitness", base.Fitness, weights=(1.0,))
creator.create("Individual", list, fitness=creator.Fitness)


def ones(individual):
    return (sum(individual),)


toolbox = base.Toolbox()
toolbox.register("bit", random.randint, 0, 1)
toolbox.register("individual", tools.initRepeat, creator.Individual, toolbox.bit, 20)
toolbox.register("evaluate", ones)
toolbox.register("mate", tools.cxTwoPoint)
toolbox.register("mutate", tools.mutFlipBit, indpb=0.05)
toolbox.register("select", tools.selTournament, tournsize=3)

if __name__ == "__main__":
    random.seed(64)
    with multiprocessing.get_context(sys.argv[1]).Pool(2) as pool:
        toolbox.register("map", pool.map)
        population = [toolbox.individual() for _ in range(30)]
        population, log = algorithms.eaSimple(population, toolbox, 0.5, 0.2, 5, verbose=False)
    print(population, log.select("nevals"))
"""


@pytest.mark.parametrize("method", METHODS)
def test_deap(program: Callable[[str], Program], method: str) -> None:
    """It makes classes in a module of its own while the program runs."""
    pytest.importorskip("deap")
    evolution = program(DEAP)
    out, made = evolution.run_with_ours(method, names=[OUR_POOL % "multiprocessing.pool.Pool"])
    assert made == ["Pool"]
    assert out == evolution.run(method)
