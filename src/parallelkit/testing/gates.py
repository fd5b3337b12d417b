"""How tests and the functions that they send to workers meet: by files, which any process can see."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from time import monotonic, sleep
from typing import Any

__all__ = ["PATIENCE", "Gate", "Notes"]

PATIENCE = 30.0
"""Seconds to wait for what must come, before a test fails instead of hanging."""


class Gate:
    """Closed until a test opens it. Functions wait at it, in this process or in another of this machine."""

    def __init__(self, folder: str | Path, name: str = "gate"):
        self._path = Path(folder) / name

    def open(self) -> None:
        self._path.touch()

    def pass_through(self, item: Any = None) -> Any:
        """Wait until the gate is open; return the item. TimeoutError: nobody opens it."""
        _wait_until(self._path.exists, f"for {self._path.name} to be opened")
        return item


class Notes:
    """A file that functions write lines into, in this process or in another of this machine."""

    def __init__(self, folder: str | Path, name: str = "notes"):
        self._path = Path(folder) / name
        self._path.touch()

    def add(self, line: object) -> None:
        """Append a line; those of several writers do not mix."""
        file = os.open(self._path, os.O_WRONLY | os.O_APPEND)
        os.write(file, f"{line}\n".encode())
        os.close(file)

    def lines(self) -> list[str]:
        return self._path.read_text().split("\n")[:-1]

    def wait_for(self, lines: int) -> list[str]:
        """Wait until there are so many. TimeoutError: they do not come."""
        _wait_until(lambda: len(self.lines()) >= lines, f"for {lines} lines in {self._path.name}")
        return self.lines()


def _wait_until(condition: Callable[[], bool], what: str) -> None:
    deadline = monotonic() + PATIENCE
    while not condition():
        if monotonic() > deadline:
            raise TimeoutError(f"waited {PATIENCE} s {what}")
        sleep(0.001)
