"""How things of `__main__` travel: by value, and how the far side makes room for them.

A worker does not run the user's script, so nothing of `__main__` can be imported
there. What is pickled here becomes a *shipment* of three parts, which the far side
takes in this order:

1. the code: every function, class and module that is a global of `__main__` and
   can be reached, in one stream of pickles that share one memo;
2. the data: every other global of `__main__` that these functions name (and the
   plain attributes of these classes), each in a pickle of its own;
3. the thing itself. It, and the data, mention functions and classes of
   `__main__` by name only, so each of them exists once on the far side.

A function never carries the values of its globals, only asks for their names to be
shipped. So cycles need no care, and the bytes of a global do not depend on the
way it was reached. The latter is what makes refreshing sound: the worker remembers
the fingerprint of what it got for each name, and leaves the name alone as long as
the same bytes come. What an initializer assigned or a task put in a cache stays,
until the parent's own value changes.

Only the parent may do this to its worker: every shipment carries the process id of
its sender. Anything that comes from elsewhere (a result from a worker, above all)
adds names that are missing and changes nothing that is there.

Not known here: which worker has seen what. Every shipment is complete.
"""

from __future__ import annotations

import copyreg
import functools
import io
import os
import pickle
import sys
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any

import cloudpickle
from cloudpickle import cloudpickle as _internals

from .arrivals import (
    MAIN,
    MAIN_NAMES,
    Stuck,
    fill_class,
    fill_function,
    main_class,
    main_global,
    main_namespace,
    make_class,
    received_names,
    unpack,
)
from .pickling import Buffers, dumps_by_reference


def dumps_by_value(obj: object, to_parent: bool = False, buffers: Buffers | None = None) -> bytes:
    """Pickle `obj` with all it needs of `__main__`; raises what pickling it raises.

    With `to_parent`, names that this process got from its parent are not shipped back.
    """
    return _Shipment(leave_out_received=to_parent).pack(obj, buffers)


class _Parcel:
    """What is on the wire: pickles as a call of `unpack`."""

    def __init__(self, *parts: object):
        self.parts = parts

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[object, ...]]:
        return unpack, self.parts


class _Shipment:
    """Collects, over one `dumps`, the globals of `__main__` that have to travel along."""

    def __init__(self, leave_out_received: bool):
        self.namespace = main_namespace()
        self.code: list[str] = []
        self.data: dict[tuple[str, str], bytes | Stuck] = {}
        self._visited = received_names() if leave_out_received else set()
        self._open_code_stream()

    def pack(self, obj: object, buffers: Buffers | None) -> bytes:
        kept: list[pickle.PickleBuffer] = []  # they travel as parts of the parcel
        payload, wanted = self._pickle_by_value(obj, None if buffers is None else kept.append)
        self._visit(wanted)
        if not self.code and not self.data and not kept:
            return payload
        parcel = _Parcel(os.getpid(), tuple(self.code), self._code_file.getvalue(), self.data, payload, kept)
        return pickle.dumps(parcel, 5, buffer_callback=buffers)

    def _visit(self, wanted: _Wanted) -> None:
        # Depth first, and what a value needs goes in before the value: rebuilding it may run
        # code that uses the other (a `__hash__` with a global salt, say).
        for name in wanted.names:
            if name not in self._visited:
                self._visited.add(name)
                self._ship_global(name, self.namespace[name])
        for (owner, name), value in wanted.attributes.items():
            self._ship_data((owner, name), value)

    def _ship_global(self, name: str, value: object) -> None:
        if isinstance(value, (types.FunctionType, type, types.ModuleType)):
            self._ship_code(name, value)
        else:
            self._ship_data((MAIN, name), value)

    def _ship_data(self, key: tuple[str, str], value: object) -> None:
        try:
            pickled, wanted = self._pickle(value)
        except Exception as exc:
            self.data[key] = Stuck.of(exc)
            return
        self._visit(wanted)
        self.data[key] = pickled

    def _ship_code(self, name: str, value: object) -> None:
        try:
            self._code_pickler.dump((name, value))
        except Exception as exc:
            self.data[MAIN, name] = Stuck.of(exc)
            self._restart_code_stream()
            return
        self.code.append(name)
        self._visit(self._code_pickler.take_wanted())

    def _open_code_stream(self) -> None:
        self._code_file = io.BytesIO()
        self._code_pickler = ByValuePickler(self._code_file, self.namespace, defines_main=True)

    def _restart_code_stream(self) -> None:
        # A dump that failed midway leaves its memo with things that were never written.
        self._open_code_stream()
        for name in self.code:
            self._code_pickler.dump((name, self.namespace[name]))
        self._code_pickler.take_wanted()

    def _pickle(self, obj: object) -> tuple[bytes, _Wanted]:
        plain = dumps_by_reference(obj)
        return self._pickle_by_value(obj) if plain is None else (plain, _Wanted())

    def _pickle_by_value(
        self, obj: object, keep: Callable[[pickle.PickleBuffer], object] | None = None
    ) -> tuple[bytes, _Wanted]:
        file = io.BytesIO()
        pickler = ByValuePickler(file, self.namespace, defines_main=False, keep=keep)
        pickler.dump(obj)
        return file.getvalue(), pickler.take_wanted()


