"""What a worker answers, as the parent reads it: outcomes whose pickles may be broken in part."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .._core.outcome import Outcomes
from .._work import as_item_error
from ..errors import SerializationError
from .exceptions import unpack_exception
from .frames import RECORDS, UNRETRIABLE, Frame
from .journal import load_values, split
from .pickling import loads
from .placing import whole

__all__ = ["all_failed", "read_failures", "read_outcomes", "result_failed"]


def read_outcomes(frame: Frame, buffers: Sequence[Any] = ()) -> Outcomes:
    """The outcomes in a frame of the kind SETTLED; what cannot be rebuilt is a failure of its item.

    Args:
        buffers: those of its places.
    """
    failures = read_failures(frame) if frame.extra else {}
    values: list[Any] = []
    body, buffers = whole(frame.body, buffers)
    body = memoryview(body)
    for items, pickled in split(body) if frame.flags & RECORDS else [(frame.second - frame.first, body)]:
        found, broken = load_values(pickled, items, buffers)
        for offset, cause in broken.items():
            failures.setdefault(frame.first + len(values) + offset, result_failed(cause))
        if values:
            values += found
        else:
            values = found
    return Outcomes(frame.first, frame.second, values, failures, not frame.flags & UNRETRIABLE)


def all_failed(frame: Frame, error: Exception) -> Outcomes:
    """The outcomes in a frame of the kind SETTLED whose values cannot be had."""
    items = range(frame.first, frame.second)
    failures = dict.fromkeys(items, error) | (read_failures(frame) if frame.extra else {})
    return Outcomes(frame.first, frame.second, [None] * len(items), failures, not frame.flags & UNRETRIABLE)


def read_failures(frame: Frame) -> dict[int, Exception]:
    """The exceptions in a frame, by the index of their item."""
    return {index: unpack_exception(packed) for index, packed in loads(frame.extra)}


def result_failed(cause: BaseException) -> SerializationError:
    """The error of an item whose result could not be rebuilt."""
    cause = as_item_error(cause)
    error = SerializationError(
        f"the result could not be rebuilt in this process: {type(cause).__name__}: {cause}"
    )
    error.__cause__ = cause
    return error
