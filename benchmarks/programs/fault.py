"""One fault with one peer: fault.py PEER FAULT WAY SECONDS. Notes what comes of it, as facts, line by line.

WAY is `submit`, a call of its own for each item, or `map`, one call for all of them; a peer that has no
`submit` is called by `map` in both. SECONDS is how long this program waits for an answer. It judges nothing:
`benchmarks/faults.py` starts it, reads the facts, sends signals where a fault wants them, and has the last
word. FAULT_FACTS in the environment is the file of the facts.
"""

from __future__ import annotations

import gc
import logging
import os
import resource
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

import fault_items as items_of
import psutil
from fault_items import BAD, ITEMS, note
from fault_looking import is_alive, limit_that_spares, workers_of
from fault_peers import PEERS, Missing, NotOffered, Peer

CHEAP = [(place, None) for place in range(ITEMS)]


class Cell:
    """What the fault's function needs to know: the peer, the way, the patience."""

    def __init__(self, peer: type[Peer], way: str, seconds: float):
        self.open = peer
        self.by_map = way == "map" or peer.submit is Peer.submit
        self.limited_by_map = peer.limits_a_map
        self.seconds = seconds

    def call(self, peer: Peer, function: Any, items: list[Any], what: str = "item") -> None:
        """Run the items, each alone or all by one call, and note what comes of each."""
        if self.by_map:
            note_stream(lambda: peer.map(function, items), what)
        else:
            self.note_handles((partial(peer.submit, function, item) for item in items), what)

    def note_handles(self, calls: Iterable[Callable[[], Any]], what: str = "item") -> None:
        """Begin all, then wait for each; the patience is for all of them together."""
        handles: dict[int, Any] = {}
        for place, call in enumerate(calls):
            try:
                handles[place] = call()
            except NotOffered:
                raise
            except BaseException as error:
                note_error(place, error, what)
        deadline = time.monotonic() + self.seconds
        for place, handle in handles.items():
            try:
                value = self.open.get(handle, max(0.0, deadline - time.monotonic()))
            except Missing:
                note(**{what: place}, never=True)
            except BaseException as error:
                note_error(place, error, what)
            else:
                note_value(place, value, what)

    def note_begun(self, handles: Iterable[Any]) -> None:
        self.note_handles(partial(lambda handle: handle, handle) for handle in handles)

    def next_call(self, peer: Peer) -> None:
        """Whether the same pool still does what it is for."""
        phase("next")
        self.call(peer, items_of.same, CHEAP, what="next")


# ---------------------------------------------------------------- facts


def phase(name: str) -> None:
    """Where the program is: a phase that does not end is a hang."""
    note(phase=name)


def note_stream(start: Callable[[], Any], what: str) -> None:
    """Note the results of one call, as far as they come."""
    try:
        stream = start()
        note(**{what: "call"})  # it has not failed as a whole
        stream = iter(stream)
    except NotOffered:
        raise
    except BaseException as error:
        note_error("call", error, what)
        return
    for place in range(ITEMS):
        try:
            value = next(stream)
        except StopIteration:
            return
        except BaseException as error:
            note_error(place, error, what)
        else:
            note_value(place, value, what)


def note_value(place: int, value: Any, what: str) -> None:
    if isinstance(value, BaseException):  # from a call that gives exceptions as results
        note_error(place, value, what)
    else:
        note(**{what: place}, right=value == 2 * place, value=repr(value)[:80])


def note_error(place: int | str, error: BaseException, what: str) -> None:
    note(
        **{what: place},
        error=type(error).__name__,
        ends=not isinstance(error, Exception),
        kept=items_of.what_is_kept(error),
        text="\n".join(said(error))[:3000],
    )


def said(error: BaseException | None) -> Iterator[str]:
    """All that an error and its causes say."""
    while error is not None:
        yield f"{type(error).__name__}: {error}"
        yield f"{vars(error)}"  # an exit code may stand there, and notes do
        error = error.__cause__ or error.__context__


# ---------------------------------------------------------------- an item that misbehaves


def deed(name: str, cell: Cell) -> None:
    """The bad item does what the name says."""
    six(cell, items_of.work, [(place, name if place == BAD else None) for place in range(ITEMS)])


def nothing(cell: Cell) -> None:
    """The control: without a fault, each peer must do its work."""
    six(cell, items_of.work, CHEAP)


def cargo(kind: str, cell: Cell) -> None:
    """The bad item is a thing that does not travel."""
    thing = getattr(items_of, kind)()
    six(cell, items_of.work, [(place, thing if place == BAD else None) for place in range(ITEMS)])


