"""Workers are killed at random moments while maps, streams, reduces and submits go on from several threads.

    python benchmarks/chaos.py [--kills 10000 | --minutes 10 | --items 100000] [--seed S]
        [--method forkserver | fork | spawn] [--workers 4] [--threads 4] [--rate 50]

Workers end by signals from outside (while they work, wait, start or are stopped; one, or all at once), and
by what their items do (exit, crash, end when an argument is unpickled or a result pickled, with the lock of
a claim in hand, in the middle of an answer). At the end every item is accounted for: delivered once and
right, or named by an error; nothing is left behind; another executor has noticed nothing. Exit code 1 says
that this does not hold.

The seed replays what is drawn: the calls and what their items do, and how often and in which way workers are
killed; not the moment at which a signal meets what a worker does.
"""

from __future__ import annotations

import argparse
import faulthandler
import os
import random
import resource
import signal
import sys
import tempfile
import threading
import warnings
from collections import Counter
from time import monotonic, sleep
from traceback import format_exception
from typing import NoReturn

from chaos_calls import Arena, Bystander, Caller
from chaos_checks import Account
from chaos_items import count_faults, read_faults
from chaos_killers import Killer, peers_of
from holdings import (
    MOST_BLOCKS,
    MOST_GROWTH,
    Holdings,
    allocated_blocks,
    growth,
    left_behind,
    own_temporary_folder,
    resident_bytes,
    steady_allocator,
)

from parallelkit import Executor

ROUNDS = 18
"""Between two rounds all calls have ended, and what is held can be compared."""

LEAST_KILLS = 20
"""In a round, which a short run has fewer of."""

PATIENCE = 60.0
"""Seconds for one call. It takes a second or two; more is a hang."""

EXIT_CODES = {
    "SIGSEGV": -11, "SIGABRT": -6, "SIGTERM": -15,
    "exit": 3, "segfault": -11, "abort": -6, "terminate": -15, "pickling": 3,
}  # fmt: skip
"""By what was done to a worker; where it is not here, it was SIGKILL in the end."""


