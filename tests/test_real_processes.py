"""The process backend on real processes: faults, limits, and what is left behind."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest

from parallelkit import (
    Executor,
    InitializerFailed,
    RemoteError,
    RemoteTraceback,
    SerializationError,
    TaskTimeout,
    WorkerDied,
)
from programs import faults
from programs.methods import SPAWN_IS_SLOW
from programs.watching import (
    HERE,
    METHODS,
    descendants,
    finish,
    kill_tree,
    run,
    start,
    wait_until_gone,
    wait_until_it_waits,
)

pytestmark = [
    pytest.mark.timeout(30),
    # From 3.12 on; the workers of these tests survive it.
    pytest.mark.filterwarnings("ignore:This process .* is multi-threaded, use of fork:DeprecationWarning"),
]


@pytest.fixture(params=SPAWN_IS_SLOW)
def method(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def executor(method: str) -> Iterator[Executor]:
    """Two workers, which must serve to the end, and leave."""
    with Executor("process", max_workers=2, mp_context=method) as executor:
        yield executor
        assert list(executor.map(faults.same, range(100))) == list(range(100)), "the pool is not usable"


@pytest.fixture
def runs(tmp_path: Path) -> str:
    """A file that counts runs, by `faults.note`."""
    path = tmp_path / "runs"
    path.touch()
    return str(path)


def lines(path: str) -> list[str]:
    return Path(path).read_text().split()


def positions(results: list[Any], kind: type[Exception] = Exception) -> list[int]:
    return [position for position, result in enumerate(results) if isinstance(result, kind)]


# ---------------------------------------------------------------- workers that die


@pytest.mark.parametrize("death", faults.DEATHS)
def test_a_death_costs_one_item(executor: Executor, runs: str, death: str) -> None:
    die, exitcode, name = faults.DEATHS[death]
    function = partial(faults.double_or_die, die, 7, runs)

    results = list(executor.map(function, range(20), chunksize=1, return_exceptions=True))

    error = results[7]
    assert isinstance(error, WorkerDied)
    assert (error.exitcode, list(error.indices)) == (exitcode, [7])
    assert name in str(error)
    assert "item 7" in str(error)
    assert [result for result in results if result is not error] == [2 * i for i in range(20) if i != 7]
    assert Counter(lines(runs)) == Counter(map(str, range(20))), "each ran, none ran twice"


def test_a_death_inside_a_chunk_names_all_it_took(executor: Executor, runs: str) -> None:
    function = partial(faults.double_or_die, faults.die_by_signal, 70, runs)

    results = list(executor.map(function, range(200), return_exceptions=True))

    lost = positions(results, WorkerDied)
    assert 70 in lost
    assert list(results[70].indices) == lost
    assert positions(results) == lost
    assert all(results[i] == 2 * i for i in range(200) if i not in lost)
    ran = Counter(lines(runs))
    assert set(ran.values()) == {1}, "no item runs twice"
    assert set(ran) >= {str(i) for i in range(200) if i not in lost}


def test_a_death_is_raised_where_exceptions_are_not_asked_for(executor: Executor, runs: str) -> None:
    function = partial(faults.double_or_die, faults.die_by_signal, 3, runs)
    with pytest.raises(WorkerDied, match="SIGKILL"):
        list(executor.map(function, range(20)))


def test_every_item_may_die(executor: Executor) -> None:
    def die(item: int) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    results = list(executor.map(die, range(12), chunksize=1, return_exceptions=True))
    assert [list(error.indices) for error in results] == [[i] for i in range(12)]


def test_a_death_is_noticed_although_a_child_of_the_worker_lives_on(executor: Executor, runs: str) -> None:
    future = executor.submit(faults.die_and_leave_a_child, runs)
    try:
        with pytest.raises(WorkerDied):
            future.result(timeout=20)
    finally:
        for child in lines(runs):
            os.kill(int(child), signal.SIGKILL)


def test_with_retries_a_death_need_not_be_final(executor: Executor, tmp_path: Path) -> None:
    function = partial(faults.die_the_first_time, str(tmp_path / "died"))
    assert list(executor.map(function, range(20), retries=1)) == [2 * i for i in range(20)]
    assert (tmp_path / "died").exists()


def test_only_the_future_that_died_fails(executor: Executor) -> None:
    futures = [executor.submit(pow, i, 2) for i in range(10)]
    dying = executor.submit(faults.die_by_exit)
    futures += [executor.submit(pow, i, 2) for i in range(10, 20)]

    assert [future.result() for future in futures] == [i * i for i in range(20)]
    with pytest.raises(WorkerDied, match="exit code 3"):
        dying.result()


def test_a_replaced_worker_keeps_its_index(method: str) -> None:
    context = multiprocessing.get_context(method)
    with Executor("process", 2, context, faults.keep, (context.Barrier(2),)) as executor:
        before = dict(executor.map(faults.meet, range(2), chunksize=1))
        os.kill(before[1], signal.SIGKILL)
        after = dict(executor.map(faults.meet, range(2), chunksize=1))
    assert set(before) == set(after) == {0, 1}
    assert before[0] == after[0]
    assert before[1] != after[1]


# ---------------------------------------------------------------- what cannot travel


@pytest.mark.parametrize("broken", faults.BROKEN)
def test_an_item_that_cannot_travel_fails_alone(executor: Executor, broken: str) -> None:
    items: list[Any] = list(range(40))
    items[5] = items[31] = faults.BROKEN[broken]()

    results = list(executor.map(faults.same, items, return_exceptions=True))

    assert positions(results) == [5, 31]
    assert [r for i, r in enumerate(results) if i not in (5, 31)] == [
        i for i in range(40) if i not in (5, 31)
    ]
    check_travel_error(results[5], broken)


@pytest.mark.parametrize("broken", faults.BROKEN)
def test_a_result_that_cannot_travel_fails_alone(executor: Executor, broken: str) -> None:
    names: list[str | None] = [None] * 40
    names[5] = names[31] = broken

    results = list(executor.map(faults.make_broken, names, return_exceptions=True))

    assert positions(results) == [5, 31]
    check_travel_error(results[5], broken)


def check_travel_error(error: Exception, broken: str) -> None:
    assert isinstance(error, SerializationError | ArithmeticError)
    cause = error if isinstance(error, ArithmeticError) else error.__cause__
    while isinstance(cause, RemoteTraceback | SerializationError) and cause.__cause__ is not None:
        cause = cause.__cause__
    expected = (
        "5" if broken == "ExitsOnArrival" else "refuses to leave" if "Leaving" in broken else "exploded"
    )
    assert expected in f"{error} {cause}"
    assert any("item 5" in line for line in error.__notes__)


def test_arguments_and_results_of_submit_that_cannot_travel(executor: Executor) -> None:
    futures = [executor.submit(faults.same, make()) for make in faults.BROKEN.values()]
    futures += [executor.submit(faults.make_broken, name) for name in faults.BROKEN]
    fine = executor.submit(faults.same, "fine")

    assert all(isinstance(future.exception(), SerializationError | ArithmeticError) for future in futures)
    assert fine.result() == "fine"


@pytest.mark.parametrize("make", [lambda: partial(pow, threading.Lock()), faults.BrokenFunction])
def test_a_function_that_cannot_travel(executor: Executor, make: Callable[[], Any]) -> None:
    function = make()
    results = list(executor.map(function, range(20), return_exceptions=True))
    assert all(isinstance(result, SerializationError) for result in results)
    assert all(isinstance(result, pickle.PicklingError) for result in results)
    assert results[0].__cause__ is not None

    with pytest.raises(SerializationError, match="function"):
        executor.submit(function, 1).result()


@pytest.mark.timeout(15)
@pytest.mark.parametrize("what", ["item", "function"])
def test_what_kills_each_worker_that_unpickles_it_is_given_up(
    executor: Executor, runs: str, what: str
) -> None:
    killer = faults.KillsOnArrival(runs)
    if what == "item":
        results = list(executor.map(faults.same, [0, 1, killer, 3], chunksize=1, return_exceptions=True))
        assert positions(results) == [2]
    else:
        results = list(executor.map(killer, range(4), chunksize=1, return_exceptions=True))
        assert positions(results) == [0, 1, 2, 3]
    assert len(lines(runs)) <= 20, "workers are replaced without end"
    assert isinstance(results[2], WorkerDied)


def test_a_result_that_kills_its_worker_when_pickled(executor: Executor) -> None:
    def make(item: int) -> object:
        class KillsOnLeaving:
            def __reduce__(self) -> Any:
                os._exit(9)

        return KillsOnLeaving() if item == 2 else item

    results = list(executor.map(make, range(5), chunksize=1, return_exceptions=True))
    assert positions(results, WorkerDied) == positions(results) == [2]


# ---------------------------------------------------------------- exceptions


def test_an_exception_keeps_its_type_and_tells_where_it_was_raised(executor: Executor) -> None:
    items = [None, "Coded", None, "KeyError"]
    _, coded, _, key = executor.map(faults.raise_what_is_named, items, return_exceptions=True)

    assert type(coded) is faults.Coded
    assert (coded.args, coded.code) == (("spam",), 42)
    assert type(key) is KeyError
    for error, index in ((coded, 1), (key, 3)):
        assert isinstance(error.__cause__, LookupError)
        traceback = error.__cause__.__cause__
        assert isinstance(traceback, RemoteTraceback)
        assert "in raise_what_is_named" in str(traceback), "the frames of the worker"
        assert "the cause of it" in str(traceback)
        assert error.__notes__ == ["noted by the function", f"parallelkit: item {index}: {items[index]!r}"]


def test_the_note_shows_a_long_item_in_short(executor: Executor) -> None:
    with pytest.raises(TypeError) as caught:
        list(executor.map(abs, [1, "spam" * 5000, 2]))
    (note,) = caught.value.__notes__
    assert note.startswith("parallelkit: item 1: 'spamspam")
    assert len(note) < 120


def test_an_item_whose_repr_raises_gets_a_note_too(executor: Executor) -> None:
    class Shy:
        def __repr__(self) -> str:
            raise ValueError("no")

    with pytest.raises(TypeError) as caught:
        list(executor.map(len, ["x", Shy()]))
    assert "item 1" in caught.value.__notes__[0]


def test_an_exception_group_arrives_whole(executor: Executor) -> None:
    (group,) = executor.map(faults.raise_what_is_named, ["ExceptionGroup"], return_exceptions=True)
    assert isinstance(group, ExceptionGroup)
    one, two = group.exceptions
    assert (type(one), type(two), two.code) == (ValueError, faults.Coded, 2)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "name", ["NeedsTwo", "CannotLeave", "CannotArrive", "CannotBeFilled", "TurnsIntoText"]
)
def test_an_exception_that_cannot_be_rebuilt_has_a_stand_in(executor: Executor, name: str) -> None:
    results = list(executor.map(faults.raise_what_is_named, [None, name, None], return_exceptions=True))
    assert positions(results) == [1]
    error = results[1]
    assert isinstance(error, RemoteError)
    assert error.type_name.endswith(name)
    assert error.message == "spam and eggs"
    assert "in raise_what_is_named" in str(error.__cause__.__cause__)


@pytest.mark.parametrize("name", ["SystemExit", "KeyboardInterrupt", "GeneratorExit"])
def test_what_would_end_a_program_ends_only_the_item(method: str, name: str) -> None:
    with Executor("process", 1, method) as executor:
        items = [None, name, None]
        before, error, after = executor.map(faults.raise_what_is_named, items, return_exceptions=True)
        submitted = executor.submit(faults.raise_what_is_named, name).exception()
        later = executor.submit(faults.process_id, 0).result()
    assert type(error) is type(submitted) is RemoteError
    assert error.type_name == name
    assert before == after == later, "the worker lives on"


# ---------------------------------------------------------------- limits


def test_an_item_that_is_stuck_fails_alone(method: str, runs: str) -> None:
    function = partial(faults.stuck_at, 3, runs)
    with Executor("process", 2, method) as executor:
        results = list(executor.map(function, range(12), task_timeout=1.0, return_exceptions=True))
        assert list(executor.map(faults.same, range(12))) == list(range(12))
    assert positions(results, TaskTimeout) == positions(results) == [3]
    assert isinstance(results[3], TimeoutError)
    assert [r for r in results if r is not results[3]] == [i for i in range(12) if i != 3]
    assert Counter(lines(runs)) == Counter(map(str, range(12))), "each ran, none ran twice"


def test_a_call_may_take_no_longer_than_its_timeout(method: str) -> None:
    context = multiprocessing.get_context(method)
    gate = context.Event()
    with Executor("process", 2, context, faults.keep, (gate,)) as executor:
        with pytest.raises(TimeoutError, match=r"timeout=0\.1"):
            list(executor.map(faults.wait_for_gate, range(4), timeout=0.1))
        assert list(executor.map(abs, range(4))) == [0, 1, 2, 3], "nobody waits for what waits for the gate"


# ---------------------------------------------------------------- the life of a worker


def test_an_initializer_that_raises_fails_every_call(method: str, runs: str) -> None:
    with Executor("process", 2, method, faults.fail_to_begin, (runs,)) as executor:
        future = executor.submit(faults.same, 1)
        with pytest.raises(InitializerFailed, match="no such configuration") as caught:
            future.result()
        with pytest.raises(InitializerFailed) as caught_later:
            list(executor.map(faults.same, range(10)))
    assert type(caught.value.__cause__) is LookupError
    assert type(caught_later.value.__cause__) is LookupError
    assert "fail_to_begin" in str(caught.value.__cause__.__cause__), "the frames of the worker"
    assert len(lines(runs)) <= 2, "one try for each worker"


def test_an_initializer_that_raises_fails_a_map(method: str, runs: str) -> None:
    with Executor("process", 2, method, faults.fail_to_begin, (runs,)) as executor:
        with pytest.raises(InitializerFailed) as caught:
            list(executor.map(faults.same, range(10)))
    assert type(caught.value.__cause__) is LookupError


def test_an_initializer_that_ends_the_process_is_not_tried_for_ever(method: str, runs: str) -> None:
    with Executor("process", 2, method, faults.die_in_beginning, (runs,)) as executor:
        future = executor.submit(faults.same, 1)
        with pytest.raises(InitializerFailed, match="exit code 1"):
            list(executor.map(faults.same, range(10)))
        with pytest.raises(InitializerFailed, match="exit code 1"):
            future.result()
    assert len(lines(runs)) < 10


def test_locks_values_arrays_and_queues_travel_in_initargs(method: str) -> None:
    context = multiprocessing.get_context(method)
    value, array, queue = context.Value("i", 0), context.Array("i", 50), context.Queue()
    initargs = (context.Lock(), value, array, queue)
    with Executor("process", 2, context, faults.keep, initargs) as executor:
        list(executor.map(faults.share, range(50)))
        assert sorted(queue.get() for _ in range(50)) == list(range(50))
    assert value.value == 50
    assert list(array) == list(range(50))
    queue.close()
    queue.join_thread()


def test_the_finalizer_runs_in_each_worker_that_leaves(method: str, tmp_path: Path) -> None:
    context = multiprocessing.get_context(method)

    def finish() -> None:
        index, pid = faults.who(None)
        faults.note(str(tmp_path / "finished"), f"{index}:{pid}")

    with Executor("process", 2, context, faults.keep, (context.Barrier(2),), finalizer=finish) as executor:
        met = dict(executor.map(faults.meet, range(2), chunksize=1))
        assert not (tmp_path / "finished").exists()
    assert sorted(lines(str(tmp_path / "finished"))) == sorted(f"{i}:{pid}" for i, pid in met.items())


@pytest.mark.parametrize("chunksize", [None, 1, 4])
def test_a_worker_is_replaced_after_max_tasks(method: str, runs: str, chunksize: int | None) -> None:
    def count(item: int) -> tuple[int | None, int]:
        faults.note(runs, item)
        return faults.who(item)

    with Executor("process", 1, method, max_tasks_per_child=3) as executor:
        results = list(executor.map(count, range(10), chunksize=chunksize))
        more = [executor.submit(count, i).result() for i in range(10, 13)]
    assert Counter(lines(runs)) == Counter(map(str, range(13)))
    assert {index for index, _ in results + more} == {0}
    of_a_process = Counter(pid for _, pid in results + more)
    assert list(of_a_process.values()) == [3, 3, 3, 3, 1]


def test_a_worker_knows_its_index(method: str) -> None:
    context = multiprocessing.get_context(method)
    with Executor("process", 3, context, faults.keep, (context.Barrier(3),)) as executor:
        met = dict(executor.map(faults.meet, range(3), chunksize=1))
        again = dict(executor.map(faults.meet, range(3), chunksize=1))
        assert set(executor.map(faults.who, range(300))) <= set(met.items())
    assert set(met) == {0, 1, 2}
    assert met == again


@pytest.mark.parametrize(
    "own", [faults.in_a_process, faults.in_a_pool, faults.in_an_executor, faults.in_a_program]
)
def test_a_task_may_start_processes_of_its_own(method: str, own: Callable[[int], int]) -> None:
    with Executor("process", 1, method) as executor:
        assert executor.submit(own, 7).result() == 7


# ---------------------------------------------------------------- nothing outlives its executor


def use(method: str, use_it: Callable[[Executor], object]) -> None:
    with Executor("process", 2, method) as executor:
        use_it(executor)


def map_some(executor: Executor) -> None:
    assert sum(executor.map(abs, range(100))) == 4950


def die(executor: Executor) -> None:
    assert isinstance(executor.submit(faults.die_by_signal).exception(), WorkerDied)


def leave_early(executor: Executor) -> None:
    next(iter(executor.map(abs, range(100_000))))


def kill(executor: Executor) -> None:
    executor.submit(faults.stuck_at, 0, os.devnull, 0)
    executor.kill_workers()


@pytest.mark.parametrize(
    ("times", "use_it"),
    [
        (1, map_some),
        (1, die),
        (1, leave_early),
        (1, kill),
        pytest.param(30, map_some, marks=[pytest.mark.slow, pytest.mark.timeout(120)]),
    ],
)
def test_nothing_outlives_its_executor(method: str, times: int, use_it: Callable[[Executor], object]) -> None:
    use(method, map_some)  # what multiprocessing starts once for all is there from now on
    me = psutil.Process()
    processes, threads, descriptors = descendants(), other_threads(), me.num_fds()

    for _ in range(times):
        use(method, use_it)

    assert not wait_until_gone(descendants() - processes)
    assert other_threads() <= threads
    assert me.num_fds() <= descriptors


def other_threads() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name != "parallelkit-clock"}


# ---------------------------------------------------------------- programs that end


@pytest.mark.parametrize("work", ["sleep", "loop_in_python", "compute_in_c", "ignore_signals"])
def test_workers_go_when_their_parent_is_killed(method: str, work: str) -> None:
    program = start([HERE / "busy.py", method, work])
    assert program.stdout is not None
    try:
        workers = [psutil.Process(int(program.stdout.readline())) for _ in range(2)]
        family = [*workers, *psutil.Process(program.pid).children(recursive=True)]
        program.kill()
        assert not wait_until_gone(family)
    finally:
        kill_tree(program)
        program.communicate()


ALL_WAYS = ["in_map", "in_result", "in_result_without_with", "in_as_completed", "in_shutdown"]
HELPER_WAYS = ["in_pmap", "in_pimap", "in_preduce", "in_threads", "in_threads_of_asyncio", "in_coroutines"]


@pytest.mark.parametrize(
    ("method", "way"),
    [(method, way) for way in ALL_WAYS for method in METHODS] + [("default", way) for way in HELPER_WAYS],
)
def test_ctrl_c_ends_a_program_at_once(method: str, way: str) -> None:
    program = start([HERE / "interrupted.py", method, way])
    assert program.stdout is not None
    assert [program.stdout.readline() for _ in range(2)] == ["ready\n"] * 2
    wait_until_it_waits(program.pid)
    os.killpg(program.pid, signal.SIGINT)

    out, err = finish(program)  # which also waits for all that have its output open

    assert program.returncode == -signal.SIGINT, err
    assert not out.replace("ready\n", "")
    assert err.count("Traceback") == 1, err
    assert err.rstrip().endswith("KeyboardInterrupt")


FIFTY = sorted(map(str, range(50)))


@pytest.mark.parametrize(
    "way",
    [
        "submitted_without_shutdown",
        "shutdown_without_waiting",
        "dropped",
        "submitted_by_a_callback",
        "map_of_a_list",
        "map_of_a_generator",
        "map_kept_unread",
        "map_unread_without_shutdown",
    ],
)
def test_what_was_asked_for_is_done_before_a_program_ends(method: str, runs: str, way: str) -> None:
    out, err = run([HERE / "leaving.py", method, way, runs])
    assert not out
    assert not err
    assert sorted(lines(runs)) == FIFTY


@pytest.mark.parametrize(
    ("method", "way"),
    [(method, way) for way in ("exit_in_map", "exit_in_map_without_shutdown") for method in METHODS]
    + [("default", way) for way in ("exit_in_pimap", "error_in_pimap", "helper_used", "os_exit")],
)
def test_a_program_ends_with_an_endless_map_under_way(method: str, runs: str, way: str) -> None:
    out, err = run([HERE / "leaving.py", method, way, runs])
    assert not out
    assert not err
    assert lines(runs)


def test_the_last_reference_ends_the_workers_when_the_work_is_done(method: str, runs: str) -> None:
    before = descendants()
    executor = Executor("process", 2, method)
    future = executor.submit(faults.noted, runs, "done")
    processes = descendants() - before
    del executor
    assert future.result() == "done"
    del future
    assert not [p for p in wait_until_gone(processes) if "parallelkit" in " ".join(p.cmdline())]
