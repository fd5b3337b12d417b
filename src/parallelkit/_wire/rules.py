"""Which records of logging, and which warnings, workers let through: those that their parent would.

The levels of the parent's loggers and its filters of warnings go to each worker when that is started, and
before its next chunk whenever they have changed. In a worker something is set anew only where the parent has
changed it; what an initializer has set stays.

What modules set up when they are imported is another matter. A worker imports them later than its parent did,
perhaps after the parent has changed what they had set. So what an import does here is undone.
"""

from __future__ import annotations

import builtins
import logging
import pickle
import re
import sys
import warnings
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, TypeVar

from .pickling import is_immutable

__all__ = ["Rules", "all_handlers", "let_go", "loggers", "rules"]

T = TypeVar("T")
V = TypeVar("V")

let_go: list[Any] = []
"""Handlers that a worker does without, kept: one that is freed may flush what is not its own, or warn."""

all_handlers: Any = getattr(logging, "_handlerList", [])  # weak references to them
_warnings: Any = warnings  # its type says that nobody changes the filters

# ---------------------------------------------------------------- in the parent


class _Look(NamedTuple):
    mark: object
    filters: list[Any]  # of warnings: the list itself; `catch_warnings` puts another one in its place
    entries: list[Any]  # what was in it
    disabled: list[logging.Logger]
    packed: bytes


_last: _Look | None = None
_MARK = object()
_NOTHING: dict[object, object] = {}


def rules() -> bytes:
    """The rules as they are now; the same object as long as nothing has changed, which is quickly seen.

    Loggers keep the answers to `isEnabledFor`, and forget them when any level is set. So a mark that is kept
    there is gone when one was. `Logger.disabled` is plainly assigned: that a logger is disabled is noticed
    with the next change, and harms nobody, since the parent asks it again; that one is not any more, at once.
    """
    look = _last
    if (
        look is not None
        and getattr(logging.root, "_cache", _NOTHING).get(_MARK) is look.mark
        and warnings.filters is look.filters
        and look.filters == look.entries
        and not (look.disabled and not all(logger.disabled for logger in look.disabled))
    ):
        return look.packed
    return _look_again()


def _look_again() -> bytes:
    global _last
    mark = object()
    getattr(logging.root, "_cache", {})[_MARK] = mark  # first: a level may be set while this looks
    filters = _warnings.filters
    entries = filters[:]
    known = dict(loggers())
    levels = {name: int(logger.level) for name, logger in known.items() if logger.level or name == "root"}
    # Those of another class are not to be made by us: theirs may not be imported yet.
    plain = [name for name in levels if type(known[name]) is logging.Logger]
    disabled = {name: logger for name, logger in known.items() if logger.disabled}
    in_words = [entry for entry in map(_in_plain_words, entries) if entry is not None]
    packed = pickle.dumps((levels, plain, list(disabled), int(logging.root.manager.disable), in_words), 5)
    last = _last
    if last is not None and last.packed == packed and last.filters is filters:
        packed = last.packed
    _last = _Look(mark, filters, entries, list(disabled.values()), packed)
    return packed


def loggers() -> Iterable[tuple[str, logging.Logger]]:
    """All loggers there are, by name."""
    yield "root", logging.root
    for name, logger in list(logging.root.manager.loggerDict.items()):
        if isinstance(logger, logging.Logger) and type(name) is str:
            yield name, logger


def _in_plain_words(entry: Any) -> tuple[Any, ...] | None:
    """A filter of warnings in words that need no module; None where it is of an unknown kind."""
    try:
        action, message, category, module, line = entry
        name = category.__module__, category.__qualname__
        words = action, _in_words(message), name, _in_words(module), line
    except Exception:
        return None
    return words if is_immutable(words) else None


def _in_words(pattern: Any) -> Any:
    return (pattern.pattern, pattern.flags) if isinstance(pattern, re.Pattern) else pattern


# ---------------------------------------------------------------- in a worker