def six(cell: Cell, function: Any, items: list[Any]) -> None:
    phase("open")
    with cell.open() as peer:
        phase("call")
        cell.call(peer, function, items)
        cell.next_call(peer)
        phase("close")
    phase("end")


def function_that_kills(cell: Cell) -> None:
    """One call in six has a function that ends the process that unpickles it; of a map, all have."""
    phase("open")
    with cell.open() as peer:
        phase("call")
        killer = items_of.KillsOnArrival()
        if cell.by_map:
            cell.call(peer, killer, CHEAP)
        else:
            functions = [killer if place == BAD else items_of.work for place in range(ITEMS)]
            calls = (partial(peer.submit, *pair) for pair in zip(functions, CHEAP, strict=True))
            cell.note_handles(calls)
        cell.next_call(peer)
        phase("close")
    phase("end")


def item_over_its_limit(cell: Cell) -> None:
    """The bad item takes for ever, the others 0.2 s; none may take longer than two."""
    phase("open")
    with cell.open() as peer:
        phase("call")
        items = [(place, "stay" if place == BAD else None) for place in range(ITEMS)]
        if cell.limited_by_map:
            note_stream(lambda: peer.limited(items_of.work, items, 2.0), "item")
        else:
            cell.note_begun(peer.limited(items_of.work, items, 2.0))
        cell.next_call(peer)
        time.sleep(1.0)  # it may take a moment to end the worker
        phase("close")
    phase("end")


def call_over_its_limit(cell: Cell) -> None:
    """All items take for ever; the call may take a second; then the same pool is used again."""
    phase("open")
    with cell.open() as peer:
        phase("call")
        note_stream(lambda: peer.call_within(items_of.sleeps_on, CHEAP, 1.0), "item")
        cell.next_call(peer)
        phase("close")
    phase("end")


def loop_left(cell: Cell) -> None:
    """A loop over results is left after the first; how many items are run nevertheless?"""
    phase("open")
    with cell.open() as peer:
        phase("call")
        stream = iter(peer.stream(items_of.short, [(place, None) for place in range(items_of.MANY)]))
        assert next(stream) == 0
        del stream
        gc.collect()
        cell.next_call(peer)
        phase("close")
    phase("end")


# ---------------------------------------------------------------- initializers, workers killed from outside


def initializer(name: str, cell: Cell) -> None:
    phase("open")
    with cell.open(getattr(items_of, name)) as peer:
        phase("call")
        cell.call(peer, items_of.same, CHEAP)
        cell.next_call(peer)
        phase("close")
    phase("end")


def killed_while_idle(cell: Cell) -> None:
    """All workers are killed while there is nothing to do; a second later they are wanted."""
    phase("open")
    with cell.open() as peer:
        here = set(peer.map(items_of.which_process, CHEAP)).intersection(psutil.pids())
        workers = [psutil.Process(pid) for pid in here]
        note(idle=len(workers))
        for worker in workers:
            worker.kill()
        while any(is_alive(worker) for worker in workers):
            time.sleep(0.01)
        time.sleep(1.0)
        phase("call")
        cell.call(peer, items_of.work, CHEAP)
        cell.next_call(peer)
        phase("close")
    phase("end")


# ---------------------------------------------------------------- the end of the program


def busy(function: str, cell: Cell) -> None:
    """Two workers at it and two items that wait, until somebody ends that."""
    phase("open")
    with cell.open() as peer:
        phase("busy")
        for _ in peer.map(getattr(items_of, function), CHEAP[:4]):
            pass
        phase("close")
    phase("end")


def exit_with_work_pending(cell: Cell) -> None:
    """The main thread leaves by sys.exit, without a word to its pool."""
    phase("open")
    peer = cell.open()
    globals()["kept"] = peer, peer.begin(items_of.slow, CHEAP)
    phase("exit")
    sys.exit(5)


def fork_while_running(cell: Cell) -> None:
    """A child is forked in the middle; it makes a pool of its own, and ends; the parent goes on."""
    phase("open")
    peer = cell.open()
    handles = peer.begin(items_of.slow, CHEAP)
    phase("fork")
    child = os.fork()
    if not child:
        signal.alarm(round(cell.seconds))  # which ends a child that hangs
        with cell.open() as another:
            Cell(cell.open, "map", cell.seconds).call(another, items_of.same, CHEAP, what="in child")
        note(child="leaves")
        sys.exit(0)
    phase("child")
    _, status = os.waitpid(child, 0)
    note(child=os.waitstatus_to_exitcode(status))
    phase("call")
    cell.note_begun(handles)
    cell.next_call(peer)
    phase("exit")


