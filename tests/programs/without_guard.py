# fmt: off
# ruff: noqa: E401, E731, I001 - written as people write at a prompt
"""A user's program that has no main guard. What it finds goes to the file ANSWERS.

It also comes from a pipe into an interactive interpreter: there a block ends with an empty line and has none
inside.
"""
import asyncio, dataclasses, enum, functools, json, operator, os
from parallelkit import Executor, pimap, pmap, pmap_reduce, preduce
method = os.environ["START_METHOD"]
with open(os.environ["BODY_RUNS"], "a") as file:
    _ = file.write(f"{os.getpid()}\n")

factor = 10
cache = {}
ready = None

class Colour(enum.Enum):
    RED = 1

@dataclasses.dataclass
class Point:
    x: int
    colour: Colour = Colour.RED
    def moved(self, by):
        return Point(self.x + by)

class Oops(Exception):
    def __init__(self, message, code=None):
        super().__init__(message)
        self.code = code

class Scale:
    def __call__(self, x):
        return x * factor

def scaled(x):
    return x * factor

def to_point(x):
    return Point(scaled(x))

def adder(n):
    def add(x):
        return x + n
    return add

def factorial(n):
    return 1 if n < 2 else n * factorial(n - 1)

async def later(x):
    await asyncio.sleep(0)
    return scaled(x)

def fail(x):
    raise Oops("in main", code=x)

def setup(n):
    global ready
    ready = n
    cache["base"] = 1000

def warmed(x):
    return ready + cache["base"] + x

def words(line):
    for word in line.split():
        yield word, 1

def new_executor(**options):
    return Executor("process", 2, mp_context=method, **options)

answers = {}
executor = new_executor()
run = lambda function, items: list(executor.map(function, items))
answers["lambda"] = run(lambda x: x * factor, range(3))
answers["closure"] = run(adder(5), range(3))
answers["function"] = run(scaled, range(3))
answers["recursion"] = run(factorial, range(5))
answers["partial"] = run(functools.partial(pow, 2), range(3))
answers["bound method"] = [point.x for point in run(Point(1).moved, range(3))]
answers["callable object"] = run(Scale(), range(3))
answers["async def"] = run(later, range(3))
answers["builtin"] = run(abs, range(-3, 0))
answers["classes are the same"] = run(to_point, range(3)) == [Point(0), Point(10), Point(20)]
answers["items of main"] = run(lambda point: point.x, [Point(1), Point(2)])
answers["enum"] = run(lambda colour: colour is Colour.RED, [Colour.RED])
factor = 20
answers["changed global"] = run(scaled, range(3))

def scaled(x):
    return ["redefined", x]

answers["redefined function"] = run(scaled, range(1))
try:
    executor.submit(fail, 7).result()
except Oops as error:
    answers["exception of main"] = [str(error), error.code, "in fail" in str(error.__cause__)]

executor.shutdown()
with new_executor(initializer=setup, initargs=(100,)) as executor:
    answers["initializer"] = list(executor.map(warmed, range(3)))
    answers["main is left alone"] = [ready, cache]

if method == "forkserver":
    answers["helpers"] = [
        pmap(lambda x: x + factor, range(3)),
        list(pimap(adder(1), iter(range(3)))),
        preduce(lambda a, b: a + b, "abc", map=lambda letter: letter * 2),
        pmap_reduce(words, operator.add, ["a b", "b"]),
    ]

try:
    from neighbour import beside
except ImportError:
    pass
else:
    with new_executor() as executor:
        answers["neighbour"] = list(executor.map(beside, [1, 2]))

with open(os.environ["ANSWERS"], "w") as file:
    json.dump(answers, file)
