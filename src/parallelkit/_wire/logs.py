"""What is logged in a worker, and what it warns of, comes out in the parent.

In the worker, a handler above the root logger sends each record through the pipe of the answers, at once. So
it is there before the outcome of its item, in the order of the worker, and also if the worker dies right
after. In the parent, the thread that reads answers hands it to the logger of the same name, as if it had been
logged there: the parent's levels, filters and handlers have their say. Warnings go the same way.

Handlers that a forked worker has inherited would write everything a second time, so it lets go of them. What
the worker's own code sets up counts: with a handler of its own at the root, its records are its own affair.
"""

from __future__ import annotations

import logging
import os
import pickle
import sys
import threading
import traceback
import warnings
from contextvars import copy_context
from itertools import count
from typing import Any, TextIO

from .._place import current_item, enter_item
from .._worker import enter_worker
from .frames import MORE, PIECE_BYTES, Frame, Kind, SharedWriter
from .pickling import dumps, is_immutable, loads
from .rules import Rules, all_handlers, let_go, loggers

__all__ = ["Hearing", "tell_parent"]

MOST_SHOWN = 1000
"""Characters of the `repr()` that stands for what cannot travel."""

_RECORD, _WARNING = "record", "warning"
_formatter = logging.Formatter()
_to_stderr = logging.lastResort
_configure = logging.basicConfig


# ---------------------------------------------------------------- in a worker


def tell_parent(writer: SharedWriter, worker: int, packed: bytes) -> Rules:
    """From now on, tell the parent what is logged in this process, and what it warns of, as its rules say."""
    _let_go()
    rules = Rules(packed)
    teller = _Teller(writer, worker, rules)
    above = logging.Logger("above the root")  # noqa: LOG001 - nobody is to find it by its name
    above.addHandler(_AtRoot(teller))
    logging.root.parent = above
    # For loggers that do not propagate: what they had for handlers, the parent has.
    logging.lastResort = _Handler(teller)
    logging.basicConfig = _configure_if_asked
    warnings.showwarning = teller.warn
    return rules


def _let_go() -> None:
    """Do without the handlers that a fork has brought along, but touch none of them, nor free it."""
    logging.captureWarnings(False)
    let_go.extend([reference() for reference in all_handlers])
    all_handlers.clear()  # what is to be flushed and closed at the end
    for _, logger in loggers():
        let_go.append((logger.handlers, logger.filters))
        logger.handlers, logger.filters = [], []


def _configure_if_asked(**options: Any) -> None:
    """What `logging.basicConfig` is in a worker: `logging.info` and its like call it without a wish."""
    if options:
        _configure(**options)


