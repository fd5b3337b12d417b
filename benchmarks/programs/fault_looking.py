"""Looking at processes and descriptors, for fault.py."""

from __future__ import annotations

import os

import psutil


def is_alive(process: psutil.Process) -> bool:
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def limit_that_spares(spare: int) -> int:
    """The limit under which so many descriptors can still be had. Numbers between open ones count."""
    limit = 0
    while spare or is_open(limit):
        spare -= not is_open(limit)
        limit += 1
    return limit


def is_open(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True


def workers_of(process: psutil.Process) -> int:
    """The processes below this one, but for the servers that live as long as the program."""
    children = process.children()
    servers = [child for child in children if is_server(child)]
    below = [grandchild for server in servers for grandchild in server.children(recursive=True)]
    return len([child for child in [*children, *below] if is_alive(child) and child not in servers])


def is_server(process: psutil.Process) -> bool:
    try:
        command = " ".join(process.cmdline())
    except psutil.Error:  # it is gone
        return False
    return "resource_tracker" in command or "forkserver" in command
