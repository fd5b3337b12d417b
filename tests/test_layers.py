"""The layout of the house: who may import whom, what the core may not know, how long things may get."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

PACKAGE = "parallelkit"
SRC = Path(__file__).parents[1] / "src"

# A file imports only files of a lower number. Siblings in `_core` and in `_wire` may also import
# siblings of their own number. A name that ends in ".*" stands for every module of that folder that
# is not named itself.
LAYERS = {
    "errors": 0,
    "cpus": 0,
    "_alarm": 0,
    "_core": 0,
    "_core.outcome": 0,
    "_core.chunks": 0,
    "_core.splitters": 0,
    "_core.reorder": 0,
    "_core.roster": 0,
    "_core.fold": 0,
    "_core.keyed": 0,
    "_core.scheduler": 1,
    "_work": 1,
    "_late_reports": 1,
    "_place": 2,
    "_runs": 2,
    "_worker": 3,
    "_sharing": 3,
    "_wire": 4,
    "_wire.*": 4,
    "backends.base": 4,
    "backends.*": 5,  # one each: they never import each other
    "backends": 6,  # name -> module
    "_call": 4,
    "_in_flight": 5,
    "_time_limits": 5,
    "_lifetime": 0,
    "_driver": 7,
    "_calls": 8,
    "_options": 8,
    "_opening": 9,
    "_reading": 9,
    "_pool_calls": 10,
    "_pool_inside": 10,
    "executor": 10,
    "functional": 11,
    "_pool_results": 11,
    "pool": 12,
    "testing.gates": 11,
    "testing.*": 12,
    "testing": 13,  # the contract suite uses the public calls; nothing of ours imports it
    "_demo": 12,
    "__init__": 14,
    "__main__": 14,
}
FAMILIES = ("_core", "_wire")

# Time, workers and randomness come into the core as arguments.
FOREIGN_TO_THE_CORE = {
    "_thread", "asyncio", "concurrent", "datetime", "io", "multiprocessing", "os", "queue", "random",
    "sched", "secrets", "select", "selectors", "signal", "socket", "subprocess", "threading", "time",
}  # fmt: skip

MOST_LINES_OF_A_FILE = 450
MOST_LINES_OF_A_FUNCTION = 60  # without its docstring: what is told there to a user is not to be cut


def short_name(path: Path) -> str:
    """The module at `path` as the table spells it: "_core.fold", "backends", "__init__"."""
    parts = path.relative_to(SRC / PACKAGE).with_suffix("").parts
    if parts[-1] == "__init__" and len(parts) > 1:
        parts = parts[:-1]
    return ".".join(parts)


FILES = {short_name(path): path for path in sorted((SRC / PACKAGE).rglob("*.py"))}
TREES = {name: ast.parse(path.read_text(encoding="utf-8"), path) for name, path in FILES.items()}


def layer(name: str) -> int | None:
    if name in LAYERS:
        return LAYERS[name]
    folder, _, _ = name.rpartition(".")
    return LAYERS.get(f"{folder}.*") if folder else None


def family(name: str) -> str | None:
    head = name.partition(".")[0]
    return head if head in FAMILIES else None


class Import(NamedTuple):
    line: int
    module: str  # absolute: "parallelkit._core.fold", "os.path"


def imports(name: str, tree: ast.Module, modules: dict[str, Path]) -> Iterator[Import]:
    """Every import in `tree`, at any level; `from package import module` gives the module."""
    is_folder = modules[name].name == "__init__.py"
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(node.lineno, alias.name)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                package = [PACKAGE, *(name.split(".") if name != "__init__" else [])]
                up = node.level - 1 if is_folder else node.level
                package = package[: len(package) - up]
                base = ".".join([*package, base] if base else package)
            for alias in node.names:
                inner = f"{base}.{alias.name}"
                yield Import(node.lineno, inner if ours(inner) in modules else base)
        elif isinstance(node, ast.Call) and node.args and called(node) in ("import_module", "__import__"):
            target = node.args[0]
            if isinstance(target, ast.Constant) and isinstance(target.value, str):
                yield Import(node.lineno, target.value)


def called(node: ast.Call) -> str:
    if isinstance(node.func, ast.Attribute):
        return node.func.attr
    return node.func.id if isinstance(node.func, ast.Name) else ""


def ours(module: str) -> str | None:
    """ "parallelkit._core.fold" -> "_core.fold", "parallelkit" -> "__init__", "os" -> None."""
    if module == PACKAGE:
        return "__init__"
    return module.removeprefix(f"{PACKAGE}.") if module.startswith(f"{PACKAGE}.") else None


def breaches(name: str, tree: ast.Module, modules: dict[str, Path]) -> list[str]:
    own = layer(name)
    assert own is not None
    found = []
    for line, module in imports(name, tree, modules):
        target = ours(module)
        if target is None:
            continue
        below = layer(target)
        if below is None:
            found.append(f"line {line}: {module} is not in the table")
        elif below < own or (below == own and family(name) is not None and family(name) == family(target)):
            continue
        else:
            found.append(f"line {line}: layer {own} imports {module} of layer {below}")
    return found


def test_there_is_something_to_check():
    assert FILES, f"no files under {SRC / PACKAGE}"


@pytest.mark.parametrize("name", FILES)
def test_module_is_in_the_table(name):
    assert layer(name) is not None, (
        f"{FILES[name].relative_to(SRC)} has no layer: "
        f"give {name!r} its number in LAYERS, in tests/test_layers.py, above all that it imports"
    )


@pytest.mark.parametrize("name", [name for name in FILES if layer(name) is not None])
def test_imports_only_lower_layers(name):
    assert breaches(name, TREES[name], FILES) == []


@pytest.mark.parametrize("name", [name for name in FILES if family(name) == "_core"])
def test_core_is_pure(name):
    used = {module.partition(".")[0] for _, module in imports(name, TREES[name], FILES)}
    assert not used & FOREIGN_TO_THE_CORE


@pytest.mark.parametrize("name", FILES)
def test_file_is_short(name):
    lines = len(FILES[name].read_text(encoding="utf-8").splitlines())
    assert lines <= MOST_LINES_OF_A_FILE


def lines_without_docstring(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    assert function.end_lineno is not None
    lines = function.end_lineno - function.lineno + 1
    first = function.body[0]
    if ast.get_docstring(function) is not None:
        assert first.end_lineno is not None
        lines -= first.end_lineno - first.lineno + 1
    return lines


@pytest.mark.parametrize("name", FILES)
def test_functions_are_short(name):
    too_long = {
        f"{node.name}, line {node.lineno}": lines
        for node in ast.walk(TREES[name])
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (lines := lines_without_docstring(node)) > MOST_LINES_OF_A_FUNCTION
    }
    assert too_long == {}


# The checks themselves, on files that do not exist.


@pytest.mark.parametrize(
    ("name", "source", "expected"),
    [
        ("_core.fold", "from parallelkit._core import chunks", []),
        ("_core.fold", "from . import chunks", []),
        ("_core.fold", "from parallelkit._core import scheduler", ["_core.scheduler of layer 1"]),
        ("_core.fold", "from .scheduler import Scheduler", ["_core.scheduler of layer 1"]),
        ("_wire.framing", "from ..executor import Executor", ["parallelkit.executor of layer 10"]),
        ("_wire.framing", "from parallelkit._wire.shared import Segment", []),
        ("backends.thread", "from parallelkit.backends.serial import x", ["backends.serial of layer 5"]),
        ("backends.thread", "from parallelkit.backends import base", []),
        ("backends.thread", "from parallelkit.backends import load", ["parallelkit.backends of layer 6"]),
        ("executor", "def f():\n    import parallelkit.pool", ["parallelkit.pool of layer 12"]),
        ("executor", "if TYPE_CHECKING:\n    from parallelkit import pmap", ["parallelkit of layer 14"]),
        ("executor", "import_module('parallelkit.pool')", ["parallelkit.pool of layer 12"]),
        ("executor", "from parallelkit import unheard_of_module", ["parallelkit of layer 14"]),
        ("executor", "import parallelkit.unheard_of", ["parallelkit.unheard_of is not in the table"]),
        ("backends", "from .base import Backend\nfrom . import thread", []),
        ("__init__", "from .executor import Executor\nfrom . import errors\nimport os", []),
    ],
)
def test_breaches_are_seen(name, source, expected):
    modules = {
        known: SRC / PACKAGE / ("__init__.py" if known == "__init__" else f"{known.replace('.', '/')}.py")
        for known in [*LAYERS, "backends.thread", "backends.serial", "_wire.framing", "_wire.shared"]
        if not known.endswith(".*")
    }
    for folder in ("_core", "_wire", "backends"):
        modules[folder] = SRC / PACKAGE / folder / "__init__.py"
    found = breaches(name, ast.parse(source), modules)
    assert len(found) == len(expected)
    for message, part in zip(found, expected, strict=True):
        assert message.endswith(part)
