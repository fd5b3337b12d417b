"""From what was seen of a program to the few words of its cell.

Where nothing else is said, the same pool did six more items well, the program ended by itself with the exit
code it should have, and nothing was left of it.
"""

from __future__ import annotations

import re

if __package__:
    from .fault_cells import Fact, Seen
    from .programs.fault_items import BAD, ITEMS, MANY
else:
    from fault_cells import Fact, Seen
    from programs.fault_items import BAD, ITEMS, MANY

NOT_OFFERED = "-"

LATE = 4.0
"""Seconds of a call, six items of 0.2 s and a fault, from which on it is told."""


def sentence(*parts: str) -> str:
    return "; ".join(part for part in parts if part)


def how_it_ended(seen: Seen, expected: int = 0) -> str:
    """What is to be said of the end of the program, if anything is."""
    if seen.hung is not None:
        return {"next": "next call HANGs", "close": "closing HANGs"}.get(seen.hung, "exit HANGs")
    code = "" if seen.code == expected else f"exit code {seen.code}"
    left = f"leaves {amount(seen.left, 'process', 'processes')}" if seen.left else ""
    files = f"leaves {amount(len(seen.files), 'file', 'files')}" if seen.files else ""
    return sentence(code, left, files)


def amount(number: int, one: str, several: str) -> str:
    return f"{number} {one if number == 1 else several}"


# ---------------------------------------------------------------- six items


class Call:
    """What became of six items.

    Attributes:
        whole: the error of the call as a whole, if it failed before it gave any result.
        errors: by the place of the item.
        never: the places of those that did not come in time.
    """

    def __init__(self, seen: Seen, what: str):
        facts = [fact for fact in seen.facts if what in fact]
        whole = [fact for fact in facts if fact[what] == "call" and "error" in fact]
        self.whole: Fact | None = whole[0] if whole else None
        items = {fact[what]: fact for fact in facts if fact[what] != "call"}
        self.errors = {place: fact for place, fact in items.items() if "error" in fact}
        self.never = {place for place, fact in items.items() if "never" in fact}
        self.wrong = {place for place, fact in items.items() if fact.get("right") is False}
        self.missing = set(range(ITEMS)) - items.keys()
        self.said = bool(facts)

    @property
    def well(self) -> bool:
        return self.said and not (self.whole or self.errors or self.never or self.wrong or self.missing)

    @property
    def first_error(self) -> Fact | None:
        if self.whole is not None or not self.errors:
            return self.whole
        return self.errors.get(BAD) or next(iter(self.errors.values()))

    def words(self) -> str:
        if self.never:
            others = self.errors.keys() - {BAD}
            fails = f"{len(others)} of {ITEMS} fail" if others else ""
            return sentence(f"HANG: {len(self.never)} of {ITEMS} missing", fails)
        error = self.first_error
        name = f": {error['error']}" if error else ""
        if self.whole:
            return f"call fails{name}"
        if self.wrong:
            return f"wrong value for {amount(len(self.wrong), 'item', 'items')}"
        if self.errors and self.missing:
            first = min(self.errors)
            return f"call ends at item {first}{name}" if first else f"call fails{name}"
        if self.errors.keys() == {BAD}:
            return f"only that item{name}"
        if self.errors:
            return f"{len(self.errors)} of {ITEMS} fail{name}"
        return f"{len(self.missing)} of {ITEMS} never given" if self.missing else "OK"


def six_items(seen: Seen, cause: str = "", dies: bool = False) -> str:
    """The bad item failed, and nothing else did?

    Args:
        cause: a regular expression that the error, or a cause of it, must have in its text.
    """
    call = Call(seen, "item")
    if seen.hung in ("open", "call"):
        return f"HANG in {'making the pool' if seen.hung == 'open' else 'the call'}"
    if not call.said:
        return sentence("parent ended", how_it_ended(seen))
    error = call.first_error
    ends = ", which ends the parent" if error and error["ends"] else ""
    hidden = "cause hidden" if error and cause and not re.search(cause, error["text"]) else ""
    late = f"after {seen.call_seconds:.0f} s" if seen.call_seconds > LATE and not call.never else ""
    return sentence(call.words() + ends, late, hidden, next_call(seen), how_it_ended(seen))


def rich_exception(seen: Seen) -> str:
    error = Call(seen, "item").first_error
    lost = {"attributes", "notes", "cause"}.difference(error["kept"] if error else ())
    return sentence(six_items(seen), f"{' and '.join(sorted(lost))} lost" if lost else "")


def next_call(seen: Seen) -> str:
    call = Call(seen, "next")
    if call.well or not call.said:
        return "" if call.well or seen.hung else "parent ended"
    if call.never:
        return "next call HANGs"
    if call.wrong:
        return "next call gives WRONG results"
    return "pool dead"