class Rules:
    """The parent's rules, as a worker obeys them.

    Attributes:
        filters: the filters of warnings that came from the parent.
    """

    def __init__(self, packed: bytes):
        self.filters = _warnings.filters[:]
        self._levels: dict[str, int] = {}
        self._disabled: set[str] = set()
        self._disable = logging.root.manager.disable
        self._ruled: list[logging.Logger] = []
        self._strict = False
        logging.root.manager.loggerDict = _Loggers(logging.root.manager.loggerDict, self)
        self.obey(packed)

    def obey(self, packed: bytes) -> None:
        """From now on, these are the rules."""
        levels, plain, names, disable, filters = pickle.loads(packed)
        old, self._levels = self._levels, levels
        disabled = set(names)
        differs = self._disabled ^ disabled
        self._disabled = disabled
        for name in plain:
            logging.getLogger(name)  # for the loggers below it
        self._ruled = []
        for name, logger in loggers():
            if name in levels:
                self._ruled.append(logger)
            if old.get(name) != levels.get(name):
                logger.setLevel(levels.get(name, logging.NOTSET))
            if name in differs:
                logger.disabled = name in disabled
        if disable != self._disable:
            self._disable = disable
            logging.disable(disable)
        own = [entry for entry in _warnings.filters if entry not in self.filters]
        self.filters = [entry for entry in map(_entry, filters) if entry is not None]
        self._strict = any(entry[0] == "error" for entry in self.filters)
        warnings.resetwarnings()  # says that they change: what was shown may be shown once more
        _warnings.filters[:] = own + self.filters

    def begin(self, name: str, logger: object) -> None:
        """A logger has come to be."""
        if isinstance(logger, logging.Logger):
            if name in self._levels:
                self._ruled.append(logger)
                logger.setLevel(self._levels[name])
            if name in self._disabled:
                logger.disabled = True

    def arrive(self, function: Callable[[V], T], argument: V) -> T:
        """Call what may import modules because something has come from the parent.

        A warning that would be an error is none meanwhile: the parent's loop would not have had it.
        """
        filters, show = _warnings.filters, warnings.showwarning
        entries, modules, handlers = filters[:], len(sys.modules), len(all_handlers)
        levels = [logger.level for logger in self._ruled]  # few have one
        if self._strict:
            filters[:] = [("ignore", *entry[1:]) if entry[0] == "error" else entry for entry in entries]
        try:
            return function(argument)
        finally:
            if self._strict or len(sys.modules) != modules:
                filters[:] = entries
                self._undo(handlers, levels)
                if warnings.showwarning is not show:
                    logging.captureWarnings(False)
                    warnings.showwarning = show

    def _undo(self, handlers: int, levels: list[int]) -> None:
        """After imports: there were so many handlers, and the loggers that have rules had these levels."""
        if len(all_handlers) > handlers:
            _drop([reference() for reference in all_handlers[handlers:]])
        for logger, level in zip(self._ruled, levels, strict=False):
            if logger.level != level:
                logger.setLevel(level)
        for logger in self._ruled[len(levels) :]:
            logger.setLevel(self._levels[logger.name])

    def decided(self, text: str, category: type[Warning], module: str | None, line: int) -> bool:
        """Whether it was a filter of the parent's that let this warning through."""
        for entry in _warnings.filters:
            _, message, kind, where, number = entry
            if (
                _matches(message, text)
                and issubclass(category, kind)
                and _matches(where, module or "")
                and number in (0, line)
            ):
                return entry in self.filters
        return True


class _Loggers(dict[str, Any]):
    """The loggers by name. One that comes to be has the level that the rules give it."""

    def __init__(self, loggers: dict[str, Any], rules: Rules):
        super().__init__(loggers)
        self._rules = rules

    def __setitem__(self, name: str, logger: Any) -> None:
        super().__setitem__(name, logger)
        self._rules.begin(name, logger)


def _drop(handlers: list[Any]) -> None:
    let_go.extend(handlers)
    dropped = {id(handler) for handler in handlers}
    for _, logger in loggers():
        if logger.handlers:
            logger.handlers = [handler for handler in logger.handlers if id(handler) not in dropped]


def _entry(words: tuple[Any, ...]) -> tuple[Any, ...] | None:
    action, message, name, module, line = words
    try:
        return action, _pattern(message), _category(*name), _pattern(module), line
    except Exception:  # another make of `re`
        return None


def _pattern(words: Any) -> Any:
    return re.compile(*words) if isinstance(words, tuple) else words


def _category(module: str, name: str) -> type:
    found: Any = builtins if module == "builtins" else sys.modules.get(module)
    for part in name.split("."):
        found = getattr(found, part, None)
    return found if isinstance(found, type) else _Named(name, (), {"__module__": module})


class _Named(type):
    """A class of warnings by its name. To import its module might take longer than all the work."""

    def __subclasscheck__(cls, other: type) -> bool:
        # Not by its qualified name, which one that has travelled by value has lost.
        name = cls.__name__.rpartition(".")[2]
        return any((kind.__module__, kind.__name__) == (cls.__module__, name) for kind in other.__mro__)


def _matches(pattern: Any, text: str) -> bool:
    if pattern is None:
        return True
    return text == pattern if isinstance(pattern, str) else pattern.match(text) is not None
