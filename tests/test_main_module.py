"""Any callable on any backend, from any kind of main module, with no main guard."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from parallelkit import Executor, pmap
from programs.watching import HERE, METHODS, PATIENCE, finish, run, start

pytestmark = pytest.mark.timeout(60)

PROGRAM = (HERE / "without_guard.py").read_text()

EXPECTED = {
    "lambda": [0, 10, 20],
    "closure": [5, 6, 7],
    "function": [0, 10, 20],
    "recursion": [1, 1, 2, 6, 24],
    "partial": [1, 2, 4],
    "bound method": [1, 2, 3],
    "callable object": [0, 10, 20],
    "async def": [0, 10, 20],
    "builtin": [3, 2, 1],
    "classes are the same": True,
    "items of main": [1, 2],
    "enum": [True],
    "changed global": [0, 20, 40],
    "redefined function": [["redefined", 0]],
    "exception of main": ["in main", 7, True],
    "initializer": [1100, 1101, 1102],
    "main is left alone": [None, {}],
}
OF_HELPERS = [[20, 21, 22], [1, 2, 3], "aabbcc", {"a": 1, "b": 2}]


class Place:
    """Where a program runs, and what came of it."""

    def __init__(self, folder: Path, method: str):
        self.folder = folder
        self.method = method
        self.environment = os.environ | {
            "START_METHOD": method,
            "BODY_RUNS": str(folder / "body runs"),
            "ANSWERS": str(folder / "answers"),
        }

    def run(self, *arguments: object, stdin: str | None = None) -> tuple[str, str]:
        return run(arguments, stdin, env=self.environment, cwd=self.folder)

    def check(self, **more: Any) -> None:
        expected = EXPECTED | ({"helpers": OF_HELPERS} if self.method == "forkserver" else {}) | more
        assert json.loads((self.folder / "answers").read_text()) == expected
        assert len((self.folder / "body runs").read_text().split()) == 1, "the program ran more than once"


@pytest.fixture(params=METHODS)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    folder = tmp_path / "a folder with spaces"
    folder.mkdir()
    return Place(folder, request.param)


def test_a_script_beside_a_module_of_its_own(place: Place) -> None:
    (place.folder / "neighbour.py").write_text("def beside(x): return -x\n")
    (place.folder / "a script.py").write_text(PROGRAM)
    out, err = place.run("a script.py")
    assert not out
    assert not err
    place.check(neighbour=[-1, -2])


def test_a_traceback_shows_the_source_of_a_script(place: Place) -> None:
    (place.folder / "a script.py").write_text(
        "import os\n"
        "from parallelkit import Executor\n"
        "def divide(x):\n"
        "    return 1 / x  # the line\n"
        "with Executor('process', 1, os.environ['START_METHOD']) as executor:\n"
        "    print(executor.submit(divide, 0).exception().__cause__)\n"
    )
    out, err = place.run("a script.py")
    assert 'a script.py", line 4, in divide\n    return 1 / x  # the line' in out
    assert not err


def test_classes_with_slots(place: Place) -> None:
    (place.folder / "a script.py").write_text(
        """
import os
from dataclasses import dataclass
from parallelkit import Executor

@dataclass(slots=True)
class Point:
    x: int

class Private:
    __slots__ = ("__x", "__weakref__")
    def __init__(self, x):
        self.__x = x
    def x(self):
        return self.__x

class Below(Private):
    __slots__ = "y"

def make(x):
    below = Below(x)
    below.y = 2 * x
    return Point(x), below

def take(pair):
    point, below = pair
    return point.x, below.x(), below.y, hasattr(point, "__dict__"), hasattr(below, "__dict__")

with Executor("process", 1, os.environ["START_METHOD"]) as executor:
    made = list(executor.map(make, range(3)))
    assert [type(point) is Point and type(below) is Below for point, below in made] == [True] * 3
    assert list(executor.map(take, made)) == [(x, x, 2 * x, False, False) for x in range(3)]
