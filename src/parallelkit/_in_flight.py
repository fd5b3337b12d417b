"""What is in flight in an executor: whose each chunk is, which worker has it, who carries it just now."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Mapping
from threading import get_ident

from ._alarm import Alarm
from ._call import Call
from ._core.scheduler import Flight

__all__ = ["InFlight"]


class InFlight:
    """The chunks in flight, of all calls, by number.

    Attributes:
        alarms: those of flights whose items have a time limit; they are cancelled when the flight lands.
    """

    def __init__(self) -> None:
        self._flights: dict[int, tuple[Call, Hashable]] = {}
        self._carriers: dict[int, int] = {}  # in which threads
        self.alarms: dict[int, Alarm] = {}

    def __contains__(self, chunk_id: object) -> bool:
        return chunk_id in self._flights

    def __iter__(self) -> Iterator[tuple[int, Call]]:
        """Numbers, with the calls they are of."""
        return ((chunk_id, call) for chunk_id, (call, _) in self._flights.items())

    def add(self, chunk_id: int, call: Call, worker: Hashable) -> None:
        self._flights[chunk_id] = call, worker

    def find(self, chunk_id: int) -> tuple[Call, Hashable] | tuple[None, None]:
        """The call of a chunk, and its worker; None where it is not in flight any more."""
        return self._flights.get(chunk_id, (None, None))

    def of_worker(self, worker: Hashable) -> list[tuple[int, Call]]:
        """What a worker has, in the order in which it got it."""
        return [(chunk_id, call) for chunk_id, (call, its) in self._flights.items() if its == worker]

    def remove(self, chunk_id: int) -> None:
        del self._flights[chunk_id]
        if self.alarms and (alarm := self.alarms.pop(chunk_id, None)) is not None:
            alarm.cancel()

    def note(self, chunk_id: int, failures: Mapping[int, Exception]) -> set[int]:
        """Have its call note errors of items; which are final."""
        call, _ = self.find(chunk_id)
        return set() if call is None else call.note_all(chunk_id, failures)

    # On their way to a worker

    def begin_to_carry(self, flight: Flight) -> None:
        """This thread hands it to the backend, which may run or refuse it at once."""
        self._carriers[flight.chunk_id] = get_ident()

    def end_to_carry(self, flight: Flight) -> None:
        self._carriers.pop(flight.chunk_id, None)

    def is_carried_here(self, chunk_id: int) -> bool:
        """Whether the calling thread is in the middle of carrying it."""
        return self._carriers.get(chunk_id) == get_ident()

    def have_landed(self, steps: Iterable[tuple[Call, Flight]]) -> bool:
        """Whether some of these, which were carried just now, have landed already."""
        return any(flight.chunk_id not in self._flights for _, flight in steps)
