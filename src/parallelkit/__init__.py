"""parallelkit: parallel map and reduce on threads, processes and coroutines, with one Executor.

The names below are imported when they are first used (PEP 562): a worker process, which imports this
package too, needs a small part of it.
"""

TYPE_CHECKING = False  # what typing.TYPE_CHECKING is; importing typing takes as long as all of this file
if TYPE_CHECKING:
    from ._core.chunks import chunked
    from ._place import current_item
    from ._sharing import Shared, share
    from ._worker import current_worker
    from .cpus import cpu_count
    from .errors import (
        InitializerFailed,
        ParallelError,
        RemoteError,
        RemoteTraceback,
        SerializationError,
        TaskTimeout,
        WorkerDied,
    )
    from .executor import Executor
    from .functional import pimap, pmap, pmap_reduce, preduce
    from .pool import Pool, ThreadPool, get_context

__all__ = [
    "Executor",
    "InitializerFailed",
    "ParallelError",
    "Pool",
    "RemoteError",
    "RemoteTraceback",
    "SerializationError",
    "Shared",
    "TaskTimeout",
    "ThreadPool",
    "WorkerDied",
    "chunked",
    "cpu_count",
    "current_item",
    "current_worker",
    "get_context",
    "pimap",
    "pmap",
    "pmap_reduce",
    "preduce",
    "share",
]

_HOMES = {
    "Executor": "executor",
    "Pool": "pool",
    "Shared": "_sharing",
    "ThreadPool": "pool",
    "chunked": "_core.chunks",
    "cpu_count": "cpus",
    "current_item": "_place",
    "current_worker": "_worker",
    "get_context": "pool",
    "pimap": "functional",
    "pmap": "functional",
    "pmap_reduce": "functional",
    "preduce": "functional",
    "share": "_sharing",
}


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(f".{_HOMES.get(name, 'errors')}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
