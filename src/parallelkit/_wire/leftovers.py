"""In the fork server: what a parent that was killed leaves behind.

The fork server listens at a socket in a temporary folder of its parent, which removes that when it ends. A
parent that is killed does not. The fork server outlives it by a moment: it ends when the last worker is gone.
"""

from __future__ import annotations

import atexit
import os
import re
import select
import socket
import sys

__all__: list[str] = []

PATIENCE = 1.0
"""Seconds for a parent that has closed its files to be gone: the kernel does both, one after the other."""


def _remove(address: str, parent: int) -> None:
    if getattr(sys, "last_value", None) is not None:
        return  # the server broke: its parent lives, will notice, and start another
    try:
        select.select([os.pidfd_open(parent)], [], [], PATIENCE)
    except (AttributeError, OSError):  # not Linux; or it is gone
        pass
    if os.getppid() == parent:
        return  # it can still want its folder
    try:
        os.unlink(address)
        os.rmdir(os.path.dirname(address))
    except OSError:  # the parent has done it, or somebody else has something there
        pass


_listens = re.search(r"import main; main\((\d+),", sys.orig_argv[-1]) if sys.orig_argv else None
if _listens is not None:
    with socket.socket(fileno=os.dup(int(_listens[1]))) as _listener:
        atexit.register(_remove, _listener.getsockname(), os.getppid())
