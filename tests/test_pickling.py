"""How things cross to another process and back: real processes, whose `__main__` is not the script's."""

from __future__ import annotations

import enum
import functools
import os
import pickle
import subprocess
import sys
import textwrap
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cloudpickle
import hypothesis
import pytest
from hypothesis import strategies as st

from parallelkit._wire import pickling
from parallelkit._wire.exceptions import Packed, pack_exception, unpack_exception
from parallelkit._wire.pickling import FunctionPickles, dumps, dumps_in_pieces, loads
from parallelkit.errors import RemoteError, RemoteTraceback, SerializationError

# A script gets `call(function, *arguments)`, which runs it in a worker that lives as long as the script,
# and `forked(...)`, which runs some calls in a fork. The worker's `__main__` is its own.
PRELUDE = '''
import os, subprocess, sys
from parallelkit._wire import exceptions, pickling

WORKER = """
import sys
from parallelkit._wire import exceptions, pickling

def serve(source, sink):
    while size := source.read(8):
        try:
            function, arguments = pickling.loads(source.read(int.from_bytes(size, "big")))
            answer = True, function(*arguments)
            pickled = pickling.dumps(answer, to_parent=True)
        except BaseException as exc:
            pickled = pickling.dumps((False, exceptions.pack_exception(exc)))
        sink.write(len(pickled).to_bytes(8, "big") + pickled)
        sink.flush()

if __name__ == "__main__":
    serve(sys.stdin.buffer, sys.stdout.buffer)
"""

worker = subprocess.Popen([sys.executable, "-c", WORKER], stdin=subprocess.PIPE, stdout=subprocess.PIPE)

def converse(sink, source, function, arguments):
    pickled = pickling.dumps((function, arguments))
    sink.write(len(pickled).to_bytes(8, "big") + pickled)
    sink.flush()
    done, value = pickling.loads(source.read(int.from_bytes(source.read(8), "big")))
    if not done:
        raise exceptions.unpack_exception(value)
    return value

def call(function, *arguments):
    return converse(worker.stdin, worker.stdout, function, arguments)

def fork():
    down, up = os.pipe(), os.pipe()
    if os.fork() == 0:
        os.close(down[1])
        served = {"__name__": "served"}
        exec(WORKER, served)
        served["serve"](os.fdopen(down[0], "rb"), os.fdopen(up[1], "wb"))
        os._exit(0)
    os.close(down[0]), os.close(up[1])
    sink, source = os.fdopen(down[1], "wb"), os.fdopen(up[0], "rb")
    return lambda function, *arguments: converse(sink, source, function, arguments)
'''

ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(pickling.__file__).parents[2])}


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., None]:
    def run(*parts: str) -> None:
        path = tmp_path / "script.py"
        path.write_text(PRELUDE + "".join(map(textwrap.dedent, parts)), encoding="utf-8")
        ended = subprocess.run(
            [sys.executable, path], env=ENVIRONMENT, capture_output=True, text=True, timeout=30, check=False
        )
        assert ended.returncode == 0, ended.stderr

    return run


needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")

INITIALIZED = """
    db = None
    cache = {}
    def initialize(value):
        global db, state
        db = state = value
        cache["filled"] = True
    def task():
        return db, state, cache
    def count():
        cache["calls"] = cache.get("calls", 0) + 1
        return cache["calls"]
"""


