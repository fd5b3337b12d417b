"""How worker processes are started: the context of multiprocessing, and its fork server."""

from __future__ import annotations

import multiprocessing
import os
import signal
from multiprocessing import forkserver, resource_tracker
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from multiprocessing.context import BaseContext

__all__ = ["fill_standard_streams", "prepare_start", "start_context"]

START_PIPES = 5
"""Pairs of descriptors that starting a worker takes: two pipes of ours, then, of multiprocessing, two pipes
and a socket or a file."""


def start_context(given: BaseContext | str | None) -> Any:
    """The multiprocessing context that is meant: forkserver by default, where there is one, else spawn."""
    if given is None:
        given = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
    if isinstance(given, str):
        methods = multiprocessing.get_all_start_methods()
        if given not in methods:
            known = ", ".join(map(repr, methods))
            raise ValueError(f"there is no start method {given!r} here; there are {known}")
        given = multiprocessing.get_context(given)
    if not hasattr(given, "Process"):
        raise TypeError(f"mp_context must be a multiprocessing context or the name of one, not {given!r}")
    if given.get_start_method() == "forkserver":
        _preload_worker()
    return given


def fill_standard_streams() -> None:
    """Where stdin, stdout or stderr was closed, open the null device in its place.

    Else a file of ours would get its number, and libraries that print without asking would print into that.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            opened = os.open(os.devnull, os.O_RDWR)
            if opened != number:
                os.dup2(opened, number)
                os.close(opened)
            os.set_inheritable(number, True)


def start_server() -> None:
    """Start the fork server, if it does not run, so that Ctrl-C does not end it while it boots.

    It ignores SIGINT only after its preload. What it inherits blocked, its children do: see `serve`. The
    resource tracker is started apart, because it unblocks SIGINT for itself and for the caller.
    """
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def prepare_start(server: bool) -> None:
    """See that there are enough descriptors to start a worker; and start the fork server, if one is meant.

    Where they give out half-way, multiprocessing leaves those open that it had, and a fork server that is
    called and not sent what it waits for ends.

    Raises:
        OSError: there are not enough.
    """
    pipes: list[int] = []
    try:
        for _ in range(START_PIPES):
            pipes += os.pipe()
    finally:
        for fd in pipes:
            os.close(fd)
    if server:
        start_server()


def _forget_server() -> None:
    """In a forked child: the fork server is the parent's child, of which this process can ask nothing."""
    server: Any = forkserver._forkserver
    if server._forkserver_alive_fd is not None:
        os.close(server._forkserver_alive_fd)
    preload = server._preload_modules
    server.__init__()
    server._preload_modules = preload


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_server)


def _preload_worker() -> None:
    """Have the fork server import what workers need, once, instead of the user's main module.

    The main module must not be imported there: it need not have a main guard.
    """
    server: Any = forkserver._forkserver
    modules = [name for name in server._preload_modules if name != "__main__"]
    # What goes by value needs cloudpickle: a script's own functions, so nearly every program's.
    ours = ["parallelkit._wire.serving", "parallelkit._wire.arrivals", "parallelkit._wire.leftovers"]
    if not set(ours) <= set(modules):
        forkserver.set_forkserver_preload([*modules, *ours])