class _Teller:
    """Packs what is to be told, and writes it."""

    def __init__(self, writer: SharedWriter, worker: int, rules: Rules):
        self._writer = writer
        self._worker = worker
        self._rules = rules
        self._numbers = count()
        self._pid = os.getpid()
        self._show = getattr(warnings, "_showwarning_orig", warnings.showwarning)

    def is_elsewhere(self) -> bool:
        """Whether an item has forked, and this is the child, which must not write to the pipe."""
        return os.getpid() != self._pid

    def log(self, fields: dict[str, Any]) -> None:
        where = current_item(), self._worker
        fields.setdefault("item", where[0])  # an extra of the user's may have that name
        fields.setdefault("worker", where[1])
        packed = {name: _packed(value) for name, value in fields.items() if not is_immutable(value)}
        for name in packed:
            del fields[name]
        self._tell((_RECORD, where, fields, packed))

    def warn(
        self,
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        """What `warnings.showwarning` is in a worker."""
        if file is not None or self.is_elsewhere():
            self._show(message, category, filename, lineno, file, line)
            return
        module, text = _module_at(filename, lineno), str(message)
        decided = self._rules.decided(text, category, module, lineno)
        kinds = [(kind.__module__, kind.__qualname__) for kind in category.__mro__]
        where = current_item(), self._worker
        self._tell(
            (_WARNING, where, _packed(message), text, kinds, (filename, lineno, module), line, decided)
        )

    def _tell(self, told: tuple[Any, ...]) -> None:
        """Write it in pieces, each at a stroke: whatever a signal handler raises here, none is torn."""
        payload = pickle.dumps(told, 5)
        number, last = next(self._numbers), len(payload) - PIECE_BYTES
        try:
            for start in range(0, len(payload), PIECE_BYTES):
                piece = payload[start : start + PIECE_BYTES]
                self._writer.write(Frame(Kind.TOLD, MORE if start < last else 0, number=number, extra=piece))
        except OSError:
            pass  # the parent is gone


class _Handler(logging.Handler):
    """Has no lock: a record is packed by the thread that logs it, and written by one after the other."""

    def __init__(self, teller: _Teller):
        super().__init__()
        self._teller = teller

    def handle(self, record: logging.LogRecord) -> bool:
        if self._teller.is_elsewhere():
            if _to_stderr is not None and record.levelno >= _to_stderr.level:
                _to_stderr.handle(record)
            return True
        try:
            fields = _fields(record)
        except RecursionError:
            raise
        except Exception:  # its message cannot be made: said on stderr, as other handlers do
            self.handleError(record)
        else:
            self._teller.log(fields)
        return True


class _AtRoot(_Handler):
    """Where the worker's own code has given a handler to the root logger, that one is in charge."""

    def handle(self, record: logging.LogRecord) -> bool:
        if any(not isinstance(handler, logging.NullHandler) for handler in logging.root.handlers):
            return True
        return super().handle(record)


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    """What a record has, with text in the place of all that would have to be formatted."""
    fields = dict(vars(record))
    message = record.getMessage()
    fields.update(msg=message, message=message, args=None, exc_info=None)
    if record.exc_info and not record.exc_text:
        fields["exc_text"] = _formatter.formatException(record.exc_info)
    return fields


def _packed(value: object) -> bytes:
    try:
        return dumps(value, to_parent=True)
    except Exception:
        return pickle.dumps(_text(value), 5)


def _text(value: object) -> str:
    try:
        return repr(value)[:MOST_SHOWN]
    except Exception:
        return f"<{type(value).__qualname__} whose repr() raises>"


def _module_at(filename: str, line: int) -> str | None:
    """The name of the module that is at this line: one of those that wait for this function to return."""
    frame = sys._getframe(1)
    while frame is not None:
        if frame.f_lineno == line and frame.f_code.co_filename == filename:
            name = frame.f_globals.get("__name__")
            return name if isinstance(name, str) else None
        frame = frame.f_back  # type: ignore[assignment]
    return None


# ---------------------------------------------------------------- in the parent


class Hearing:
    """Takes in what one worker tells."""

    def __init__(self) -> None:
        self._pieces: dict[int, list[bytes]] = {}

    def take(self, frame: Frame) -> None:
        """Log it, or warn. Nothing that this runs harms the thread that reads answers."""
        if frame.flags & MORE:
            self._pieces.setdefault(frame.number, []).append(frame.extra)
            return
        payload = b"".join([*self._pieces.pop(frame.number, []), frame.extra])
        try:
            copy_context().run(_come_out, *loads(payload))
        except BaseException as error:
            # Ctrl-C, and what else a signal handler may raise, is for the thread that has been interrupted.
            if not isinstance(error, Exception) and threading.current_thread() is threading.main_thread():
                raise
            _complain()


def _come_out(kind: str, where: tuple[int | None, int], *rest: Any) -> None:
    # What is done about it is done for the item that it comes from.
    enter_item(where[0])
    enter_worker(where[1])
    if kind == _RECORD:
        _log(*rest)
    else:
        _warn(*rest)


def _log(fields: dict[str, Any], packed: dict[str, bytes]) -> None:
    for name, value in packed.items():
        fields[name] = _loaded(value)
    if fields["levelname"] == f"Level {fields['levelno']}":  # the parent may have a name for it
        fields["levelname"] = logging.getLevelName(fields["levelno"])
    record = logging.makeLogRecord(fields)
    logger = logging.getLogger(record.name)
    if logger.isEnabledFor(record.levelno):
        logger.handle(record)


def _warn(
    packed: bytes,
    text: str,
    kinds: list[tuple[str, str]],
    place: tuple[str, int, str | None],
    line: str | None,
    decided: bool,
) -> None:
    message = _loaded(packed)
    if not isinstance(message, Warning):
        message = _stand_in(kinds, text)
    category = type(message)
    filename, lineno, module = place
    if module is None:
        module = filename.removesuffix(".py")  # as for any warning whose module is not known
    if decided:
        try:
            warnings.warn_explicit(message, category, filename, lineno, module, _registry(module))
            return
        except Warning as error:
            if error is not message:
                raise
            # An error here, and was none there: the filters have just changed. The item is past it.
    warnings.showwarning(message, category, filename, lineno, None, line)


def _loaded(packed: bytes) -> Any:
    try:
        return loads(packed)
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        return f"<could not be rebuilt: {type(error).__name__}>"


def _stand_in(names: list[tuple[str, str]], text: str) -> Warning:
    """A warning of the class of that name; else of the nearest of its bases that can be had here."""
    for module, name in names:
        kind = getattr(sys.modules.get(module), name, None)
        if isinstance(kind, type) and issubclass(kind, Warning):
            try:
                return kind(text)
            except Exception:  # it takes other arguments
                pass
    return UserWarning(text)


_registries: dict[str, dict[Any, Any]] = {}


def _registry(module: str) -> dict[Any, Any]:
    """Where it is noted which warnings of a module were shown: where the module itself would note it."""
    found = sys.modules.get(module)
    if found is None:
        return _registries.setdefault(module, {})
    registry: dict[Any, Any] = vars(found).setdefault("__warningregistry__", {})
    return registry


def _complain() -> None:
    """As logging does where a handler raises."""
    if logging.raiseExceptions and sys.stderr is not None:
        try:
            sys.stderr.write(f"parallelkit: a record of a worker is lost\n{traceback.format_exc()}")
        except Exception:
            pass