@pytest.mark.parametrize("where", ["call", pytest.param("fork()", marks=needs_fork)])
class TestGlobalsOfTheWorker:
    def test_what_an_initializer_assigned_and_what_tasks_keep_stays(self, run, where):
        script = f"""
            do = {where}
            do(initialize, "here")
            assert do(task) == ("here", "here", {{"filled": True}})
            assert [do(count), do(count), do(lambda: count())] == [1, 2, 3]
            assert db is None and cache == {{}} and "state" not in globals()
        """
        run(INITIALIZED, script)

    def test_what_changed_in_the_parent_is_refreshed_and_only_that(self, run, where):
        script = f"""
            x = 1
            def g():
                return x
            def f():
                return g(), cache.get("calls")
            do = {where}
            assert do(f) == (1, None)
            do(count)
            x = 2
            assert do(f) == (2, 1)
            def g():
                return -x
            assert do(f) == (-2, 1)
            x = 1
            assert do(f) == (-1, 1)
            cache = {{"calls": 10}}
            assert do(f) == (-1, 10)
        """
        run(INITIALIZED, script)

    def test_a_global_that_cannot_travel(self, run, where):
        inherited = where != "call"
        run(f"""
            import threading
            lock = threading.Lock()
            x = 5
            def locked():
                with lock:
                    return "locked"
            def make():
                global lock
                lock = threading.Lock()
            do = {where}
            try:
                assert do(locked) == "locked" and {inherited}
            except pickling.SerializationError as exc:
                assert not {inherited} and "'lock'" in str(exc) and "initializer" in str(exc), exc
            assert do(lambda: x) == 5
            do(make)
            assert do(locked) == "locked"
        """)

    def test_a_shipped_global_that_became_one_that_cannot_travel_is_not_stale(self, run, where):
        run(f"""
            import threading
            x = 2
            def f():
                return x + 1
            do = {where}
            assert do(f) == 3
            x = threading.Lock()
            try:
                do(f)
            except pickling.SerializationError as exc:
                assert "'x'" in str(exc)
            else:
                raise AssertionError
            x = 4
            assert do(f) == 5
        """)

    def test_an_attribute_of_a_class_assigned_by_an_initializer(self, run, where):
        run(f"""
            class Config:
                value = None
                def read(self): return self.value
            def initialize(): Config.value = 5
            def task(): return Config.value
            do = {where}
            do(initialize)
            assert do(task) == do(Config().read) == 5 and Config.value is None
            Config.value = 6
            assert do(task) == 6
        """)


