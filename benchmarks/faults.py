"""What faults do to pools: each really happens, to parallelkit and to its peers; one table says what came.

    python benchmarks/faults.py [--peer NAME ...] [--fault NAME ...] [--way submit|map] [--timeout S]
                                [--at-once N] [--facts]

Method. Each cell is a program of its own (`programs/fault.py`) in a session of its own, with two workers and
six items of 0.2 s of which item 3 misbehaves. The program notes facts: which items came back, which error,
whether the same pool then does six more; `fault_words.py` turns facts into words. A phase of the program that
takes longer than the timeout is a hang. Three seconds after the end of the program it is counted what is left
of its processes (by session, and by a mark in the environment, which all of them inherit) and of its files.
Then all are killed.

`--way submit` is a call of its own for each item, where the peer has such calls; `--way map` is one for all
items, and shows the rows for which this makes a difference. `--at-once` runs so many cells of a row side by
side: most of the time they wait. `--facts` also prints what the words were made of.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from typing import NamedTuple

if __package__:
    from . import fault_words as words
    from .fault_cells import Cell, Seen, interrupt_group, kill, terminate
    from .measuring import machine
    from .programs.fault_peers import PEERS
else:
    import fault_words as words
    from fault_cells import Cell, Seen, interrupt_group, kill, terminate
    from measuring import machine
    from programs.fault_peers import PEERS


class Fault(NamedTuple):
    """A row: what happens, how it is judged, and what is done to the program from outside."""

    title: str
    judge: Callable[[Seen], str]
    send: Callable[[int], None] | None = None
    closed: bool = False


def six(cause: str) -> Callable[[Seen], str]:
    """The rows in which one of six items misbehaves; `cause` is what the error must say of it."""
    return partial(words.six_items, cause=cause)


def start(cause: str) -> Callable[[Seen], str]:
    """The rows in which no worker can start."""
    return partial(words.initializer, cause=cause)


def end(code: int, timed: bool = False) -> Callable[[Seen], str]:
    """The rows in which the program must end with this code, negative for a signal."""
    return partial(words.ended_by_signal, expected=code, timed=timed)


LEAVING, ARRIVING = six("refuses to leave"), six("exploded on arrival")
EXIT_3 = six(r"exit ?code\W{1,3}3\b|EXIT\(3\)")

FAULTS: dict[str, Fault] = {
    "none": Fault("nothing: the control", six("")),
    "sigkill": Fault("SIGKILL in an item", six(r"SIGKILL|-9\b|signal 9\b")),
    "segfault": Fault("segfault", six(r"SIGSEGV|-11\b|signal 11\b")),
    "_exit": Fault("`os._exit(3)`", EXIT_3),
    "abort": Fault("`os.abort()`", six(r"SIGABRT|-6\b|signal 6\b")),
    "sys.exit": Fault("`sys.exit(7)` in an item", six("SystemExit")),
    "interrupt": Fault("KeyboardInterrupt in an item", six("KeyboardInterrupt")),
    "exception-rich": Fault("exception with attributes, notes and a cause", words.rich_exception),
    "exception-leaves": Fault("exception that cannot be pickled", six("CannotLeave")),
    "exception-arrives": Fault("exception that cannot be unpickled", six("NeedsTwo")),
    "result-leaves": Fault("result that cannot be pickled", LEAVING),
    "result-arrives": Fault("result that raises when unpickled", ARRIVING),
    "result-kills": Fault("result that exits when pickled", EXIT_3),
    "argument-leaves": Fault("argument that cannot be pickled", LEAVING),
    "argument-arrives": Fault("argument that raises when unpickled", ARRIVING),
    "argument-kills": Fault("argument that exits when unpickled", EXIT_3),
    "function-kills": Fault("function that exits when unpickled", EXIT_3),
    "init-raises": Fault("initializer that raises", start("no such configuration")),
    "init-exits": Fault("initializer that exits", start(r"exit ?code\W{1,3}3\b|EXIT\(3\)")),
    "killed-idle": Fault("workers killed from outside while idle", words.killed_idle),
    "killed-busy": Fault("worker killed from outside in an item", six(r"SIGKILL|-9\b|signal 9\b")),
    "item-limit": Fault("item over its time limit", words.item_limit),
    "call-limit": Fault("call over its time limit", words.call_limit),
    "loop-left": Fault("loop over 40 results left after one", words.loop_left),
    "ctrl-c": Fault("Ctrl-C, items of 6 s", end(-2, timed=True), interrupt_group),
    "sigterm": Fault("SIGTERM to the parent", end(-15), terminate),
    "sigkill-python": Fault("SIGKILL to the parent, workers in Python code", end(-9), kill),
    "sigkill-c": Fault("SIGKILL to the parent, workers in C code", end(-9), kill),
    "exit-pending": Fault("`sys.exit(5)` with six items of 0.5 s pending", words.exit_pending),
    "fork": Fault("`os.fork()` while items run", words.fork),
    "dropped": Fault("pool dropped with work pending", words.dropped),
    "logging": Fault("records of `logging` in items", words.logging),
    "no-streams": Fault("stdin, stdout, stderr closed", six(""), closed=True),
    "no-descriptors": Fault("no descriptors left", words.no_descriptors),
}

OF_ONE_CALL = list(FAULTS)[: list(FAULTS).index("item-limit") + 1]
"""The rows in which it matters how six items are called."""


def cell(peer: str, name: str, way: str, timeout: float, show_facts: bool) -> str:
    """Let the fault happen; the words for it."""
    fault = FAULTS[name]
    seen = Cell(peer, name, way, timeout, fault.send, fault.closed).run()
    said = words.NOT_OFFERED if seen.all("not_offered") else fault.judge(seen)
    if show_facts:
        facts = "".join(f"  {json.dumps(fact)}\n" for fact in seen.facts)
        ending = f"hung={seen.hung} code={seen.code} gone={seen.gone:.1f} left={seen.left} files={seen.files}"
        took = f"call={seen.call_seconds:.1f}"
        print(f"\n{peer}, {name}: {said}\n{ending} {took}\n{facts}{seen.errors}", flush=True)
    return said


def installed(peer: str) -> str | None:
    """The versions that are measured; None if the peer is not there."""
    try:
        return " ".join(f"{name} {version(name)}" for name in PEERS[peer].modules) or "of this Python"
    except PackageNotFoundError:
        return None


def main() -> None:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("--peer", action="append", choices=PEERS, help="only this one; may be repeated")
    parser.add_argument("--fault", action="append", choices=FAULTS, help="only this one; may be repeated")
    parser.add_argument("--way", choices=["submit", "map"], default="submit")
    parser.add_argument("--timeout", type=float, default=20.0, metavar="S", help="seconds until it is a hang")
    parser.add_argument("--at-once", type=int, default=1, metavar="N", help="cells that run side by side")
    parser.add_argument("--facts", action="store_true", help="what the words were made of, on the way")
    options = parser.parse_args()

    versions = {peer: installed(peer) for peer in options.peer or PEERS}
    way = "a call of its own for each item" if options.way == "submit" else "one call for all items"
    print(f"{machine()}; {way}; a hang is {options.timeout:g} s")
    for peer, found in versions.items():
        print(f"- {peer}: {found or 'not installed, left out'}")
    peers = [peer for peer, found in versions.items() if found]
    print(f"\n| fault | {' | '.join(peers)} |\n|{'---|' * (len(peers) + 1)}", flush=True)
    for name in options.fault or (FAULTS if options.way == "submit" else OF_ONE_CALL):
        run = partial(cell, name=name, way=options.way, timeout=options.timeout, show_facts=options.facts)
        with ThreadPoolExecutor(options.at_once) as executor:
            cells = list(executor.map(run, peers))
        print(f"| {FAULTS[name].title} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