def dropped_without_shutdown(cell: Cell) -> None:
    """The last reference to the pool goes with work pending; do the results come, do the workers leave?"""
    phase("open")
    handles = cell.open().begin(items_of.slow, CHEAP)
    gc.collect()
    phase("call")
    cell.note_begun(handles)
    del handles
    gc.collect()
    deadline = time.monotonic() + 3.0
    while (left := workers_of(psutil.Process())) and time.monotonic() < deadline:
        time.sleep(0.05)
    note(stay=left)
    phase("exit")


# ---------------------------------------------------------------- what a program has around itself


def logging_in_a_worker(cell: Cell) -> None:
    """Records of `logging` in workers: how many come to a handler of the parent."""
    records: list[logging.LogRecord] = []
    me = os.getpid()

    class Collect(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if os.getpid() == me:
                records.append(record)

    logging.getLogger().addHandler(Collect())
    phase("open")
    with cell.open() as peer:
        phase("call")
        cell.call(peer, items_of.logs, CHEAP)
        deadline = time.monotonic() + 2.0
        while len(records) < ITEMS and time.monotonic() < deadline:
            time.sleep(0.05)
        note(records=[record.getMessage() for record in records])
        phase("close")
    phase("end")


def no_standard_streams(cell: Cell) -> None:
    """As a daemon runs: 0, 1 and 2 are closed, so that the pool's own files get these numbers."""
    six(cell, items_of.prints, CHEAP)


def no_descriptors(cell: Cell) -> None:
    """0, 1, 2, ... descriptors are to be had, until there are enough; each time a pool is made and called."""
    phase("open")
    with cell.open() as peer:  # what is imported on first use is there from now on
        six_doubles(peer)
    gc.collect()
    me = psutil.Process()
    before, (soft, hard) = me.num_fds(), resource.getrlimit(resource.RLIMIT_NOFILE)
    for spare in range(64):
        limit = limit_that_spares(spare)
        phase(f"spare {spare}")
        outcome = "OK"
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
            with cell.open() as peer:
                six_doubles(peer)
        except BaseException as error:
            outcome = type(error).__name__
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        note(spare=spare, outcome=outcome)
        if outcome == "OK":
            break
    gc.collect()
    note(stay=workers_of(me), leaked=me.num_fds() - before)
    phase("open")
    with cell.open() as peer:
        cell.next_call(peer)
        phase("close")
    phase("end")


def six_doubles(peer: Peer) -> None:
    """A call that raises what went wrong, also where exceptions are given as results."""
    for place, value in enumerate(peer.map(items_of.same, CHEAP)):
        if isinstance(value, BaseException):
            raise value
        assert value == 2 * place


FAULTS: dict[str, Callable[[Cell], None]] = {
    "none": nothing,
    "sigkill": partial(deed, "kill"),
    "segfault": partial(deed, "segfault"),
    "_exit": partial(deed, "exit"),
    "abort": partial(deed, "abort"),
    "sys.exit": partial(deed, "sys.exit"),
    "interrupt": partial(deed, "interrupt"),
    "exception-rich": partial(deed, "rich"),
    "exception-arrives": partial(deed, "needs two"),
    "exception-leaves": partial(deed, "cannot leave"),
    "result-leaves": partial(deed, "result breaks on leaving"),
    "result-arrives": partial(deed, "result breaks on arrival"),
    "result-kills": partial(deed, "result kills on leaving"),
    "argument-leaves": partial(cargo, "BreaksOnLeaving"),
    "argument-arrives": partial(cargo, "BreaksOnArrival"),
    "argument-kills": partial(cargo, "KillsOnArrival"),
    "function-kills": function_that_kills,
    "init-raises": partial(initializer, "init_raises"),
    "init-exits": partial(initializer, "init_exits"),
    "killed-idle": killed_while_idle,
    "killed-busy": partial(deed, "wait to be killed"),
    "item-limit": item_over_its_limit,
    "call-limit": call_over_its_limit,
    "loop-left": loop_left,
    "ctrl-c": partial(busy, "sleeps"),
    "sigterm": partial(busy, "sleeps_on"),
    "sigkill-python": partial(busy, "loops_in_python"),
    "sigkill-c": partial(busy, "loops_in_c"),
    "exit-pending": exit_with_work_pending,
    "fork": fork_while_running,
    "dropped": dropped_without_shutdown,
    "logging": logging_in_a_worker,
    "no-streams": no_standard_streams,
    "no-descriptors": no_descriptors,
}


if __name__ == "__main__":
    _, peer_name, fault, chosen_way, patience = sys.argv
    try:
        FAULTS[fault](Cell(PEERS[peer_name], chosen_way, float(patience)))
    except NotOffered as error:
        note(not_offered=str(error))