class TestByValue:
    def test_functions_of_all_sorts(self, run):
        run("""
            import functools
            def even(n): return True if n == 0 else odd(n - 1)
            def odd(n): return False if n == 0 else even(n - 1)
            class Adder:
                step = 1
                def __init__(self, n): self.n = n
                def add(self, x): return odd(self.n) + x + self.step
                @classmethod
                def make(cls, n): return cls(n)
                class Inner:
                    pass
            def outer(n):
                def inner(x): return x + n if x else even(n)
                return inner
            @functools.lru_cache
            def fib(n): return n if n < 2 else fib(n - 1) + fib(n - 2)
            assert call(even, 10) and not call(odd, 4)
            assert call(lambda x: x * 2, 4) == 8
            assert call(outer(3), 4) == 7 and call(outer(4), 0)
            assert call(functools.partial(outer(1), 2)) == 3
            assert call(Adder(3).add, 5) == 7
            assert isinstance(call(Adder.make, 2), Adder)
            assert isinstance(call(Adder.Inner), Adder.Inner)
            assert call(fib, 60) == fib(60)
        """)

    def test_a_registry_that_holds_what_uses_it(self, run):
        run("""
            registry = {}
            class Base:
                def __init_subclass__(cls): registry[cls.__name__] = cls
                def __init__(self, name):
                    self.name = name
                    registry[name] = self
                def known(self): return sorted(registry), registry[self.name] is self
            class Child(Base):
                pass
            functions = []
            def register(function):
                functions.append(function)
                return function
            @register
            def f(): return functions[0] is f
            child = Child("one")
            assert call(Base.known, child)[0] == ["Child", "one"]
            assert call(lambda: registry["Child"] is Child)
            assert call(lambda: registry["one"].known()) == (["Child", "one"], True)
            assert call(f)
            assert registry == {"Child": Child, "one": child}
        """)

    def test_rebuilding_may_use_other_globals(self, run):
        run("""
            SALT = 3
            class Key:
                def __init__(self, n): self.n = n
                def __eq__(self, other): return self.n == other.n
                def __hash__(self): return hash((self.n, SALT))
            keys = {Key(1), Key(2)}
            assert call(lambda: Key(2) in keys)
            assert call(lambda given: Key(1) in given, keys)
        """)

    def test_results_change_nothing_in_the_parent(self, run):
        run("""
            seen = []
            class Point:
                made = 0
                def __init__(self): Point.made += 1; seen.append(self)
                def count(self): return len(seen), Point.made
            def make(): return [Point() for _ in range(3)]
            method = Point.count
            points = call(make)
            assert all(type(point) is Point for point in points)
            assert seen == [] and Point.made == 0 and Point.count is method
            add = call(lambda n: lambda x: x + n + len(seen), 2)
            seen.append(1)
            assert add(1) == 4
        """)

    def test_answers_leave_out_what_the_parent_has(self, run):
        run("""
            table = list(range(10_000))
            class Point:
                def size(self): return len(table)
            def sizes():
                from parallelkit._wire import pickling
                return len(pickling.dumps(Point())), len(pickling.dumps(Point(), to_parent=True))
            whole, answer = call(sizes)
            assert whole > 10_000 and answer < 500
        """)

    def test_a_worker_of_a_worker(self, run):
        run("""
            x = 1
            prelude = open(__file__).read().partition("x = 1")[0]
            class Point: pass
            def nested():
                global x
                exec(prelude, globals())
                first = call(lambda: x)
                x = 2
                return first, call(lambda: x), type(call(Point)) is Point
            assert call(nested) == (1, 2, True) and x == 1
        """)

    def test_a_class_defined_again(self, run):
        run("""
            class Point:
                def say(self): return "old"
            old = Point()
            assert call(old.say) == "old"
            class Point:
                def say(self): return "new"
            assert call(lambda: (old.say(), Point().say())) == ("old", "new")
            assert type(call(lambda point: point, old)) is type(old)
        """)

    def test_annotations_that_are_globals_of_the_script(self, run):
        run("""
            import enum, dataclasses, typing
            UserId = typing.NewType("UserId", int)
            T = typing.TypeVar("T")
            class Color(enum.Enum):
                RED = 1
            @dataclasses.dataclass(frozen=True, slots=True)
            class Record:
                x: int = 5
                color: Color = Color.RED
            def f(user: UserId, thing: T) -> Record: return Record(UserId(user))
            assert call(f, 3, None) == Record(3)
            assert call(lambda color: color is Color.RED and color, Color.RED) is Color.RED
        """)

    @pytest.mark.skipif(sys.version_info < (3, 12), reason="syntax of 3.12")
    def test_type_aliases(self, run):
        run("""
            type Vector = list[float]
            def f(v: Vector) -> Vector: return v
            assert call(f, [1.0]) == [1.0]
        """)

    def test_exceptions_come_back_as_the_parents_own_class(self, run):
        run("""
            from parallelkit import RemoteError
            class Mine(Exception):
                pass
            class Odd(Exception):
                def __init__(self, a, b): super().__init__(a)
            def fail(cls, *arguments): raise cls(*arguments)
            try:
                call(fail, Mine, "why")
            except Mine as exc:
                assert exc.args == ("why",) and "in fail" in str(exc.__cause__)
            try:
                call(fail, Odd, 1, 2)
            except RemoteError as exc:
                assert exc.type_name == "__main__.Odd" and exc.message == "1"
            try:
                call(sys.exit, 3)
            except RemoteError as exc:
                assert type(exc.__cause__) is SystemExit
        """)

    def test_a_failing_function_does_not_take_its_neighbours_along(self, run):
        run("""
            import threading
            def decorate(function, lock=threading.Lock()):
                def wrapper(*arguments):
                    with lock: return function(*arguments)
                return wrapper
            def first(): return 1
            @decorate
            def second(): return 2
            def third(): return 3
            def f(n): return [first, second, third][n]()
            assert (call(f, 0), call(f, 2)) == (1, 3)
            try:
                call(f, 1)
            except pickling.SerializationError as exc:
                assert "'second'" in str(exc)
            else:
                raise AssertionError
        """)

    def test_a_script_from_standard_input(self):
        script = PRELUDE + "y = 3\ndef f(x): return x + y\nassert call(f, 4) == 7\n"
        subprocess.run(
            [sys.executable, "-"], input=script, env=ENVIRONMENT, text=True, timeout=30, check=True
        )

    def test_a_script_that_is_a_module_of_a_package(self, tmp_path):
        package = tmp_path / "package"
        package.mkdir()
        (package / "__init__.py").touch()
        (package / "sibling.py").write_text("value = 7")
        script = "def f():\n    from .sibling import value\n    return value\nassert call(f) == 7\n"
        (package / "program.py").write_text(PRELUDE + script)
        path = os.pathsep.join([ENVIRONMENT["PYTHONPATH"], str(tmp_path)])
        subprocess.run(
            [sys.executable, "-m", "package.program"],
            env={**os.environ, "PYTHONPATH": path},
            timeout=30,
            check=True,
        )

    def test_locks_travel_while_a_process_is_being_started(self):
        import multiprocessing
        from multiprocessing import context

        lock = multiprocessing.get_context("spawn").Lock()
        with pytest.raises(RuntimeError, match="inheritance"):
            dumps((lambda: 1, lock))
        context.set_spawning_popen(types.SimpleNamespace(duplicate_for_child=lambda handle: handle, _fds=[]))
        try:
            assert loads(dumps((lambda: 1, lock)))[1].acquire()
        finally:
            context.set_spawning_popen(None)


