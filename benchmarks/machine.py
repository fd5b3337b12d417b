"""On what was measured: the machine, its cores as parallelkit sees them, and the versions of all peers."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Iterable
from pathlib import Path
from time import strftime
from typing import Any

import psutil

from parallelkit.cpus import cpu_count, describe

from .peers.base import missing, version_of
from .peers.table import side_named


def described(command: str, workers: int, sides: Iterable[str]) -> dict[str, Any]:
    """Ready for JSON."""
    return {
        "command": command,
        "date": strftime("%d %B %Y"),
        "processor": processor(),
        "cores": cpu_count(),
        "why": describe(),
        "workers": workers,
        "memory_gib": round(psutil.virtual_memory().total / 2**30),
        "system": f"{platform.system()} {platform.release()}",
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "load": [round(load, 2) for load in os.getloadavg()],
        "versions": versions(sides),
    }


def versions(sides: Iterable[str]) -> dict[str, str]:
    """By distribution; "not installed" where it is missing."""
    found = {"pyperf": "", "cloudpickle": "", "numpy": ""}
    kinds = [side_named(side) for side in sides]
    from importlib.metadata import PackageNotFoundError, version

    for name in found:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    for kind in kinds:
        if kind.distribution:
            found[kind.distribution] = "not installed" if missing(kind) else version_of(kind)
    return dict(sorted(found.items(), key=lambda pair: pair[0].lower()))


def processor() -> str:
    """The model, as the system calls it."""
    if sys.platform == "linux":
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
