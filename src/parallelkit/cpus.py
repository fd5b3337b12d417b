"""How many cores this process may really use, and why.

`os.cpu_count()` counts the cores of the machine. A process seldom may use them
all: it is pinned to some of them (affinity), a container gives it a share of
their time (a cgroup quota), or somebody has set the number by hand (the
environment). Workers beyond that number only take time from each other.

    environment   PARALLELKIT_CPU_COUNT, else PYTHON_CPU_COUNT   overrides all the rest
    affinity      os.sched_getaffinity(0)                        a whole number of cores
    machine       os.cpu_count()                                 where there is no affinity
    cgroup v2     cpu.max                                        quota / period, in cores
    cgroup v1     cpu.cfs_quota_us, cpu.cfs_period_us            quota / period, in cores

A cgroup lies inside its parents and is bound by all of their quotas, so each is
read, from the process's own cgroup up to the mount, and the smallest counts.
What cannot be read or understood is no limit.

Formats: cgroups(7), proc(5) under /proc/pid/mountinfo, and the kernel's
Documentation/admin-guide/cgroup-v2.rst and Documentation/scheduler/sched-bwc.rst.
`PYTHON_CPU_COUNT` is the variable of Python 3.13, honoured here by every version.
"""

from __future__ import annotations

import math
import os
import posixpath
from collections.abc import Mapping
from typing import NamedTuple

__all__ = ["Limit", "cpu_count", "cpu_limits", "describe"]

_OVERRIDES = ("PARALLELKIT_CPU_COUNT", "PYTHON_CPU_COUNT")


class Limit(NamedTuple):
    """One bound on the cores this process may use.

    Attributes:
        source: "environment", "affinity", "machine", "cgroup v2" or "cgroup v1".
        cpus: the bound, in cores; a cgroup's may be a fraction, none is 0 or less.
        detail: where it was found: a variable, a function or the path of a file.

    >>> Limit("cgroup v2", 1.5, "/sys/fs/cgroup/app/cpu.max").cpus
    1.5
    """

    source: str
    cpus: float
    detail: str


def cpu_count(*, physical: bool = False) -> int:
    """The number of cores this process may use, at least 1.

    It is the smallest of `cpu_limits()`, rounded up, unless the environment
    variable `PARALLELKIT_CPU_COUNT` or else `PYTHON_CPU_COUNT` gives the number
    (empty and "default" mean not set).
    Affinity is the calling thread's, as in `os.process_cpu_count`.

    With `physical=True` it is no more than the number of physical cores of the
    machine, two hyper-threads of one core counting once; where that is not
    known, and where the environment gives the number, it makes no difference.

    Raises:
        ValueError: the environment variable is not a positive whole number.

    >>> 1 <= cpu_count(physical=True) <= cpu_count()
    True
    """
    limit = _decisive(cpu_limits())
    logical = _whole(limit)
    if physical and limit.source != "environment":
        return min(logical, _physical_cores() or logical)
    return logical


def cpu_limits() -> tuple[Limit, ...]:
    """Every limit that was found; the environment's, if it is set, comes first and overrides the others.

    Never empty: the affinity, or else the number of cores of the machine, is always there.

    Raises:
        ValueError: the environment variable is not a positive whole number.

    >>> all(limit.cpus > 0 for limit in cpu_limits())
    True
    """
    return (*_override(os.environ), _cores(), *_cgroup_limits("/"))


def describe() -> str:
    """The table of `cpu_limits()`, a line each, and a last line that says which one decides.

    Raises:
        ValueError: the environment variable is not a positive whole number.

    >>> describe().splitlines()[-1].startswith(f"cpu_count() = {cpu_count()}, because ")
    True
    """
    limits = cpu_limits()
    decisive = _decisive(limits)
    rows = [f"{limit.source:<11}  {limit.cpus:>5g}  {limit.detail}" for limit in limits]
    reason = f"cpu_count() = {_whole(decisive)}, because {decisive.detail} gives {decisive.cpus:g}"
    return "\n".join([f"{'source':<11}  {'cpus':>5}  detail", *rows, reason])


def _decisive(limits: tuple[Limit, ...]) -> Limit:
    """The limit that gives the number: the environment's if there is one, else the smallest."""
    return min(limits, key=lambda limit: (limit.source != "environment", limit.cpus))


def _whole(limit: Limit) -> int:
    # Up, not down: a quota of 1.5 cores keeps two workers busy most of the time, and
    # one of 0.2 still runs a worker, slowly. As every limit is above 0, this is at least 1.
    return math.ceil(limit.cpus)


def _override(environ: Mapping[str, str]) -> tuple[Limit, ...]:
    """The number set by hand, by the first of `_OVERRIDES` that is set; else nothing."""
    for name in _OVERRIDES:
        # Python reads an empty PYTHON_CPU_COUNT as not set, too.
        if (value := environ.get(name, "")) not in ("", "default"):
            return (Limit("environment", _positive(name, value), name),)
    return ()


def _positive(name: str, value: str) -> int:
    try:
        number = int(value)
    except ValueError:
        number = 0
    if number < 1:
        raise ValueError(
            f"the environment variable {name} is {value!r}, which is not a positive whole number: "
            "set it to the number of cores to use, such as 4, or unset it to have them counted"
        )
    return number