def test_the_import_is_light():
    code = "import sys; import parallelkit._wire.pickling; assert 'cloudpickle' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], env=ENVIRONMENT, timeout=30, check=True)


def test_importable_things_go_by_reference():
    assert dumps((len, Path, [1])) == pickle.dumps((len, Path, [1]), 5)


LARGE = st.sampled_from([0, 1, 1000, (1 << 16) - 1, 1 << 16, 1 << 17, 300_000])
LEAVES = st.one_of(
    st.none(),
    st.text(max_size=3),
    LARGE.map(bytes),
    LARGE.map(bytearray),
    LARGE.map("ä".__mul__),
    LARGE.map(lambda size: 1 << size),
    st.just(len),
)
THINGS = st.recursive(
    LEAVES, lambda inner: st.one_of(st.lists(inner, max_size=4), st.tuples(inner, inner)), max_leaves=8
)


@hypothesis.given(THINGS)
def test_in_pieces_it_is_the_same(thing: Any):
    assert b"".join(dumps_in_pieces(thing)) == dumps(thing)


def test_large_pieces_are_not_copied():
    items = [bytes(1 << 20), bytearray(1 << 20)]
    pieces = dumps_in_pieces(items)
    assert [piece for piece in pieces if len(piece) > 100] == items
    assert any(piece is items[0] for piece in pieces)
    assert any(piece is items[1] for piece in pieces)


@pytest.mark.parametrize("large", [None, bytes(1 << 20), 1 << (1 << 23), "x" * (1 << 20)], ids=type)
@pytest.mark.parametrize("after", [False, True])
def test_in_pieces_names_of_a_script_are_found(large: Any, after: bool, monkeypatch: pytest.MonkeyPatch):
    function = types.FunctionType((lambda: 7).__code__, {"__name__": "__main__"}, "main_global")
    monkeypatch.setattr(sys.modules["__main__"], "main_global", function, raising=False)
    things = [0] * 20_000 + [large, function, large] if after else [function, large]
    pieces = dumps_in_pieces(things)
    assert len(pieces) == 1
    assert loads(pieces[0])[-2 if after else 0]() == 7


def test_in_pieces_what_cannot_be_pickled():
    with pytest.raises(ValueError, match="down"):
        dumps_in_pieces([bytes(1 << 20), Moody("down")])
    assert loads(dumps_in_pieces([lambda: 7])[0])[0]() == 7


def test_a_module_registered_by_value():
    module = types.ModuleType("registered_by_value")
    exec("def f(): return 1", vars(module))
    sys.modules[module.__name__] = module
    try:
        assert loads(dumps(module.f)) is module.f
        functions = FunctionPickles()
        by_reference = functions.of(module.f)
        cloudpickle.register_pickle_by_value(module)
        try:
            assert loads(dumps(module.f)) is not module.f
            assert functions.of(module.f)[0] != by_reference[0]
        finally:
            cloudpickle.unregister_pickle_by_value(module)
    finally:
        del sys.modules[module.__name__]


class Moody:
    """Breaks when it is pickled ("down"), loaded ("up"), or filled on loading ("fill")."""

    def __init__(self, mood: str, error: Any = ValueError, inside: object = None):
        self.mood, self.error, self.inside = mood, error, inside

    def __reduce__(self):
        if self.mood == "down":
            raise self.error("down")
        if self.mood == "up":
            return self.error_on_load, (self.error,)
        return Moody, ("well",), self.__dict__

    @staticmethod
    def error_on_load(error):
        raise error("up")

    def __setstate__(self, state):
        if state["mood"] == "fill":
            raise state["error"]("fill")
        self.__dict__.update(state)


