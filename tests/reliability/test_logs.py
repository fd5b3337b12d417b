"""What workers log and warn of, in the parent: whole, in order, once, by its rules, also when they die."""

from __future__ import annotations

import io
import logging
import logging.handlers
import multiprocessing
import os
import pickle
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import as_completed, wait
from contextlib import contextmanager
from enum import IntEnum
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from parallelkit import (
    Executor,
    InitializerFailed,
    Pool,
    TaskTimeout,
    WorkerDied,
    current_item,
    current_worker,
    pmap,
)
from parallelkit._wire.rules import rules
from parallelkit.testing import Gate, Notes
from programs import faults, talking
from programs.methods import SPAWN_IS_SLOW
from programs.watching import run

pytestmark = [
    pytest.mark.timeout(60),
    # From 3.12 on; the workers of these tests survive it.
    pytest.mark.filterwarnings("ignore:This process .* is multi-threaded, use of fork:DeprecationWarning"),
]
BACKENDS = ["serial", "thread", "process", "asyncio"]


@pytest.fixture(params=SPAWN_IS_SLOW)
def method(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def executor(method: str) -> Iterator[Executor]:
    """Two workers, which must serve to the end, and leave."""
    with Executor("process", max_workers=2, mp_context=method) as executor:
        yield executor
        assert list(executor.map(faults.same, range(100))) == list(range(100)), "the pool is not usable"


class Heard(logging.Handler):
    """Keeps records; `then` is called with each."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[Any] = []
        self.then: Callable[[logging.LogRecord], object] = lambda record: None

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)
        self.then(record)

    @property
    def messages(self) -> list[str]:
        return [record.getMessage() for record in self.records]


@pytest.fixture
def heard() -> Iterator[Heard]:
    """At the root; all that a test does to loggers is undone."""
    handler = Heard()
    loggers = [logging.root, logging.getLogger("talking"), logging.getLogger("talking.sub")]
    before = [(logger, logger.level, logger.handlers[:], logger.filters[:]) for logger in loggers]
    logging.root.addHandler(handler)
    yield handler
    logging.disable(logging.NOTSET)
    logging.captureWarnings(False)
    for logger, level, handlers, filters in before:
        logger.setLevel(level)
        logger.handlers, logger.filters = handlers, filters
        logger.disabled, logger.propagate = False, True


# ---------------------------------------------------------------- records


def test_a_record_comes_as_it_was_made(executor: Executor, heard: Heard) -> None:
    assert list(executor.map(talking.say_much, range(2), chunksize=1)) == [0, 1]
    assert sorted(record.item for record in heard.records) == [0, 1]
    record = heard.records[0]
    assert (record.name, record.levelname, record.funcName) == ("talking", "ERROR", "say_much")
    assert (record.msg, record.args, record.getMessage()) == ("spam and eggs", None, "spam and eggs")
    assert record.pathname == talking.__file__
    assert record.process != os.getpid()
    assert record.processName == f"parallelkit-{record.worker}"
    assert record.exc_info is None
    assert "LookupError: no such thing" in record.exc_text
    assert "in say_much" in record.stack_info
    text = logging.Formatter("%(item)s %(worker)s %(message)s").format(record)
    assert text.startswith(f"{record.item} {record.worker} spam and eggs\nTraceback")
    assert (record.number, record.things) == (42, [1, {"two": 3}])
    assert "lock" in record.stuck, "its repr()"
    assert (record.broken, record.leaves) == (
        "<could not be rebuilt: ArithmeticError>",
        "<could not be rebuilt: SystemExit>",
    )


def test_names_of_ours_give_way_to_the_users(executor: Executor, heard: Heard) -> None:
    where: list[Any] = []
    heard.then = lambda record: where.append((current_item(), current_worker()))
    list(executor.map(talking.say_with_names_of_ours, range(3), chunksize=3))
    assert {(record.item, *record.worker) for record in heard.records} == {("my item", "my", "worker")}
    assert sorted(item for item, _ in where) == [0, 1, 2]


def test_records_are_in_order_and_before_their_outcome(executor: Executor, heard: Heard) -> None:
    for item in range(30):
        assert executor.submit(talking.say_three, item).result() == item
        assert heard.messages[-3:] == [f"{item}a", f"{item}b", f"{item}c"]
    heard.records.clear()
    for future in as_completed([executor.submit(talking.say_three, item) for item in range(100, 150)]):
        assert f"{future.result()}c" in heard.messages
    heard.records.clear()
    for item in executor.map(talking.say_three, range(200), ordered=False):
        assert f"{item}c" in heard.messages
    for worker in range(2):
        mine = [record for record in heard.records if record.worker == worker]
        counts = [record.count for record in mine]
        assert counts == sorted(counts)
        parts = [record.getMessage() for record in mine]
        assert parts == [f"{record.item}{'abc'[i % 3]}" for i, record in enumerate(mine)]


@pytest.mark.parametrize("death", faults.DEATHS)
@pytest.mark.parametrize("size", [10, 1_000_000])
def test_nothing_is_lost_when_the_worker_dies_right_after(
    executor: Executor, heard: Heard, death: str, size: int
) -> None:
    function = partial(talking.say_and_die, death, size)
    results = list(executor.map(function, range(6), chunksize=1, return_exceptions=True))
    assert isinstance(results[3], WorkerDied)
    assert [(record.item, len(record.getMessage())) for record in heard.records] == [(3, size)]


def test_every_item_of_a_chunk_in_which_the_worker_dies_is_heard_once(
    executor: Executor, heard: Heard
) -> None:
    function = partial(talking.say_and_die_at, 70)
    results = list(executor.map(function, range(200), return_exceptions=True))
    assert [item for item, result in enumerate(results) if result != item] == [70]
    assert sorted((record.item, record.getMessage()) for record in heard.records) == [
        (item, str(item)) for item in range(200)
    ]


def test_an_item_that_is_over_its_time_is_heard(executor: Executor, heard: Heard) -> None:
    function = partial(talking.say_and_be_stuck_at, 2)
    results = list(executor.map(function, range(5), task_timeout=1.0, return_exceptions=True))
    assert isinstance(results[2], TaskTimeout)
    assert sorted(heard.messages) == ["0", "1", "2", "3", "4"]


def test_many_threads_of_a_worker_log_at_once(method: str, heard: Heard) -> None:
    with Executor("process", 1, method) as executor:
        results = list(executor.map(partial(talking.say_in_threads, 6, 30), range(8), chunksize=1))
        assert results == [bytes(talking.LARGE)] * 8
        executor.submit(talking.wait_for_threads, None).result()
    expected = [f"{number} {n} " + "x" * (1 << (n % 15)) for number in range(6) for n in range(30)] * 8
    assert sorted(heard.messages) == sorted(expected)


def test_a_signal_handler_logs_in_the_middle_of_everything(executor: Executor, heard: Heard) -> None:
    assert list(executor.map(talking.say_when_signalled, range(4), chunksize=1)) == [bytes(talking.LARGE)] * 4
    messages = heard.messages
    assert sum(text.startswith("main") for text in messages) == 4 * 300
    counts = [int(text.split()[1]) for text in messages if text.startswith("count")]
    assert sum(text.startswith("handler") for text in messages) == sum(counts) > 0


def test_a_signal_handler_raises_in_the_middle_of_logging(executor: Executor, heard: Heard) -> None:
    assert list(executor.map(talking.say_until_interrupted, range(40), chunksize=1)) == list(range(40))
    assert {len(text) for text in heard.messages} == {100, 20_000}
    assert all(set(text) == {"x"} for text in heard.messages)


def in_a_program(method: str, function: str) -> tuple[str, str]:
    """Map a function over four items in a program of its own: what is heard, and what is on stderr."""
    program = f"""
import logging, sys, warnings
warnings.filterwarnings("ignore", "This process .* is multi-threaded")
from parallelkit import Executor
from programs import talking
logging.basicConfig(stream=sys.stdout, format="heard %(message)s")
with Executor("process", 2, {method!r}) as executor:
    assert list(executor.map(talking.{function}, range(4), chunksize=1)) == list(range(4))
"""
    return run(["-c", program], env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)})


def test_a_message_that_cannot_be_made(method: str) -> None:
    out, err = in_a_program(method, "say_what_cannot_be_said")
    assert (out, err.count("ArithmeticError: no words")) == ("", 4)


# ---------------------------------------------------------------- where they come from


def test_initializer_and_finalizer_are_heard(method: str, heard: Heard) -> None:
    def finish() -> None:
        talking.say_in_beginning("end")

    with Executor("process", 1, method, talking.say_in_beginning, ("begin",), finalizer=finish) as executor:
        executor.submit(talking.say, 1).result()
    assert heard.messages == ["begin", "item 1", "end"]
    assert [record.item for record in heard.records] == [None, None, None]


def test_an_initializer_that_logs_and_ends_the_process_is_not_tried_for_ever(
    method: str, heard: Heard, tmp_path: Path
) -> None:
    runs = tmp_path / "runs"
    with Executor("process", 1, method, talking.say_and_die_in_beginning, (str(runs),)) as executor:
        with pytest.raises(InitializerFailed, match="exit code 1"):
            list(executor.map(faults.same, range(3)))
    assert heard.messages == ["about to die"] * len(runs.read_text().split())


def test_a_child_of_an_item_writes_to_stderr(method: str) -> None:
    out, err = in_a_program(method, "say_in_a_child")
    assert sorted(out.splitlines()) == [f"heard from the item {item}" for item in range(4)]
    assert all(err.count(f"from the child of {item}\n") == 1 for item in range(4))
    assert err.count("UserWarning: warned in the child") == 4
    assert "too low" not in err


def test_a_child_that_comes_back_from_its_item_tells_nothing(method: str) -> None:
    out, err = in_a_program(method, "say_in_a_child_that_comes_back")
    assert sorted(out.splitlines()) == [f"heard parent of item {item}" for item in range(4)]
    assert sorted(err.splitlines()) == [f"child of item {item}" for item in range(4)]


def test_workers_of_workers_are_heard(method: str, heard: Heard) -> None:
    with Executor("process", 1, method) as executor:
        assert executor.submit(talking.say_in_an_executor, method, 5).result() == [10, 11]
    assert heard.messages == ["outer 5", "item 10", "item 11"]
    assert [record.item for record in heard.records] == [None, 0, 1], "the innermost"


def test_filters_reach_the_workers_of_workers(method: str) -> None:
    class Local(UserWarning):
        pass

    with recorded("error") as caught:
        warnings.simplefilter("default", UserWarning)
        warnings.simplefilter("error", Local)
        with Executor("process", 1, method) as executor:
            assert executor.submit(talking.warn_in_an_executor, method, Local, 1).result() == "Local"
            assert executor.submit(talking.warn_in_an_executor, method, UserWarning, 1).result() == "NoneType"
    assert texts(caught) == ["inner"]


def test_pools_are_heard(method: str, heard: Heard) -> None:
    with Pool(2, context=multiprocessing.get_context(method)) as pool:
        assert pool.map(talking.say, range(20)) == list(range(20))
        assert sorted((r.item, r.getMessage()) for r in heard.records) == [
            (item, f"item {item}") for item in range(20)
        ]
        heard.records.clear()
        assert list(pool.imap(talking.say, iter(range(5)))) == list(range(5))
        assert pool.apply(talking.say, ("alone",)) == "alone"
        assert sorted(heard.messages) == ["item 0", "item 1", "item 2", "item 3", "item 4", "item alone"]
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            with pytest.raises(UserWarning, match="careful"):
                pool.apply(talking.warn, (1,))
        pool.close()
        pool.join()


@pytest.mark.parametrize("backend", BACKENDS)
def test_one_filter_names_the_item_on_every_backend(backend: str, heard: Heard) -> None:
    def name_the_item(record: Any) -> bool:
        record.item = current_item()
        return current_worker() is not None

    heard.addFilter(name_the_item)
    heard.setFormatter(logging.Formatter("%(item)s: %(message)s"))
    assert pmap(talking.say, range(9), backend=backend, max_workers=2) == list(range(9))
    assert sorted(map(heard.format, heard.records)) == [f"{item}: item {item}" for item in range(9)]


# ---------------------------------------------------------------- levels, filters and handlers of the parent


def test_levels_are_those_of_the_parent(executor: Executor, heard: Heard) -> None:
    def said(name: str, level: int) -> bool:
        heard.records.clear()
        enabled = set(executor.map(partial(talking.say_as, name, level), range(4), chunksize=1))
        assert len(heard.records) in (0, 4)
        assert enabled == {bool(heard.records)}, "the worker knows it"
        return bool(heard.records)

    assert said("talking", logging.WARNING)
    assert not said("talking", logging.INFO)
    logging.root.setLevel(logging.INFO)
    assert said("talking", logging.INFO)
    assert not said("talking", logging.DEBUG)
    logging.getLogger("talking.sub").setLevel(logging.DEBUG)
    assert said("talking.sub", logging.DEBUG)
    assert said("talking.sub.of.that", logging.DEBUG)
    assert not said("talking", logging.DEBUG)
    logging.getLogger("talking").setLevel(logging.ERROR)
    assert not said("talking", logging.WARNING)
    assert said("talking.sub", logging.DEBUG)
    logging.disable(logging.INFO)
    assert not said("talking.sub", logging.INFO)
    assert said("talking.sub", logging.WARNING)
    logging.disable(logging.NOTSET)
    logging.getLogger("talking").setLevel(logging.NOTSET)
    assert said("talking", logging.INFO)
    logging.getLogger("talking.sub").disabled = True
    logging.root.setLevel(logging.DEBUG)
    assert not said("talking.sub", logging.ERROR)
    assert said("talking.sub.of.that", logging.DEBUG)
    logging.getLogger("talking.sub").disabled = False
    assert said("talking.sub", logging.DEBUG)
    logging.root.setLevel(logging.NOTSET)
    assert said("talking", 1)


def test_levels_that_were_set_before_the_start(method: str, heard: Heard) -> None:
    logging.getLogger("talking").setLevel(logging.DEBUG)
    logging.getLogger("never.heard.of").setLevel(logging.INFO)
    with Executor("process", 1, method, talking.say_in_beginning, ("begin",)) as executor:
        assert executor.submit(talking.level_of, "talking").result() == logging.DEBUG
        assert executor.submit(talking.say_as, "never.heard.of", logging.INFO, 2).result()
        assert not executor.submit(talking.say_as, "never.heard.of", logging.DEBUG, 3).result()
    assert heard.messages == ["begin", "item 2"]
    logging.getLogger("never.heard.of").setLevel(logging.NOTSET)


def test_levels_and_loggers_of_classes_that_workers_do_not_know(executor: Executor, heard: Heard) -> None:
    class Level(IntEnum):
        LOUD = 25

    class Own(logging.Logger):
        pass

    logging.setLoggerClass(Own)
    try:
        own = logging.getLogger("talking.own")
    finally:
        logging.setLoggerClass(logging.Logger)
    try:
        own.setLevel(Level.LOUD)
        assert executor.submit(talking.say_as, "talking.own", 25, 1).result()
        assert not executor.submit(talking.say_as, "talking.own", 24, 2).result()
        assert heard.messages == ["item 1"]
    finally:
        own.setLevel(logging.NOTSET)


def test_what_a_worker_has_set_stays_until_the_parent_changes_it(method: str, heard: Heard) -> None:
    with Executor("process", 1, method, talking.set_level, ("talking", logging.ERROR)) as executor:
        executor.submit(talking.say, 1).result()
        logging.getLogger("talking.sub").setLevel(logging.INFO)
        executor.submit(talking.say, 2).result()
        assert heard.records == []
        logging.getLogger("talking").setLevel(logging.INFO)
        executor.submit(talking.say_at, logging.INFO, 3).result()
        assert heard.messages == ["item 3"]
        executor.submit(talking.set_level, "talking", logging.DEBUG).result()
        executor.submit(talking.say_at, logging.DEBUG, 4).result()
        assert heard.messages == ["item 3"], "it can be quieter than the parent, and not louder"


def test_loggers_of_the_parent_filter_and_do_not_propagate(executor: Executor, heard: Heard) -> None:
    logger, own = logging.getLogger("talking"), Heard()
    logger.addHandler(own)
    logger.propagate = False
    logger.addFilter(lambda record: "1" not in record.getMessage())
    list(executor.map(talking.say, range(3)))
    assert heard.records == []
    assert sorted(own.messages) == ["item 0", "item 2"]


def test_names_of_levels_are_the_parents(executor: Executor, heard: Heard) -> None:
    logging.addLevelName(45, "SEVERE")
    executor.submit(talking.say_at, 45, 1).result()
    assert heard.records[0].levelname == "SEVERE"


def test_handlers_are_not_doubled_by_a_fork(heard: Heard, tmp_path: Path) -> None:
    path = tmp_path / "log"
    file = logging.FileHandler(path)
    memory = logging.handlers.MemoryHandler(1000, target=file)
    logging.root.addHandler(memory)
    logging.getLogger("talking").addHandler(file)
    logging.root.warning("before")
    with Executor("process", 2, "fork") as executor:
        list(executor.map(talking.say, range(10)))
        assert set(executor.map(tuple, map(talking.handlers_of, ["nobody"]))) == {()}
        assert executor.submit(talking.handlers_of, "talking").result() == []
        executor.submit(logging.shutdown).result()
    memory.close()
    file.close()
    lines = path.read_text().splitlines()
    assert sorted(lines) == sorted(["before", *[f"item {item}" for item in range(10)] * 2])


@pytest.mark.parametrize("how", ["raises", "exits", "filter", "closed"])
def test_handlers_that_raise_do_no_harm(executor: Executor, heard: Heard, how: str, capsys: Any) -> None:
    def fail(record: logging.LogRecord) -> bool:
        raise SystemExit("handled badly") if how == "exits" else LookupError("handled badly")

    if how == "filter":
        logging.getLogger("talking").addFilter(fail)
    elif how == "closed":
        stream = io.StringIO()
        logging.getLogger("talking").addHandler(logging.StreamHandler(stream))
        stream.close()
    else:
        heard.then = fail
    assert list(executor.map(talking.say, range(20))) == list(range(20))
    futures = [executor.submit(talking.say, item) for item in range(20)]
    wait(futures)  # and does not read in their stead: what a handler raises in this thread may be Ctrl-C
    assert [future.result() for future in futures] == list(range(20))
    said = capsys.readouterr().err
    assert "closed file" in said if how == "closed" else "handled badly" in said
    logging.raiseExceptions = False
    try:
        assert list(executor.map(talking.say, range(3))) == [0, 1, 2]
    finally:
        logging.raiseExceptions = True
    assert not capsys.readouterr().err


def test_ctrl_c_in_a_handler_reaches_the_caller(executor: Executor, heard: Heard) -> None:
    def interrupt(record: logging.LogRecord) -> None:
        if threading.current_thread() is threading.main_thread():
            signal.raise_signal(signal.SIGINT)

    heard.then = interrupt
    with pytest.raises(KeyboardInterrupt):
        while True:  # until this thread is the one that reads
            executor.submit(talking.say, 1).result()
    heard.then = lambda record: None
    assert list(executor.map(talking.say, range(5))) == list(range(5))


def test_a_time_limit_holds_although_records_keep_coming(
    executor: Executor, heard: Heard, tmp_path: Path
) -> None:
    gate = Gate(tmp_path)
    came = threading.Event()
    heard.then = lambda record: came.set()
    future = executor.submit(talking.say_until, str(tmp_path / "gate"))
    try:
        assert came.wait(30)
        with pytest.raises(TimeoutError):
            future.result(timeout=0.1)
    finally:
        gate.open()
    future.result()


def test_a_handler_may_submit(executor: Executor, heard: Heard) -> None:
    more = []
    heard.then = lambda record: more.append(executor.submit(faults.same, record.item))
    list(executor.map(talking.say, range(20)))
    assert sorted(future.result() for future in more) == list(range(20))


# ---------------------------------------------------------------- handlers of a worker's own


@pytest.mark.parametrize("way", ["basicConfig", "addHandler", "dictConfig"])
def test_a_worker_that_has_a_root_handler_keeps_its_records(
    method: str, heard: Heard, tmp_path: Path, way: str
) -> None:
    path = tmp_path / "log"
    with Executor("process", 2, method, talking.configure, (way, str(path))) as executor:
        list(executor.map(partial(talking.say_at, logging.INFO), range(10)))
    assert heard.records == []
    assert sorted(path.read_text().splitlines()) == [f"worker item {item}" for item in range(10)]


def test_the_cookbook_of_logging(method: str, heard: Heard) -> None:
    context = multiprocessing.get_context(method)
    queue = context.Queue()
    listener = logging.handlers.QueueListener(queue, heard)
    listener.start()
    with Pool(2, talking.send_to, (queue,), context=context) as pool:
        pool.map(talking.say, range(10))
        pool.close()
        pool.join()
    listener.stop()
    queue.close()
    queue.join_thread()
    assert sorted(heard.messages) == [f"item {item}" for item in range(10)]


MODULE = """
import logging, warnings

log = logging.getLogger(__name__)
log.setLevel(logging.ERROR)
handler = logging.FileHandler({path!r})
handler.setFormatter(logging.Formatter("%(process)d %(message)s"))
log.addHandler(handler)
log.addHandler(logging.NullHandler())
logging.basicConfig(filename={path!r}, format="root %(process)d %(message)s")
warnings.warn("imported")
warnings.filterwarnings("ignore", "strict")
warnings.showwarning = print

def say(item):
    log.info("item %s", item)
    warnings.warn("careful")
    try:
        warnings.warn("strict")
    except UserWarning:
        return item
"""


def test_what_a_module_sets_up_on_import_is_not_set_up_again(method: str, tmp_path: Path) -> None:
    path = tmp_path / "log"
    (tmp_path / "sets_up_logging.py").write_text(MODULE.format(path=str(path)))
    program = f"""
import logging, sys, warnings
sys.path.insert(0, {str(tmp_path)!r})
warnings.simplefilter("ignore")
import sets_up_logging
warnings.simplefilter("error")
warnings.filterwarnings("always", "careful")
warnings.showwarning = lambda message, *_: print("shown", message)
sets_up_logging.log.setLevel("INFO")
from parallelkit import Executor
with Executor("process", 2, {method!r}) as executor:
    print(list(executor.map(sets_up_logging.say, range(4), chunksize=1)))
"""
    out, err = run(["-W", "ignore::DeprecationWarning", "-c", program])
    assert out == "shown careful\n" * 4 + "[0, 1, 2, 3]\n", err
    lines = path.read_text().splitlines()
    own = [line.partition(" ")[2] for line in lines if not line.startswith("root")]
    root = [line.split(" ", 2)[2] for line in lines if line.startswith("root")]
    assert sorted(own) == sorted(root) == [f"item {item}" for item in range(4)]


# ---------------------------------------------------------------- warnings


@contextmanager
def recorded(action: Any) -> Iterator[list[warnings.WarningMessage]]:
    """What is shown meanwhile, but for what 3.12 says of a fork."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter(action)
        warnings.filterwarnings("ignore", "This process .* is multi-threaded")
        yield caught


def texts(caught: list[warnings.WarningMessage]) -> list[str]:
    return [str(warning.message) for warning in caught]


def test_a_warning_is_shown_once_for_its_place(executor: Executor) -> None:
    for _ in range(2):
        with recorded("default") as caught:
            list(executor.map(talking.warn, range(20), chunksize=1))
            talking.warn(0)
            list(executor.map(talking.warn, range(20), chunksize=1))
        assert texts(caught) == ["careful"]
        assert (caught[0].filename, caught[0].category) == (talking.__file__, UserWarning)
        assert caught[0].lineno > 0


@pytest.mark.parametrize("action", ["always", "once", "module", "ignore", "default"])
def test_warnings_obey_the_filters_of_the_parent(executor: Executor, action: Any) -> None:
    with recorded(action) as here:
        for item in range(10):
            talking.warn_each(item)
            talking.warn(item)
    with recorded(action) as there:
        list(executor.map(talking.warn_each, range(10), chunksize=1))
        list(executor.map(talking.warn, range(10), chunksize=1))
    assert sorted(texts(there)) == sorted(texts(here))


def test_a_warning_may_be_an_error_of_its_item(executor: Executor) -> None:
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="careful with [37]")
        warnings.filterwarnings("ignore", message="careful with [0124568]")
        results = list(executor.map(talking.warn_each, range(10), return_exceptions=True))
    assert [type(result) for result in results] == [
        UserWarning if item in (3, 7, 9) else int for item in range(10)
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert list(executor.map(talking.warn_each, range(10))) == list(range(10))


def test_filters_may_name_classes_and_modules(executor: Executor) -> None:
    class Local(UserWarning):
        pass

    with recorded("always") as caught:
        warnings.filterwarnings("error", category=talking.Custom)
        warnings.filterwarnings("error", category=Local)
        warnings.filterwarnings("ignore", module="programs.talking", category=RuntimeWarning)
        assert isinstance(executor.submit(talking.warn_custom, 2).exception(), talking.Custom)
        local = executor.submit(lambda: warnings.warn("local", Local, stacklevel=1)).exception()
        assert type(local).__name__ == "Local"
        executor.submit(talking.warn_of, RuntimeWarning, "of a module", 1).result()
        executor.submit(talking.warn_of, UserWarning, "of another class", 1).result()
    assert texts(caught) == ["of another class"]


def test_a_warning_comes_as_it_was_made(executor: Executor) -> None:
    with recorded("always") as caught:
        list(executor.map(talking.warn_custom, range(2)))
        assert sorted((type(w.message), w.message.code) for w in caught) == [  # type: ignore[union-attr]
            (talking.Custom, 40),
            (talking.Custom, 41),
        ]
        caught.clear()
        executor.submit(talking.warn_of, talking.CannotLeave, "cannot leave", 1).result()
        executor.submit(talking.warn_of, talking.CannotArrive, "cannot arrive", 1).result()
    assert [(w.category, str(w.message)) for w in caught] == [
        (talking.CannotLeave, "cannot leave"),
        (talking.CannotArrive, "cannot arrive"),
    ]


def test_filters_of_the_workers_own(method: str) -> None:
    with recorded("default") as caught:
        warnings.simplefilter("ignore", DeprecationWarning)
        with Executor("process", 1, method, talking.filter_in_worker, ("ignore",)) as executor:
            executor.submit(talking.warn, 1).result()
            warnings.simplefilter("error", BytesWarning)  # so that they go to the worker once more
            executor.submit(talking.warn, 1).result()
            assert texts(caught) == []
            assert executor.submit(talking.warn_into_a_list, 1).result() == ["kept"]
            assert list(executor.map(talking.warn_loudly, range(3))) == [0, 1, 2]
    assert texts(caught) == ["loud"] * 3, "as in a plain loop"


def test_the_last_warning_of_a_worker(executor: Executor) -> None:
    with recorded("always") as caught:
        results = list(executor.map(talking.warn_and_die, range(6), chunksize=1, return_exceptions=True))
    assert isinstance(results[3], WorkerDied)
    assert texts(caught) == ["last words"]


def test_captured_warnings_are_records(executor: Executor, heard: Heard) -> None:
    where = []
    heard.then = lambda record: where.append(current_item())
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.filterwarnings("ignore", "This process .* is multi-threaded")
        logging.captureWarnings(True)
        list(executor.map(talking.warn, range(3)))
        logging.captureWarnings(False)
    assert {record.name for record in heard.records} == {"py.warnings"}
    assert all("UserWarning: careful" in text for text in heard.messages)
    assert sorted(where) == [0, 1, 2]


def test_who_shows_warnings_may_raise(executor: Executor, monkeypatch: Any, capsys: Any) -> None:
    def show(*_: object) -> None:
        raise LookupError("not shown")

    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.filterwarnings("ignore", "This process .* is multi-threaded")
        monkeypatch.setattr(warnings, "showwarning", show)
        assert list(executor.map(talking.warn, range(3))) == [0, 1, 2]
    assert capsys.readouterr().err.count("LookupError: not shown") == 3


def test_a_filter_that_came_too_late_shows_what_would_have_been_an_error(method: str, tmp_path: Path) -> None:
    gate, notes = Gate(tmp_path), Notes(tmp_path)

    def wait_and_warn(item: int) -> int:
        notes.add("here")
        gate.pass_through()
        return talking.warn(item)

    with Executor("process", 1, method) as executor:
        with recorded("always") as caught:
            future = executor.submit(wait_and_warn, 1)
            notes.wait_for(1)
            warnings.simplefilter("error")
            gate.open()
            assert future.result() == 1
        assert texts(caught) == ["careful"]


def test_in_a_script_it_is_as_in_a_plain_loop(method: str) -> None:
    program = """
import logging, sys, warnings
logging.basicConfig(level=logging.INFO, stream=sys.stdout, format="%(levelname)s %(name)s %(message)s")

def work(item):
    logging.info("at %d", item)
    warnings.warn("old", DeprecationWarning)
    return item
"""
    plain = run(["-c", f"{program}\nlist(map(work, range(4)))"])
    in_workers = f"""
from parallelkit import Executor
warnings.filterwarnings("ignore", "This process .* is multi-threaded")
with Executor("process", 2, {method!r}) as executor:
    list(executor.map(work, range(4)))
"""
    ours = run(["-c", program + in_workers])
    assert sorted(ours[0].splitlines()) == sorted(plain[0].splitlines())
    assert ours[1].count("DeprecationWarning: old") == plain[1].count("DeprecationWarning: old") == 1


# ---------------------------------------------------------------- what it costs where nobody logs


def test_rules_are_made_anew_only_when_something_has_changed(heard: Heard) -> None:
    changes: list[Callable[[], object]] = [
        lambda: logging.root.setLevel(logging.INFO),
        lambda: logging.getLogger("talking.sub").setLevel(logging.INFO),
        lambda: logging.disable(logging.DEBUG),
        lambda: warnings.simplefilter("once"),
        lambda: warnings.filterwarnings("ignore", message="spam"),
    ]
    with warnings.catch_warnings():
        last = rules()
        assert rules() is last
        for change in changes:
            change()
            now = rules()
            assert now is not last
            assert now != last
            assert rules() is now
            last = now
        logging.getLogger("talking.other").info("a new logger")
        assert rules() is last
        logging.root.setLevel(logging.root.level)
        assert rules() is last, "nothing is different"
        logging.getLogger("talking").disabled = True
        logging.root.setLevel(logging.ERROR)
        last = rules()
        logging.getLogger("talking").disabled = False
        assert rules() != last
        last = rules()
    assert rules() is not last, "what was shown may be shown again"


def test_what_filters_are_made_of_needs_no_module(heard: Heard) -> None:
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="spam.*", category=talking.Custom, module="eggs", lineno=3)
        warnings.filters.insert(0, ("ignore", None, "no class", None, 0))  # type: ignore[attr-defined]
        packed = rules()
        assert any(entry[0] == "error" for entry in pickle.loads(packed)[-1])
    assert b"programs.talking" in packed
    assert b"c" + b"programs.talking" not in packed
    assert sys.getsizeof(packed) < 10_000


@pytest.mark.slow
def test_a_flood(executor: Executor, heard: Heard) -> None:
    def flood(item: int) -> int:
        for n in range(1_000):
            talking.say(n)
        return item

    assert list(executor.map(flood, range(20), chunksize=1)) == list(range(20))
    assert len(heard.records) == 20_000