def _cores() -> Limit:
    """The cores this process may run on, by number: the affinity, or else all of the machine."""
    if hasattr(os, "sched_getaffinity"):
        try:
            return Limit("affinity", len(os.sched_getaffinity(0)), "os.sched_getaffinity(0)")
        except OSError:
            pass  # A sandbox may forbid the call; the number of the machine is then the best known.
    return Limit("machine", os.cpu_count() or 1, "os.cpu_count()")


def _physical_cores() -> int | None:
    """The physical cores of the machine, or None where psutil is missing or cannot tell."""
    try:
        # Imported when asked for: it costs more time than all of this module.
        import psutil

        cores: int | None = psutil.cpu_count(logical=False)
    except (ImportError, OSError):
        return None
    return cores


class _Mount(NamedTuple):
    """A place where a tree of cgroups can be seen: the cgroup `root` is the directory `point`."""

    filesystem: str
    root: str
    point: str


def _cgroup_limits(root: str) -> tuple[Limit, ...]:
    """Every CPU quota that binds this process, in the file tree that starts at `root`."""
    mounts = _cpu_mounts(root)
    limits: list[Limit | None] = []
    for filesystem, cgroup in _own_cgroups(root).items():
        read_quota = _quota_v2 if filesystem == "cgroup2" else _quota_v1
        directories = _directories(cgroup, [mount for mount in mounts if mount.filesystem == filesystem])
        limits += [read_quota(_within(root, directory)) for directory in directories]
    return tuple(limit for limit in limits if limit is not None)


def _own_cgroups(root: str) -> dict[str, str]:
    """The cgroup of this process in each hierarchy that may bound its CPU time, by type of filesystem."""
    own = {}
    for line in _read(_within(root, "/proc/self/cgroup")).split("\n"):
        match line.split(":", 2):
            case ["0", "", cgroup]:
                own["cgroup2"] = cgroup
            case [_, controllers, cgroup] if "cpu" in controllers.split(","):
                own["cgroup"] = cgroup
    return own


def _cpu_mounts(root: str) -> list[_Mount]:
    """The mounts of cgroup v2, and of the `cpu` controller of cgroup v1."""
    mounts = []
    for line in _read(_within(root, "/proc/self/mountinfo")).split("\n"):
        # The number of optional fields before the dash varies, so each side is taken by itself.
        place, _, kind = line.partition(" - ")
        match place.split(" "), kind.split(" "):
            case [_, _, _, top, point, *_], ["cgroup2", *_]:
                mounts.append(_Mount("cgroup2", _unescaped(top), _unescaped(point)))
            case [_, _, _, top, point, *_], ["cgroup", _, options] if "cpu" in options.split(","):
                mounts.append(_Mount("cgroup", _unescaped(top), _unescaped(point)))
    return mounts


def _unescaped(field: str) -> str:
    """A field of mountinfo with its blanks put back, which the kernel writes in octal."""
    # The backslash comes last, so that what it brings back is not read as an escape again.
    for octal, character in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        field = field.replace(octal, character)
    return field


def _directories(cgroup: str, mounts: list[_Mount]) -> list[str]:
    """Where the quotas of `cgroup` and of its parents are to be read, innermost first."""
    # A tree mounted twice over the same place is listed twice, but is one directory.
    shown = dict.fromkeys(directory for mount in mounts for directory in _upward(cgroup, mount))
    # In a container the name of the cgroup may be the host's, or lie outside its own namespace.
    # Whatever is mounted is then the container's own cgroup or one around it, and binds us.
    return list(shown) or [mount.point for mount in mounts]


def _upward(cgroup: str, mount: _Mount) -> list[str]:
    """The directories from `cgroup` up to the mount point; none if it does not lie below this mount.

    A directory that does not exist, as in a container that shows its own cgroup
    under the host's name, holds no quota: the way up ends at the mount all the same.
    """
    top = mount.root.rstrip("/") + "/"
    if not f"{cgroup}/".startswith(top):
        return []
    names = [name for name in cgroup[len(top) :].split("/") if name]
    if ".." in names:
        return []
    return [posixpath.join(mount.point, *names[:depth]) for depth in range(len(names), -1, -1)]


def _quota_v2(directory: str) -> Limit | None:
    file = f"{directory}/cpu.max"
    match _read(file).split():
        case [quota, period]:
            return _quota("cgroup v2", quota, period, file)
    return None


def _quota_v1(directory: str) -> Limit | None:
    file = f"{directory}/cpu.cfs_quota_us"
    return _quota("cgroup v1", _read(file), _read(f"{directory}/cpu.cfs_period_us"), file)


def _quota(source: str, quota: str, period: str, file: str) -> Limit | None:
    """`quota` microseconds of CPU time in every `period` of them; None for "max", -1 and nonsense."""
    try:
        allowed, every = int(quota), int(period)
        cpus = allowed / every
    except (ValueError, ArithmeticError):
        return None
    return Limit(source, cpus, file) if allowed > 0 and every > 0 and cpus > 0 else None


def _within(root: str, path: str) -> str:
    return posixpath.join(root, path.lstrip("/"))


def _read(file: str) -> str:
    """The text of a file, empty where there is none or it may not be read."""
    try:
        # A cgroup's name is bytes to the kernel: this way it still names the same file when it is not UTF-8.
        with open(file, encoding="utf-8", errors="surrogateescape") as stream:
            return stream.read()
    except (OSError, ValueError):
        return ""