def test_unpicklable():
    failures = pickling.unpicklable([1, Moody("down"), lambda: 1, Moody("down", SystemExit)])
    assert [(offset, type(exc)) for offset, exc in failures.items()] == [
        (1, ValueError),
        (3, SerializationError),
    ]
    with pytest.raises(KeyboardInterrupt):
        pickling.unpicklable([Moody("down", KeyboardInterrupt)])


class TestSalvage:
    def test_broken_items_are_named_and_the_others_saved(self):
        shared = [Moody("fill")]
        items = [
            1,
            Moody("up"),
            {"a": [Moody("fill")]},
            lambda: 7,
            {Moody("up", SystemExit)},
            shared,
            shared,
            "x",
        ]
        saved, failures = pickling.salvage(dumps(items))
        assert [saved[0], saved[3](), saved[7]] == [1, 7, "x"]
        assert {offset: type(exc) for offset, exc in failures.items()} == {
            1: ValueError,
            2: ValueError,
            4: SerializationError,
            5: ValueError,
            6: ValueError,
        }
        assert all(saved[offset] is None for offset in failures)

    def test_a_half_built_object_that_others_got_hold_of(self):
        parent, child = Moody("fill"), Moody("well")
        parent.inside, child.inside = child, parent
        _, failures = pickling.salvage(pickle.dumps([parent, child, 3], 5))
        assert list(failures) == [0, 1]

    def test_globals_that_are_gone(self, monkeypatch):
        class Gone:
            pass

        Gone.__qualname__ = "Gone"
        monkeypatch.setattr(sys.modules[__name__], "Gone", Gone, raising=False)
        pickled = pickle.dumps([Gone, Gone(), 3, functools.partial(len, Gone)], 5)
        monkeypatch.undo()
        saved, failures = pickling.salvage(pickled)
        assert saved == [None, None, 3, None]
        assert {type(exc) for exc in failures.values()} == {AttributeError}

    def test_a_state_setter_that_raises(self):
        class Stated(list):
            def __reduce__(self):
                return dict, (), 1, None, None, _raise

        assert list(pickling.salvage(dumps([1, Stated(), 2]))[1]) == [1]

    def test_a_by_value_pickle_of_main(self, tmp_path):
        path = tmp_path / "script.py"
        path.write_text(
            PRELUDE
            + textwrap.dedent("""
            class Bad:
                def __init__(self, n): self.n = n
                def __setstate__(self, state):
                    if state["n"]: raise KeyError(state["n"])
                    self.n = state["n"]
            saved, failures = pickling.salvage(pickling.dumps([Bad(0), Bad(1), Bad(0)]))
            assert saved[1] is None and saved[0].n == 0
            assert {offset: type(exc) for offset, exc in failures.items()} == {1: KeyError}
        """)
        )
        subprocess.run([sys.executable, path], env=ENVIRONMENT, timeout=30, check=True)

    @pytest.mark.parametrize("damaged", [b"", b"no", pickle.dumps(list(range(1000)), 5)[:-20]])
    def test_a_damaged_stream(self, damaged):
        with pytest.raises(SerializationError):
            pickling.salvage(damaged)


def _raise(*arguments):
    raise ValueError


class TakesTwo(Exception):
    def __init__(self, one, two):
        super().__init__(one)


class Unprintable(Exception):
    def __str__(self):
        raise SystemExit

    __repr__ = __str__


class Unreducible(Exception):
    def __reduce__(self):
        raise SystemExit


class NotAnException(Exception):
    def __reduce__(self):
        return int, ()


class Strict(Exception):
    def __setattr__(self, name, value):
        raise AttributeError(name)


def chain(error: BaseException) -> list[BaseException]:
    """An exception, its cause, the cause of that, and so on."""
    causes = [error]
    while causes[-1].__cause__ is not None:
        causes.append(causes[-1].__cause__)
    return causes