class _Wanted:
    """What one pickle asks to be shipped with it, in the order in which it was met."""

    def __init__(self) -> None:
        self.names: dict[str, None] = {}
        self.attributes: dict[tuple[str, str], object] = {}


class ByValuePickler(cloudpickle.Pickler):  # type: ignore[misc] # cloudpickle has no types
    """cloudpickle, with the globals of `__main__` kept together.

    With `defines_main` it writes out functions and classes that are globals of
    `__main__`; without, it mentions them by name. Either way it notes the names.
    """

    def __init__(
        self,
        file: io.BytesIO,
        namespace: dict[str, Any],
        defines_main: bool,
        keep: Callable[[pickle.PickleBuffer], object] | None = None,
    ):
        # One exact dict: the C pickler looks it up without a Python call, unlike cloudpickle's ChainMap.
        self.dispatch_table = {
            **_multiprocessing_reducers(),
            **copyreg.dispatch_table,
            **cloudpickle.Pickler._dispatch_table,
            **_NAMED_REDUCERS,
        }
        super().__init__(file, protocol=5, buffer_callback=keep)
        self._namespace = namespace
        self._defines_main = defines_main
        self._wanted = _Wanted()

    def take_wanted(self) -> _Wanted:
        wanted, self._wanted = self._wanted, _Wanted()
        return wanted

    def reducer_override(self, obj: Any) -> Any:
        if issubclass(type(obj), type):  # not isinstance: a Mock(spec=type) says it is one
            return self._reduce_class(obj)
        return super().reducer_override(obj)

    def _function_reduce(self, func: types.FunctionType) -> Any:
        if func.__module__ == "__mp_main__":  # cloudpickle takes it for importable
            return self._dynamic_function_reduce(func)
        return super()._function_reduce(func)

    def _dynamic_function_reduce(self, func: types.FunctionType) -> Any:
        if func.__globals__ is not self._namespace:
            return super()._dynamic_function_reduce(func)
        if self._mentions(func.__name__, func):
            return main_global, (func.__name__,)
        make, arguments, (attributes, slots), *_ = super()._dynamic_function_reduce(func)
        self._wanted.names.update(dict.fromkeys(slots["__globals__"]))
        if self._namespace.get("__package__"):  # a relative import inside the function needs it
            self._wanted.names["__package__"] = None
        slots["__globals__"] = {}
        code, _globals, *rest = arguments
        return make, (code, _MAIN_NAMESPACE, *rest), (attributes, slots), None, None, fill_function

    def _mentions(self, name: str, obj: object) -> bool:
        """Whether `obj` is the global `name` and goes by that name here; asks for it if so."""
        if self._defines_main or self._namespace.get(name) is not obj:
            return False
        self._wanted.names[name] = None
        return True

    def _reduce_class(self, cls: type) -> Any:
        of_main = cls.__module__ in MAIN_NAMES
        if of_main and self._mentions(cls.__qualname__, cls):
            return main_class, (cls.__qualname__, _internals._get_or_create_tracker_id(cls))
        if cls.__module__ == "__mp_main__":
            reduced = _internals._dynamic_class_reduce(cls)
        else:
            reduced = super().reducer_override(cls)
        if reduced is NotImplemented or len(reduced) != 6:
            return reduced
        make, arguments, (attributes, slots), _, _, setstate = reduced
        if make is _internals._make_skeleton_class:
            arguments = _with_slots(cls, arguments)
        tracker = _internals._get_or_create_tracker_id(cls)
        if (
            of_main
            and self._namespace.get(cls.__qualname__) is cls
            and make is _internals._make_skeleton_class
        ):
            attributes, data = _split_attributes(attributes)
            self._wanted.attributes.update({(tracker, name): value for name, value in data.items()})
        state = os.getpid(), setstate, (attributes, slots)
        return make_class, (tracker, make, arguments), state, None, None, fill_class


