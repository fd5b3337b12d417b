"""Journals: what a worker has run and not reported yet, in memory that outlives it.

To report each item as it ends would cost the parent more than most items do. So a worker writes down what
ended, for the case that it dies, and reports it with much else later. The records are pickles, and as a rule
they are what the report sends: only small values are pickled twice.

    head      number of the chunk, index of the first item, bytes used, mode: items are run in runs, or
              one by one, or one by one and it is reporting now
    records   length, items, pickle of a list, the values of the next items; without a pickle, they are
              left out; for 0 items, of a dictionary, values by index

The bytes used are written last, so a record that a dying worker left half written is none. Where items are
run one by one, the first without a record is the one that the worker was in, unless it was reporting.
"""

from __future__ import annotations

import pickle
import struct
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

from ..errors import SerializationError
from .originals import LEAST_BYTES
from .pickling import has_handles, is_plain, salvage

__all__ = ["HEAD_WORDS", "JOURNAL_BYTES", "Ended", "Journal", "load_values", "read_journal", "split"]

JOURNAL_BYTES = 1 << 19  # benchmarks/constants.py
"""So much fits in, and a report comes when half of it is used: as large as reports of tiny items grow."""

SMALL_BYTES = 64  # benchmarks/constants.py
"""Of records that are smaller, on the average, the values are pickled once more, together: it takes a
fiftieth of the time in which the parent would read so many pickles."""

_SCALARS = {
    int,
    float,
    complex,
    bool,
    type(None),
    str,
    bytes,
}  # what does not change after its record was made

SKIPPED = 8
"""After values that were too large to fit in, so many are not pickled to see whether they do."""

HEAD_WORDS = 4
_NUMBER, _FIRST, _USED, _MODE = range(HEAD_WORDS)
_RUNS, _ONE_BY_ONE, _REPORTS = range(3)
_RECORD = struct.Struct("<II")
_RECORD_BYTES = _RECORD.size
_record_head = _RECORD.pack
_SLACK = 64  # kept for records that leave values out


class Journal:
    """The worker's side: see `parallelkit._work.Journal`.

    Args:
        words, at: the memory as words, and where the head is among them.
        room: the memory of the records.
    """

    def __init__(self, words: memoryview[int], at: int, room: memoryview):
        self._words = words
        self._at = at
        self._used_at = at + _USED
        self._room = room
        self._most = len(room) - _SLACK
        self._enough = self._most // 2
        self._used = 0
        self._first = self._kept = self._records = 0
        self._work: int | None = None
        self._mode = _RUNS
        self._plain = True
        self._skip = 0  # so many are too large, as it seems
        self._large: list[pickle.PickleBuffer] = []
        self._set_aside = partial(_set_aside, self._large)
        self.incomplete = False

    def begin(self, number: int, first: int, work: int) -> None:
        """From now on, what is added is of this chunk, whose first item is number `first`, of this work."""
        self.one_by_one(False)  # until somebody says so: not everyone keeps a journal
        self.forget(first)
        self._words[self._at + _NUMBER] = number
        if work != self._work:
            self._work = work
            self._plain = True
            self._skip = 0

    def one_by_one(self, exact: bool) -> None:
        self._words[self._at + _MODE] = self._mode = _ONE_BY_ONE if exact else _RUNS

    def between_items(self) -> None:
        if self._mode == _ONE_BY_ONE:
            self._words[self._at + _MODE] = _REPORTS

    def add(self, values: list[Any] | dict[int, Any]) -> bool:
        if not self._plain and self._mode == _RUNS:
            return self.leave_out(values)  # they have to be pickled once more, and take no time otherwise
        if self._skip:
            self._skip -= 1
            self.leave_out(values)
            return False
        large = self._large
        try:
            pickled = pickle.dumps(values, 5, buffer_callback=self._set_aside)
        except BaseException:  # the report will say so, or send it by value
            large.clear()
            return self.leave_out(values)
        if large:  # they do not fit in here, and the report has a better way for them
            large.clear()
            self.leave_out(values)
            return False
        length = len(pickled)
        used = self._used + _RECORD_BYTES + length
        if used > self._most:
            self._skip = SKIPPED
            self.leave_out(values)
            return False
        items = len(values) if type(values) is list else 0
        self._kept += items
        self._records += 1
        self._room[self._used : used] = _record_head(length, items) + pickled
        self._words[self._used_at] = self._used = used
        return used < self._enough

    def leave_out(self, values: list[Any] | dict[int, Any]) -> bool:
        self.incomplete = True
        used = self._used + _RECORD_BYTES
        if type(values) is list and used <= len(self._room):
            self._room[self._used : used] = _record_head(0, len(values))
            self._words[self._used_at] = self._used = used
        return used < self._most

    def forget(self, first: int) -> None:
        """All that was added has been reported; what is added next begins with item `first`."""
        self._words[self._used_at] = self._used = 0
        self._words[self._at + _FIRST] = self._first = first
        self._kept = self._records = 0
        self.incomplete = False
        self._words[self._at + _MODE] = self._mode

    def report_of(self, start: int, values: list[Any]) -> bytes | None:
        """The records, if they are all values of these items and can be read in any process as they are.

        None too where it is quicker to pickle the values once more, and makes no difference.
        """
        if self.incomplete or self._first != start or self._kept != len(values) or not self._kept:
            return None
        if 1 < self._records > self._used / SMALL_BYTES and _SCALARS.issuperset(map(type, values)):
            return None
        written = bytes(self._room[: self._used])
        self._plain = is_plain(written)
        return written if self._plain else None


