"""Pickling what is sent again and again: items to a worker, results to the parent."""

from __future__ import annotations

from .heritage import Heritage
from .pickling import dumps, dumps_in_pieces
from .placing import OutOfBand

__all__ = ["Outgoing"]


class Outgoing:
    """Pickles messages of one kind.

    What was large the last time may be so again: then it is pickled in pieces, so as not to be copied twice.

    Args:
        to_parent, heritage: as for `dumps`.
    """

    def __init__(self, to_parent: bool, heritage: Heritage | None) -> None:
        self._to_parent = to_parent
        self._heritage = heritage
        self._was_large = False

    def dumps(self, obj: object, buffers: OutOfBand | None) -> bytes:
        """What is to be sent through the pipe: nothing, where all of it has gone to `buffers`.

        Raises what pickling it raises.
        """
        if buffers is None:
            return dumps(obj, self._to_parent, self._heritage)
        try:
            if self._was_large:
                pieces = dumps_in_pieces(obj, self._to_parent, self._heritage, buffers)
            else:
                pieces = [dumps(obj, self._to_parent, self._heritage, buffers)]
        except BaseException:
            buffers.undo()
            raise
        rest = buffers.rest(*pieces)
        self._was_large = not rest
        return rest