def killed_idle(seen: Seen) -> str:
    return "keeps no idle workers" if seen.all("idle") == [0] else six_items(seen)


def item_limit(seen: Seen) -> str:
    runs_on = "the item runs on" if seen.runs_on else ""
    return sentence(six_items(seen, "Timeout|TimeLimitExceeded"), runs_on)


def call_limit(seen: Seen) -> str:
    call = Call(seen, "item")
    if seen.hung in ("open", "call"):
        return "HANG in the call"
    error = call.first_error
    return sentence(error["error"] if error else "no error", next_call(seen), how_it_ended(seen))


def loop_left(seen: Seen) -> str:
    if seen.hung in ("open", "call"):
        return "HANG"
    return sentence(f"{len(seen.all('ran'))} of {MANY} run", next_call(seen), how_it_ended(seen))


def initializer(seen: Seen, cause: str) -> str:
    """Every call must fail, soon and with the reason; and nothing is started without end."""
    call = Call(seen, "item")
    starts = len(seen.all("began"))
    endless = f"{starts} starts" if starts > 8 else ""
    if seen.hung == "open":
        return sentence("HANG in making the pool", endless)
    if seen.hung == "call":
        return sentence("HANG in the call", endless)
    if call.never:
        return sentence(call.words(), endless, how_it_ended(seen))
    if not call.said:
        return sentence("making the pool fails", how_it_ended(seen))
    error = call.first_error
    hidden = "cause hidden" if error and not re.search(cause, error["text"]) else ""
    hangs = "next call HANGs" if Call(seen, "next").never else ""
    return sentence(call.words(), hidden, hangs, endless, how_it_ended(seen))


# ---------------------------------------------------------------- the end of the program


def ended_by_signal(seen: Seen, expected: int, timed: bool = False) -> str:
    if seen.hung is not None:
        return "HANG"
    tracebacks = seen.errors.count("Traceback (most recent call last)")
    return sentence(
        f"{seen.gone:.1f} s" if timed else "",
        f"{tracebacks} tracebacks" if timed and tracebacks > 1 else "",
        how_it_ended(seen, expected) or ("" if timed else "nothing left"),
    )


def exit_pending(seen: Seen) -> str:
    if seen.hung is not None:
        return "HANG"
    ran = len(seen.all("ran"))
    return sentence(f"{ran} of {ITEMS} run, {seen.gone:.1f} s", how_it_ended(seen, 5))


def fork(seen: Seen) -> str:
    """A child with a pool of its own that ends well, a parent that does not notice."""
    within, ends = Call(seen, "in child"), [code for code in seen.all("child") if code != "leaves"]
    if not within.well:
        child = f"in the child, {within.words()}" if within.first_error else "child HANGs"
    elif ends and ends[0] == 0:
        child = "child OK"
    else:
        child = f"child ends with {ends[0]}" if ends else "child never ends"
        child = "child's exit HANGs" if ends and ends[0] == -14 else child
    if seen.hung is not None:
        return sentence(child, "parent HANGs")
    call = Call(seen, "item")
    parent = "parent OK" if call.well else f"in the parent, {call.words()}"
    return sentence(child, parent, next_call(seen), how_it_ended(seen))


def dropped(seen: Seen) -> str:
    if seen.hung in ("open", "call"):
        return "HANG"
    call = Call(seen, "item")
    results = "results come" if call.well else call.words()
    stay = (seen.all("stay") or [0])[-1]
    stays = amount(stay, "worker stays", "workers stay") if stay else ""
    return sentence(results, stays, how_it_ended(seen))


# ---------------------------------------------------------------- what a program has around itself


def logging(seen: Seen) -> str:
    records = seen.all("records")
    if not records:
        return sentence("no answer", how_it_ended(seen))
    return sentence(f"{len(records[-1])} of {ITEMS} come", how_it_ended(seen))


def no_descriptors(seen: Seen) -> str:
    tries = [fact for fact in seen.facts if "spare" in fact]
    failed = [fact["outcome"] for fact in tries if fact["outcome"] != "OK"]
    said = "/".join(dict.fromkeys(failed))
    if seen.hung is not None and seen.hung.startswith("spare"):
        spare = seen.hung.split()[1]
        return sentence(f"HANG with {spare} to be had", f"before: {said}" if said else "")
    leaked = (seen.all("leaked") or [0])[-1]
    stay = (seen.all("stay") or [0])[-1]
    return sentence(
        f"{said or 'no error'}; OK from {len(failed)} on",
        f"{leaked} descriptors stay open" if leaked > 0 else "",
        amount(stay, "worker stays", "workers stay") if stay else "",
        next_call(seen),
        how_it_ended(seen),
    )