class Ended(NamedTuple):
    """What the journal of a dead worker tells.

    Attributes:
        number: of the chunk.
        values: by index; an item that broke on unpickling has the exception in `failures`.
        begun: index of the first item that it had not begun; None where that is not known better than by the
            claim, since it ran several in one go.
    """

    number: int
    values: dict[int, Any]
    failures: dict[int, BaseException]
    begun: int | None


def read_journal(words: memoryview[int], at: int, room: memoryview) -> Ended:
    """Read the journal of a worker that is dead."""
    number, index, used, mode = words[at : at + HEAD_WORDS]
    values: dict[int, Any] = {}
    failures: dict[int, BaseException] = {}
    for items, record in split(memoryview(bytes(room[:used]))):
        pickled = bytes(record)
        if pickled and not has_handles(pickled):
            found, broken = load_values(pickled, items)
            values.update(found if isinstance(found, dict) else enumerate(found, index))
            failures.update((index + offset, error) for offset, error in broken.items())
        index += items
    for broken_index in failures:
        del values[broken_index]
    # One whose record is not there may have been under way; between two items none was.
    begun = None if mode == _RUNS else index if mode == _REPORTS else index + 1
    return Ended(number, values, failures, begun)


def _set_aside(large: list[pickle.PickleBuffer], buffer: pickle.PickleBuffer) -> bool:
    """Take a large buffer out of a pickle; whether it stays there."""
    with memoryview(buffer) as memory:
        if memory.nbytes < LEAST_BYTES:
            return True
    large.append(buffer)
    return False


def load_values(
    pickled: bytes | memoryview, items: int, buffers: Sequence[Any] = ()
) -> tuple[Any, dict[int, BaseException]]:
    """The values in the pickle of a list; the offsets of those that broke on unpickling, and why."""
    try:
        return pickle.loads(pickled, buffers=buffers), {}
    except BaseException as error:
        try:
            values, broken = salvage(bytes(pickled), buffers)
        except SerializationError:
            values, broken = [None] * items, {}
        return values, {**broken} or dict.fromkeys(range(len(values)), error)


def split(written: memoryview) -> Iterator[tuple[int, memoryview]]:
    """The records: how many items, and the pickle."""
    at = 0
    while at < len(written):
        length, items = _RECORD.unpack_from(written, at)
        begin = at + _RECORD_BYTES
        at = begin + length
        yield items, written[begin:at]