class TestExceptions:
    @staticmethod
    def there_and_back(exc: BaseException) -> Exception:
        packed = pack_exception(exc)
        error = unpack_exception(pickle.loads(pickle.dumps(packed)))
        assert type(chain(error)[-1]) is RemoteTraceback
        return error

    @pytest.mark.parametrize("cls", [TakesTwo, Unprintable, Unreducible, NotAnException])
    def test_what_cannot_be_rebuilt(self, cls):
        error = self.there_and_back(cls(1, 2))
        if cls is not Unprintable:
            assert type(error) is RemoteError
            assert error.type_name.endswith(f".{cls.__name__}")

    def test_attributes_notes_and_groups(self):
        exc = ExceptionGroup("several", [ValueError("one"), KeyError("two")])
        exc.add_note("a note")
        exc.detail = 7
        error = self.there_and_back(exc)
        assert type(error) is ExceptionGroup
        assert [type(inner) for inner in error.exceptions] == [ValueError, KeyError]
        assert (error.__notes__, error.detail) == (["a note"], 7)

    def test_what_led_to_it(self):
        try:
            try:
                try:
                    {}["missing"]
                except KeyError:
                    int("three")
            except ValueError as exc:
                raise TakesTwo(1, 2) from exc
        except TakesTwo as exc:
            error = self.there_and_back(exc)
        assert list(map(type, chain(error))) == [RemoteError, ValueError, RemoteTraceback]
        assert type(error.__cause__.__context__) is KeyError
        assert "missing" in str(chain(error)[-1])

    def test_a_context_that_is_not_shown(self):
        try:
            try:
                int("three")
            except ValueError:
                raise KeyError("four") from None
        except KeyError as exc:
            error = self.there_and_back(exc)
        assert type(error.__context__) is ValueError
        assert error.__suppress_context__

    def test_a_chain_that_bites_its_tail(self):
        first, second = ValueError("first"), ValueError("second")
        first.__cause__, second.__cause__ = second, first
        assert [str(error) for error in chain(self.there_and_back(first))[:-1]] == ["first", "second"]

    def test_a_class_that_forbids_assignment(self):
        assert type(self.there_and_back(Strict("s"))) is Strict

    @pytest.mark.parametrize("cls", [SystemExit, KeyboardInterrupt, GeneratorExit])
    def test_those_that_end_more_than_a_task(self, cls):
        error = self.there_and_back(cls("out"))
        assert type(error) is RemoteError
        assert type(error.__cause__) is cls

    def test_a_reducer_that_exits_when_loaded(self):
        pickled = dumps(Moody("well")).replace(b"well", b"up!!")
        packed = Packed("there.Error", "why", pickled, text="trace")
        assert str(unpack_exception(packed)) == "there.Error: why"


class Namespace:
    """A stand-in for `__main__`: functions that travel by value, with globals of their own."""

    def __init__(self, source: str):
        self.names: dict[str, Any] = {"__name__": "nowhere_to_be_found"}
        exec(textwrap.dedent(source), self.names)

    def __getitem__(self, name: str) -> Any:
        return self.names[name]


SOURCE = """
    import math
    x = 1
    def f(a=1, *, b=2) -> int: return abs(g(a)) + x + b + math.pi
    def g(a): return h(a) + y
    def h(a): return a if a else f(a)
    y = 2
    def make(n):
        def closed(): return n
        def set(value):
            nonlocal n
            n = value
        return closed, set
"""


def redefine(names: dict[str, Any]) -> None:
    exec("def h(a): return -a", names)


CHANGES: dict[str, Callable[[dict[str, Any]], object]] = {
    "global": lambda names: names.update(x=3),
    "global of a global": lambda names: names.update(y=3),
    "global made mutable": lambda names: names.update(y=[3]),
    "global removed": lambda names: names.pop("y"),
    "global added over a builtin": lambda names: names.update(abs=3),
    "function of a function": redefine,
    "default": lambda names: setattr(names["f"], "__defaults__", (4,)),
    "default of a function": lambda names: setattr(names["g"], "__defaults__", (4,)),
    "keyword default": lambda names: setattr(names["f"], "__kwdefaults__", {"b": 5}),
    "keyword default in place": lambda names: names["f"].__kwdefaults__.update(b=5),
    "annotation in place": lambda names: names["f"].__annotations__.update(a=float),
    "code": lambda names: setattr(names["f"], "__code__", names["g"].__code__),
    "code of a function": lambda names: setattr(names["g"], "__code__", (lambda a: 1).__code__),
    "attribute": lambda names: setattr(names["f"], "attribute", 1),
    "attribute of a function": lambda names: setattr(names["h"], "attribute", 1),
    "name": lambda names: setattr(names["f"], "__name__", "other"),
    "docstring": lambda names: setattr(names["f"], "__doc__", "other"),
}