class Chaos:
    """One run.

    Attributes:
        account: of all items.
        faults: what was done to workers, and how often.
        troubles: what else must not be.
        memory: resident bytes of this process, after each round.
        blocks: and how many blocks of memory its objects take.
    """

    def __init__(self, arena: Arena, given: argparse.Namespace):
        self.account = Account()
        self.faults: Counter[str] = Counter()
        self.deaths = 0
        self.troubles: list[str] = []
        self.memory: list[int] = []
        self.blocks: list[int] = []
        self._arena = arena
        self._given = given
        self._began = monotonic()
        self._rounds = 0
        self._broken = False  # a thread has met what none should
        self._seen = 0  # of the faults that workers have noted
        self._before: list[tuple[int, str]] = []  # faults of the round before, whose deaths may be late
        self._round_kills = max(LEAST_KILLS, (given.kills or 200 * ROUNDS) // ROUNDS)
        self._quiet = Executor("process", 1, given.method)
        self._quiet.submit(abs, 1).result()

    def run(self) -> None:
        while not (self._is_enough() or self._broken):
            self._round()
        self._quiet.shutdown()

    def _is_enough(self) -> bool:
        given = self._given
        if given.minutes:
            return bool(monotonic() - self._began > 60 * given.minutes)
        if given.items:
            return bool(self.account.items >= given.items)
        return bool(self.faults.total() >= given.kills)

    def _round(self) -> None:
        self._rounds += 1
        seed = f"{self._given.seed}/{self._rounds}"
        over = threading.Event()
        killer = Killer(self._arena, f"{seed}/killer", self._given.rate, over.is_set)
        callers = [Caller(self._arena, f"{seed}/{n}", over.is_set) for n in range(self._given.threads)]
        bystander = Bystander(self._quiet, over.is_set)
        everybody: list[Killer | Bystander | Caller] = [killer, bystander, *callers]
        for thread in everybody:
            thread.start()
        while not over.wait(0.05):
            self._see_that_all_go_on([bystander, *callers])
            kills = len(killer.faults) + count_faults(self._arena.faults) - self._seen
            minutes = self._given.minutes
            late = minutes is not None and monotonic() - self._began > 60 * minutes
            if late or kills >= self._round_kills or any(thread.crash for thread in everybody):
                over.set()
        while any(thread.is_alive() for thread in everybody):
            sleep(0.01)
            self._see_that_all_go_on([bystander, *callers])
        for thread in everybody:
            thread.join()
            if thread.crash is not None:
                self._broken = True
                self.troubles.append("".join(format_exception(thread.crash)))
        self._check(killer, [bystander, *callers])

    def _check(self, killer: Killer, callers: list[Caller | Bystander]) -> None:
        """After a round, when nothing goes on."""
        for caller in callers:
            if isinstance(caller, Caller):
                caller.check_left()
            self.account.add(caller.account)
        deaths, self._arena.deaths[:] = list(self._arena.deaths), []
        inside = read_faults(self._arena.faults)[self._seen :]
        self._seen += len(inside)
        faults = [*killer.faults, *inside]
        self.faults.update(how for _, how in faults)
        self.deaths += len(deaths)
        done: dict[int, set[int]] = {}
        for pid, how in (*self._before, *faults):
            done.setdefault(pid, set()).add(EXIT_CODES.get(how, -signal.SIGKILL))
        self._before = faults
        for pid, exitcode in deaths:
            if exitcode not in done.get(pid, ()):
                self.troubles.append(f"worker {pid} ended with {exitcode}, not with {done.get(pid, 'any')}")
        self.memory.append(resident_bytes())
        self.blocks.append(allocated_blocks())
        print(
            f"round {self._rounds}: {self.faults.total():,} faults, {self.account.items:,} items, "
            f"{self.memory[-1] / 2**20:.1f} MiB, {self.blocks[-1]:,} blocks, "
            f"{monotonic() - self._began:.0f} s",
            flush=True,
        )

    def _see_that_all_go_on(self, callers: list[Caller | Bystander]) -> None:
        faulthandler.dump_traceback_later(2 * PATIENCE, exit=True)  # for the case that this thread hangs, too
        now = monotonic()
        for caller in callers:
            what, since = caller.doing
            if what and now - since > PATIENCE:
                self._hang(what)

    def _hang(self, what: str) -> NoReturn:
        """Say who is where, and end."""
        print(f"HANG in {what}, after {self.faults.total()} faults; seed {self._given.seed}", flush=True)
        faulthandler.dump_traceback(all_threads=True)
        for executor in [*self._arena.targets, self._quiet]:
            backend, driver = executor._backend, executor._driver
            print(f"\n{executor!r}: calls {driver.calls}, in flight {driver._flights}", flush=True)
            for peer in peers_of(executor):
                print(
                    f"{peer.process}, ready {peer.ready}, open {peer._open}, has {peer._chunks}", flush=True
                )
                print(f"  {[backend.running(number) for number in peer._chunks]}", flush=True)
                os.kill(peer.process.pid, signal.SIGUSR1)
        sleep(1.0)
        for executor in [*self._arena.targets, self._quiet]:
            for peer in peers_of(executor):
                peer.process.kill()
        sys.stdout.flush()
        os._exit(1)


def run(given: argparse.Namespace) -> int:
    with tempfile.TemporaryDirectory(prefix="chaos-") as folder, own_temporary_folder():
        warm_up(given.method)
        before = Holdings.now()
        arena = Arena(folder, given.method, given.workers)
        chaos = Chaos(arena, given)
        try:
            chaos.run()
        finally:
            faulthandler.dump_traceback_later(PATIENCE, exit=True)
            arena.executor.shutdown()
            arena.close(arena.executor)
            del arena.executor
        leaks = left_behind(before)
        faulthandler.cancel_dump_traceback_later()
    return report(chaos, leaks)


def warm_up(method: str) -> None:
    """What stays for the whole program comes before the first look: servers, modules, the clock's thread."""
    for _ in range(2):
        with Executor("process", 2, method) as executor:
            assert [*executor.map(abs, range(100))] == [*range(100)]


def report(chaos: Chaos, leaks: dict[str, list[str]]) -> int:
    """Print the table; 1 if something is not as it must be, else 0."""
    account = chaos.account
    faults = ", ".join(f"{how} {count:,}" for how, count in sorted(chaos.faults.items()))
    calls = ", ".join(f"{kind} {count:,}" for kind, count in sorted(account.calls.items()))
    named = ", ".join(f"{name.replace('_', ' ')} {getattr(account, name):,}" for name in Account.NUMBERS)
    grown, more_blocks = growth(chaos.memory), growth(chaos.blocks)
    bad = bool(chaos.troubles or account.complaints or any(leaks.values()))
    if grown is None or more_blocks is None:
        growing = "too short to say"
    else:
        growing = f"{grown / 2**20:+.1f} MiB, {more_blocks:+,.0f} blocks"
        bad = bad or grown > MOST_GROWTH or more_blocks > MOST_BLOCKS
    rows = {
        "faults injected": f"{chaos.faults.total():,}: {faults}",
        "workers that died of them": f"{chaos.deaths:,}",
        "calls": f"{account.calls.total():,}: {calls}",
        "items accounted for": f"{account.items:,}: {named}",
        "lost": f"{account.lost:,}",
        "doubled": f"{account.doubled:,}",
        "wrong": f"{account.wrong:,}",
        "other troubles": f"{len(chaos.troubles):,}",
        **{f"left behind: {kind}": f"{len(more):,}" for kind, more in leaks.items()},
        "growth of the parent": growing,
        "verdict": "FAILED" if bad else "all is accounted for, nothing is left behind",
    }
    print(f"\n| {'what':<28} | found\n|{'-' * 30}|{'-' * 60}")
    for what, found in rows.items():
        print(f"| {what:<28} | {found}")
    for line in (*account.complaints, *chaos.troubles, *(f"left: {more}" for more in leaks.values() if more)):
        print(line)
    return int(bad)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    limit = parser.add_mutually_exclusive_group()
    limit.add_argument("--kills", type=int, default=1000, help="faults to inject (1,000)")
    limit.add_argument("--minutes", type=float, help="how long, instead")
    limit.add_argument("--items", type=int, help="how many items, instead")
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 32), help="of all that is drawn")
    parser.add_argument("--method", choices=("forkserver", "fork", "spawn"), default="forkserver")
    parser.add_argument("--workers", type=int, default=4, help="of the executor that is attacked (4)")
    parser.add_argument("--threads", type=int, default=4, help="threads that make calls (4)")
    parser.add_argument("--rate", type=float, default=50.0, help="of kills from outside, in a second (50)")
    return parser.parse_args()


def main() -> None:
    given = parse()
    version = ".".join(map(str, sys.version_info[:3]))
    print(f"seed {given.seed}, {given.method}, {given.workers} workers, Python {version}", flush=True)
    # Workers that crash are to leave no core; that a fork of this process copies its threads is known.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    warnings.filterwarnings("ignore", "This process .* is multi-threaded, use of fork", DeprecationWarning)
    steady_allocator()
    sys.exit(run(given))


if __name__ == "__main__":
    main()