"""
    )
    assert place.run("a script.py") == ("", "")


def test_a_script_on_stdin(place: Place) -> None:
    out, err = place.run("-", stdin=PROGRAM)
    assert not out
    assert not err
    place.check()


def test_a_script_on_the_command_line(place: Place) -> None:
    out, err = place.run("-c", PROGRAM)
    assert not out
    assert not err
    place.check()


def test_an_interactive_interpreter(place: Place) -> None:
    _, err = place.run("-i", "-q", stdin=PROGRAM)
    assert "Traceback" not in err
    place.check()


def test_a_module_of_a_package(place: Place) -> None:
    package = place.folder / "package"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "module.py").write_text(PROGRAM)
    out, err = place.run("-m", "package.module")
    assert not out
    assert not err
    place.check()


@pytest.mark.skipif(sys.platform == "win32", reason="there are no pseudo-terminals")
def test_an_interactive_interpreter_in_a_terminal(place: Place) -> None:
    import pty

    ours, theirs = pty.openpty()
    try:
        with subprocess.Popen(
            [sys.executable, "-i", "-q"],
            stdin=theirs,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            env=place.environment | {"PYTHON_BASIC_REPL": "1", "TERM": "dumb"},
            cwd=place.folder,
        ) as program:
            os.close(theirs)
            os.write(ours, f"exec(open({str(HERE / 'without_guard.py')!r}).read())\nexit()\n".encode())
            program.wait(PATIENCE)
    finally:
        os.close(ours)
    place.check()


def test_ipython(place: Place) -> None:
    pytest.importorskip("IPython", reason="IPython is not installed")
    (place.folder / "script.py").write_text(PROGRAM)
    environment = place.environment | {"IPYTHONDIR": str(place.folder / "ipython")}
    program = start(["-m", "IPython", "script.py"], env=environment, cwd=place.folder)
    out, err = finish(program)
    assert program.returncode == 0, out + err
    place.check()


# ---------------------------------------------------------------- any callable, any backend


class Scale:
    def __init__(self, factor: int):
        self.factor = factor

    def __call__(self, item: int) -> int:
        return item * self.factor

    def scaled(self, item: int) -> int:
        return item * self.factor

    @classmethod
    def doubled(cls, item: int) -> int:
        return cls(2)(item)

    @staticmethod
    def tripled(item: int) -> int:
        return 3 * item


class Awaited:
    async def __call__(self, item: int) -> int:
        return item * 2


async def doubled_later(item: int) -> int:
    return item * 2


def powered(item: int, *, exponent: int) -> int:
    return int(item**exponent)


def closure() -> Callable[[int], int]:
    factor = 2

    def scaled(item: int) -> int:
        return item * factor

    return scaled


CALLABLES: dict[str, Callable[[int], Any]] = {
    "lambda": lambda item: item * 2,
    "closure": closure(),
    "partial": functools.partial(Scale(2).scaled),
    "partial with keywords": functools.partial(powered, exponent=2),
    "bound method": Scale(2).scaled,
    "class method": Scale.doubled,
    "static method": Scale.tripled,
    "callable object": Scale(2),
    "class": complex,
    "builtin": abs,
    "method of a builtin": [10, 11, 12, 13, 14].__getitem__,
    "async def": doubled_later,
    "partial of async def": functools.partial(doubled_later),
    "object with async __call__": Awaited(),
    "cached": functools.lru_cache(closure()),
}


def expected_of(name: str, items: range) -> list[Any]:
    function = (lambda item: item * 2) if "async" in name else CALLABLES[name]
    return [function(item) for item in items]


@pytest.mark.parametrize("backend", ["serial", "thread", "process", "asyncio"])
def test_any_callable_on_any_backend(backend: str) -> None:
    with Executor(backend, 2) as executor:
        for name, function in CALLABLES.items():
            expected = expected_of(name, range(5))
            assert list(executor.map(function, range(5))) == expected, name
            assert [executor.submit(function, item).result() for item in range(5)] == expected, name


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", CALLABLES)
def test_any_callable_on_processes(name: str, method: str) -> None:
    with Executor("process", 1, method) as executor:
        assert list(executor.map(CALLABLES[name], range(5))) == expected_of(name, range(5))


def test_any_callable_in_a_helper() -> None:
    for name, function in CALLABLES.items():
        assert pmap(function, range(5), max_workers=2) == expected_of(name, range(5)), name
