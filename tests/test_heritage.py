"""What a forked worker has of the main module goes by name; what was defined or changed later, by value."""

from __future__ import annotations

import textwrap
from typing import Any

import pytest

from programs.watching import METHODS

pytestmark = [
    pytest.mark.timeout(60),
    pytest.mark.skipif("fork" not in METHODS, reason="nothing is inherited without a fork"),
]

PROGRAM = '''
import functools
import parallelkit

class Heavy:
    """Must not travel."""
    value = 5
    def __reduce__(self):
        raise RuntimeError("the table was sent")

class Point:
    def __init__(self, x):
        self.x = x

heavy = Heavy()

def look_up(n):
    return n + heavy.value

@functools.lru_cache
def cached(n):
    return n + heavy.value

def point(n):
    return Point(n)

def x_of(point):
    return point.x

def setup(word):
    global kept
    kept = word

def read(n):
    return kept, n

with parallelkit.get_context("fork").Pool(2, setup, ("by the initializer",)) as pool:
'''


CASES = {
    "functions": (
        """print(pool.map(look_up, range(3)), pool.apply(look_up, (7,)), list(pool.imap(look_up, [1])))""",
        "[5, 6, 7] 12 [6]",
    ),
    "what is like a function": ("""print(pool.map(cached, range(3)))""", "[5, 6, 7]"),
    "classes, there and back": (
        """
        points = pool.map(point, range(3))
        print([type(p) is Point for p in points], pool.map(x_of, points))
        """,
        "[True, True, True] [0, 1, 2]",
    ),
    "globals of the initializer": ("""print(pool.map(read, [1]))""", "[('by the initializer', 1)]"),
    "what came later": (
        """
        later = 10
        print(pool.map(lambda n: n + later, range(3)))
        """,
        "[10, 11, 12]",
    ),
    "what was defined anew": (
        """
        exec("def look_up(n): return -n")
        print(pool.map(look_up, range(3)), pool.apply(look_up, (7,)))
        """,
        "[0, -1, -2] -7",
    ),
    "what was replaced and put back": (
        """
        first = x_of
        exec("def x_of(n): return -1")
        print(pool.map(x_of, [1]))
        x_of = first
        print(pool.map(x_of, [Point(3)]))
        """,
        "[-1]\n[3]",
    ),
    "globals as they were at the fork": (
        """
        heavy = Point(0)
        print(pool.map(look_up, range(3)))
        """,
        "[5, 6, 7]",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_in_a_script(run_program: Any, case: str) -> None:
    body, expected = CASES[case]
    program = PROGRAM + textwrap.indent(textwrap.dedent(body).strip(), "    ")
    assert run_program(program) == expected + "\n"