class TestFunctionPickles:
    @pytest.fixture
    def names(self) -> dict[str, Any]:
        return Namespace(SOURCE).names

    @pytest.mark.parametrize("change", CHANGES)
    def test_a_change_is_seen_and_no_change_is_free(self, names, change):
        functions, f = FunctionPickles(), names["f"]
        before = functions.of(f)
        assert functions.of(f) is not before
        assert functions.of(f) == before
        assert functions.keeps(before[0])
        CHANGES[change](names)
        after = functions.of(f)
        assert after[0] != before[0]
        assert after[1] == dumps(f) != before[1]
        assert functions.retired() == [before[0]]
        assert functions.retired() == []

    def test_functions_of_a_script(self, run):
        run("""
            functions = pickling.FunctionPickles()
            class C: pass
            values = [1]
            n = 1
            def g(): return n
            def f(): return g()
            def uses_a_class(): return C
            def uses_a_list(): return values
            first = functions.of(f)
            assert functions.of(f) == first
            def g(): return -n
            second = functions.of(f)
            assert second[0] != first[0] and functions.of(f) == second
            n = 2
            assert functions.of(f)[0] != second[0]
            for function in (uses_a_class, uses_a_list):
                assert functions.of(function)[0] != functions.of(function)[0]
        """)

    def test_a_cell_that_is_bound_again(self, names):
        closed, rebind = names["make"](1)
        functions = FunctionPickles()
        first = functions.of(closed)
        assert functions.of(closed) == first
        rebind(2)
        second = functions.of(closed)
        assert second[0] != first[0]
        assert loads(second[1])() == 2
        rebind([2])
        assert functions.of(closed)[0] != functions.of(closed)[0]

    def test_an_import_elsewhere_costs_a_look_and_no_new_key(self, names, monkeypatch):
        functions = FunctionPickles()
        first = functions.of(names["f"])
        monkeypatch.setitem(sys.modules, "imported_meanwhile", types.ModuleType("imported_meanwhile"))
        assert functions.of(names["f"]) == first
        assert functions.retired() == []

    @pytest.mark.parametrize("function", [len, Path, Moody, test_unpicklable, Moody.error_on_load])
    def test_by_reference(self, function):
        functions = FunctionPickles()
        assert functions.of(function) == functions.of(function)

    def test_what_may_change_unseen_is_pickled_each_time(self, names):
        values = [1]
        functions = FunctionPickles()

        class Local:
            def __call__(self):
                return values

        names["mutable"] = {}
        exec("def uses_mutable(): return mutable", names)
        for function in [
            lambda: values,
            lambda a=values: a,
            lambda: Local,
            functools.partial(len, values),
            Moody("well").__setstate__,
            values.append,
            Local(),
            names["uses_mutable"],
        ]:
            (one, pickled), (two, _) = functions.of(function), functions.of(function)
            assert one != two
            assert not functions.keeps(one)
            assert callable(loads(pickled))
        assert functions.retired() == []

    def test_the_oldest_goes_first(self):
        functions = FunctionPickles(keep=2)
        first, second = functions.of(len)[0], functions.of(max)[0]
        functions.of(len)
        functions.of(min)
        assert functions.retired() == [second]
        assert functions.keeps(first)
        assert functions.of(len)[0] == first

    def test_keys_are_unique_over_all(self):
        assert FunctionPickles().of(len)[0] != FunctionPickles().of(len)[0]

    def test_what_cannot_be_pickled_raises(self):
        generator = (i for i in ())
        with pytest.raises(TypeError, match="generator"):
            FunctionPickles().of(lambda: generator)


def test_enums_by_value_are_one_class():
    Color = enum.Enum("Color", "RED", module="nowhere_to_be_found")  # noqa: N806
    assert loads(dumps(Color.RED)) is Color.RED