def _with_slots(cls: type, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    """What a class is made anew from: its slots, too, which cloudpickle leaves out."""
    kind, name, bases, namespace, *rest = arguments
    if "__slots__" in vars(cls):
        namespace = {**namespace, "__slots__": vars(cls)["__slots__"]}
    return (kind, name, bases, namespace, *rest)


def _split_attributes(attributes: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Split the attributes of a class in (what defines it, plain data that workers may assign)."""
    data = {
        name: value
        for name, value in attributes.items()
        if not (name.startswith("__") and name.endswith("__"))
        and name != "_abc_impl"
        and not isinstance(value, type)
        and not hasattr(type(value), "__get__")
    }
    return {name: value for name, value in attributes.items() if name not in data}, data


class _MainNamespace:
    """In a pickle, stands for the far side's `vars(__main__)`."""

    def __reduce__(self) -> tuple[Callable[[], dict[str, Any]], tuple[()]]:
        return main_namespace, ()


_MAIN_NAMESPACE = _MainNamespace()


def _multiprocessing_reducers() -> Mapping[type, Any]:
    # With these, locks and connections travel while multiprocessing is starting a process.
    reduction = sys.modules.get("multiprocessing.reduction")
    return {} if reduction is None else reduction.ForkingPickler._extra_reducers


# Objects that pickle would mention as a global of `__main__`, and cloudpickle does not know.


def _reduce_cached_function(cached: Any) -> Any:
    if _is_importable(cached):
        return cached.__reduce__()
    settings = cached.cache_parameters()
    return _cached_function, (cached.__wrapped__, settings["maxsize"], settings["typed"])


def _cached_function(function: Callable[..., Any], maxsize: int | None, typed: bool) -> Any:
    return functools.lru_cache(maxsize, typed)(function)


def _reduce_new_type(new_type: Any) -> Any:
    if _is_importable(new_type):
        return new_type.__reduce__()
    return typing.NewType, (new_type.__qualname__, new_type.__supertype__)


def _reduce_type_alias(alias: Any) -> Any:
    if _is_importable(alias):
        return alias.__reduce__()
    return _type_alias, (alias.__name__, alias.__value__, alias.__type_params__)


def _type_alias(name: str, value: object, type_params: tuple[Any, ...]) -> Any:
    return vars(typing)["TypeAliasType"](name, value, type_params=type_params)  # not on 3.11


def _is_importable(obj: Any) -> bool:
    module_name = getattr(obj, "__module__", None)
    if module_name is None or module_name in MAIN_NAMES or module_name not in sys.modules:
        return False
    module = sys.modules[module_name]
    try:
        return functools.reduce(getattr, getattr(obj, "__qualname__", obj.__name__).split("."), module) is obj
    except AttributeError:
        return False


def _reduce_code(code: types.CodeType) -> Any:
    """As cloudpickle, which leaves out the name of the file: a traceback in the worker shows the source."""
    make, arguments = _internals._code_reduce(code)
    named = [*arguments]
    named[_FILE_NAME] = "".join(code.co_filename)  # a new object: one that is shared changes the pickle
    return make, tuple(named)


_FILE_NAME = 10  # among the arguments of types.CodeType, from 3.11 on

_NAMED_REDUCERS: dict[type, Callable[[Any], Any]] = {
    types.CodeType: _reduce_code,
    functools._lru_cache_wrapper: _reduce_cached_function,
    typing.NewType: _reduce_new_type,
}
if sys.version_info >= (3, 12):
    _NAMED_REDUCERS[typing.TypeAliasType] = _reduce_type_alias
