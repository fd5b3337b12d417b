"""`python -m parallelkit` and its demo: the counts, the comparison, exit codes, what is shown meanwhile."""

from __future__ import annotations

import io
import os
import re
import signal
import subprocess
import sys
import time
from operator import add
from pathlib import Path

import pytest

from parallelkit import _demo, cpu_count, pmap_reduce
from parallelkit.__main__ import main
from parallelkit._demo import LOOP, READ, SKIPPED, Run, count_names, plain_loop, source_files, verdict
from parallelkit.backends import backend_names
from programs.watching import wait_until_it_waits

BACKENDS = list(_demo.BACKENDS)

FILES = {
    "a.py": b"import os\nself = os\n",
    "bracket.py": b"x = (\n",
    "latin.py": b"\xff = y\n",
    "notes.txt": b"not = python\n",
    "pkg/b.py": b"x = self  # a comment\nos = 'a string'\nmatch = 2\n",
    "pkg/codec.py": b"# coding: hex\n",
}
PYTHON_FILES = ["a.py", "bracket.py", "latin.py", "pkg/b.py", "pkg/codec.py"]

# By hand: files in that order, and in each the names as they come. `match` is a keyword only in its place.
COUNTS = [(READ, 2), ("os", 3), ("self", 2), (SKIPPED, 3), ("x", 1), ("match", 1)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "sources"
    for name, content in FILES.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return root


@pytest.fixture(autouse=True)
def _no_override(monkeypatch):
    for name in ("PARALLELKIT_CPU_COUNT", "PYTHON_CPU_COUNT"):
        monkeypatch.delenv(name, raising=False)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def python(*arguments: object, **options) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(
        command, stdin=subprocess.DEVNULL, text=True, encoding="utf-8", timeout=50, **options
    )


def rows(output: str) -> dict[str, str]:
    """The table, as {name: verdict}."""
    found = re.findall(r"^(\S.*?) {2,}(?:[\d.]+|-) {2,}(?:[\d.]+|-) {2,}(\S.*)$", output, re.MULTILINE)
    return dict(found)


# Files


def test_files_of_a_folder_come_folder_by_folder_in_order(folder):
    assert source_files(str(folder)) == [os.path.join(folder, *name.split("/")) for name in PYTHON_FILES]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_what_is_no_file_is_left_out(folder):
    os.mkfifo(folder / "pipe.py")
    (folder / "nowhere.py").symlink_to(folder / "missing.py")
    (folder / "empty.py").mkdir()
    assert len(source_files(str(folder))) == len(PYTHON_FILES)


def test_installed_packages_are_no_part_of_the_standard_library(folder, monkeypatch):
    package = folder / "site-packages" / "package.py"
    package.parent.mkdir()
    package.touch()
    assert str(package) in source_files(str(folder))
    monkeypatch.setattr(_demo, "standard_library", lambda: str(folder))
    assert len(source_files(str(folder))) == len(PYTHON_FILES)


def test_the_standard_library_has_many_files():
    paths = source_files(_demo.standard_library())
    assert len(paths) > 400  # some systems leave out its tests
    assert any(os.path.basename(path) == "tokenize.py" for path in paths)


# Counting


def test_names_of_a_file_in_order(folder):
    assert list(count_names(str(folder / "a.py"))) == [(READ, 1), ("os", 2), ("self", 1)]


@pytest.mark.parametrize("name", ["bracket.py", "latin.py", "pkg/codec.py", "missing.py"])
def test_what_cannot_be_tokenized_is_skipped_as_a_whole(folder, name):
    assert list(count_names(str(folder / name))) == [(SKIPPED, 1)]


def test_the_loop_counts_right(folder):
    assert list(plain_loop(source_files(str(folder))).items()) == COUNTS


@pytest.mark.parametrize("backend", BACKENDS)
def test_every_backend_counts_right(folder, backend):
    counts = pmap_reduce(count_names, add, source_files(str(folder)), backend=backend, max_workers=2)
    assert list(counts.items()) == COUNTS


def test_verdict():
    assert verdict({"a": 1, "b": 2}, {"a": 1, "b": 2}) == "equal"
    assert verdict({"b": 2, "a": 1}, {"a": 1, "b": 2}) == "DIFFERS: the order of the keys"
    assert verdict({"a": 1}, {"a": 1, "b": 2}) == "DIFFERS: 1 count"
    assert verdict({"a": 1, "b": 0, "c": 1}, {"a": 1, "b": 2}) == "DIFFERS: 2 counts"


# The demo


@pytest.fixture
def spoil(monkeypatch):
    """Have the thread backend give something else: `spoil(how)`, where `how` is given the right counts."""

    def spoil(how):
        def spoilt(*arguments, backend, **options):
            counts = pmap_reduce(*arguments, backend=backend, **options)
            return how(counts) if backend == "thread" else counts

        monkeypatch.setattr(_demo, "pmap_reduce", spoilt)

    return spoil


def test_all_backends_are_equal(folder, capsys):
    assert main(["demo", str(folder)]) == 0
    output = capsys.readouterr().out
    assert rows(output) == {LOOP: "the reference", **dict.fromkeys(BACKENDS, "equal")}
    assert f"below {folder}\n" in output
    assert "5 Python files" in output
    assert "2 files read, 3 skipped" in output
    assert "4 different identifiers, 7 in all" in output


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        (lambda counts: {**counts, "os": 4}, "DIFFERS: 1 count"),
        (lambda counts: {**counts, SKIPPED: 0}, "DIFFERS: 1 count"),
        (lambda counts: dict(reversed(counts.items())), "DIFFERS: the order of the keys"),
        (lambda counts: {}["no such key"], "FAILED: KeyError: 'no such key'"),
    ],
)
def test_one_that_differs_is_named_and_the_exit_code_tells(folder, capsys, spoil, how, expected):
    spoil(how)
    assert main(["demo", str(folder), "--backends", "serial,thread,asyncio"]) == 1
    output = capsys.readouterr().out
    verdicts = {LOOP: "the reference", "serial": "equal", "thread": expected, "asyncio": "equal"}
    assert rows(output) == verdicts
    assert "Not the same result as the loop's: thread.\n" in output


def test_speed_up_is_against_the_loop(capsys):
    _demo._print_runs([Run(LOOP, 8.0, "the reference"), Run("process", 2.0, "equal")])
    assert re.search(r"^process +2\.00 +4\.00 +equal$", capsys.readouterr().out, re.MULTILINE)


def test_commonest_first_and_of_equals_the_one_that_came_first(folder, capsys):
    main(["demo", str(folder), "--backends", "serial", "--top", "3"])
    output = capsys.readouterr().out
    assert re.findall(r"^ +(\d) +(\w+) +(\d) +#+$", output, re.MULTILINE) == [
        ("1", "os", "3"),
        ("2", "self", "2"),
        ("3", "x", "1"),
    ]


def test_nothing_readable_is_a_result_too(tmp_path, capsys):
    (tmp_path / "a.py").write_bytes(FILES["bracket.py"])
    assert main(["demo", str(tmp_path), "--backends", "serial,thread"]) == 0
    assert "0 files read, 1 skipped" in capsys.readouterr().out


def test_options_reach_the_backends(folder, monkeypatch, capsys):
    seen = []

    def recorded(mapper, combine, paths, **options):
        seen.append(options)
        return plain_loop(paths)

    monkeypatch.setattr(_demo, "pmap_reduce", recorded)
    assert main(["demo", str(folder), "--backends", "thread, serial,thread", "--max-workers", "3"]) == 0
    ahead = _demo.FILES_AHEAD * cpu_count()
    assert seen == [
        {"backend": "thread", "max_workers": 3, "buffersize": ahead},
        {"backend": "serial", "max_workers": 3, "buffersize": ahead},
    ]


# What cannot be done


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--backends", "thread,warp"],
            f"there is no backend 'warp'; there are {', '.join(backend_names())}",
        ),
        (["--backends", ""], "there is no backend ''"),
        (["--max-workers", "0"], "'0' will not do; give a whole number, at least 1"),
        (["--max-workers", "two"], "'two' will not do; give a whole number, at least 1"),
        (["--top", "-1"], "'-1' will not do; give a whole number, at least 0"),
    ],
)
def test_a_wrong_option(folder, capsys, arguments, message):
    with pytest.raises(SystemExit) as exit_:
        main(["demo", str(folder), *arguments])
    assert exit_.value.code == 2
    assert message in capsys.readouterr().err


def test_a_folder_without_python_files(tmp_path, capsys):
    with pytest.raises(SystemExit) as exit_:
        main(["demo", str(tmp_path)])
    assert exit_.value.code == 2
    assert f"there are no .py files below {str(tmp_path)!r}; name a folder" in capsys.readouterr().err


def test_no_such_folder(tmp_path, capsys):
    missing = str(tmp_path / "missing")
    with pytest.raises(SystemExit) as exit_:
        main(["demo", missing])
    assert exit_.value.code == 2
    assert f"there is no folder {missing!r}; name one that exists" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [[], ["demo"]])
def test_a_wrong_number_of_cores_in_the_environment(monkeypatch, capsys, arguments):
    monkeypatch.setenv("PARALLELKIT_CPU_COUNT", "many")
    with pytest.raises(SystemExit) as exit_:
        main(arguments)
    assert exit_.value.code == 2
    assert "PARALLELKIT_CPU_COUNT is 'many'" in capsys.readouterr().err


# Progress


@pytest.fixture(params=["tqdm", "no tqdm"])
def tqdm(request, monkeypatch) -> bool:
    """Whether tqdm is installed: both are tried."""
    if request.param == "tqdm":
        pytest.importorskip("tqdm")
        return True
    monkeypatch.setitem(sys.modules, "tqdm", None)
    return False


@pytest.fixture
def on_terminal(monkeypatch):
    """Call a function with a terminal as stderr, and return what it showed there.

    The fixture itself cannot replace stderr: pytest puts its own there when the test begins.
    """

    def on_terminal(function, *arguments) -> str:
        with monkeypatch.context() as patch:
            patch.setattr(sys, "stderr", terminal := Terminal())
            assert function(*arguments) == 0
        return terminal.getvalue()

    return on_terminal


@pytest.mark.parametrize("backend", BACKENDS)
def test_progress_counts_all_files(folder, tqdm, on_terminal, backend):
    shown = on_terminal(main, ["demo", str(folder), "--backends", backend])
    assert "\r" in shown
    assert bool(re.search(r"\d\d:\d\d", shown)) is tqdm  # only its bars tell the time
    lines = shown.replace("\r", "\n").splitlines()
    for name in (LOOP, backend):
        assert any(re.search(rf"^{name} +100% .* 5 of 5 files", line) for line in lines)
    assert not any("6 of 5" in line for line in lines)


def test_progress_grows_with_what_is_handed_out(monkeypatch):
    monkeypatch.setattr(sys, "stderr", stderr := Terminal())
    paths = _demo._plain_progress(["a", "b", "c", "d"], "label")
    shown = []
    for _ in paths:
        shown.append(re.findall(r"(\d) of 4", stderr.getvalue())[-1:])
    assert shown == [[], ["1"], ["2"], ["3"]]
    assert stderr.getvalue().endswith(" 4 of 4 files\n")


@pytest.mark.parametrize("installed", [True, False])
def test_where_no_terminal_is_progress_is_one_line_a_backend(folder, capsys, monkeypatch, installed):
    if not installed:
        monkeypatch.setitem(sys.modules, "tqdm", None)
    assert main(["demo", str(folder), "--backends", "thread,serial"]) == 0
    shown = capsys.readouterr().err
    assert "\r" not in shown
    assert [line.split("100%")[0].strip() for line in shown.splitlines()] == [LOOP, "thread", "serial"]
    assert shown.count("5 of 5 files") == 3


def test_no_progress(folder, tqdm, on_terminal):
    assert on_terminal(main, ["demo", str(folder), "--backends", "thread", "--no-progress"]) == ""


# The program as such


def test_the_overview_says_how_many_cores_and_why():
    shown = python("-m", "parallelkit", capture_output=True)
    assert shown.returncode == 0, shown.stderr
    assert f"cpu_count() = {cpu_count()}, because " in shown.stdout
    assert f"backends: {', '.join(backend_names())}\n" in shown.stdout
    assert f"Python {sys.version.split()[0]}" in shown.stdout


def test_the_overview_follows_the_environment(monkeypatch):
    monkeypatch.setenv("PARALLELKIT_CPU_COUNT", "3")
    shown = python("-m", "parallelkit", capture_output=True)
    assert "cpu_count() = 3, because PARALLELKIT_CPU_COUNT gives 3\n" in shown.stdout


def test_the_overview_names_the_default_start_method(capsys):
    import multiprocessing

    assert main([]) == 0
    methods = multiprocessing.get_all_start_methods()
    expected = "forkserver" if "forkserver" in methods else "spawn"
    assert f"worker processes are started by: {expected}\n" in capsys.readouterr().out


def test_the_demo_as_a_program(folder):
    shown = python("-m", "parallelkit", "demo", folder, capture_output=True)
    assert shown.returncode == 0, shown.stderr
    assert rows(shown.stdout) == {LOOP: "the reference", **dict.fromkeys(BACKENDS, "equal")}


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="needs affinity")
def test_on_one_core(folder, tmp_path):
    program = tmp_path / "one_core.py"
    program.write_text(
        "import os, sys\n"
        "os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])\n"
        "from parallelkit.__main__ import main\n"
        "sys.exit(main(sys.argv[1:]))\n"
    )
    shown = python(program, "demo", folder, capture_output=True)
    assert shown.returncode == 0, shown.stderr
    assert "on 1 core.\n" in shown.stdout
    assert rows(shown.stdout) == {LOOP: "the reference", **dict.fromkeys(BACKENDS, "equal")}


def test_names_that_stdout_cannot_spell(tmp_path):
    (tmp_path / "a.py").write_text("größe = 1", encoding="utf-8")
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    arguments = ["-m", "parallelkit", "demo", tmp_path, "--backends", "serial"]
    shown = python(*arguments, capture_output=True, env=environment)
    assert shown.returncode == 0, shown.stderr
    assert "gr\\xf6\\xdfe" in shown.stdout


def test_a_reader_who_has_had_enough(folder):
    reading, writing = os.pipe()
    os.close(reading)
    try:
        arguments = ["-m", "parallelkit", "demo", folder, "--backends", "serial", "--no-progress"]
        shown = python(*arguments, stdout=writing, stderr=subprocess.PIPE)
    finally:
        os.close(writing)
    assert shown.returncode == 1
    assert shown.stderr == ""


def test_the_package_does_not_import_the_demo():
    code = "import sys, parallelkit; sys.exit(any(m in sys.modules for m in ('parallelkit._demo', 'tqdm')))"
    assert python("-c", code).returncode == 0


# Ctrl-C


def test_an_interrupt_is_told_shortly(folder, monkeypatch, capsys):
    def interrupted(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(_demo, "pmap_reduce", interrupted)
    assert main(["demo", str(folder), "--backends", "thread", "--no-progress"]) == 130
    assert capsys.readouterr().err == "\ninterrupted\n"


def _interrupt(folder: Path, arguments, environment=None, *, waits: bool = True) -> tuple[int, str]:
    """Run Python, and press Ctrl-C when `started` is in the folder; when it was told so, put `go on` there.

    Args:
        waits: its main thread waits for another one, or for a process, when `started` is there.

    Returns:
        The exit code, and what was written to stderr.
    """
    with subprocess.Popen(
        [sys.executable, *map(str, arguments)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        start_new_session=True,  # a group of its own, which Ctrl-C goes to as from a terminal
    ) as process:
        try:
            while not (folder / "started").exists():
                assert process.poll() is None
                time.sleep(0.01)
            if waits:
                wait_until_it_waits(process.pid)
            os.killpg(process.pid, signal.SIGINT)
            told = ""
            for line in process.stderr:
                told += line
                if line == "interrupted\n":
                    (folder / "go on").touch()  # only now, so what was told did not wait for the item
        except BaseException:  # the time limit of the test, too
            os.killpg(process.pid, signal.SIGKILL)
            raise
    return process.returncode, told


WAITING = """
import sys, time
from pathlib import Path
from parallelkit import _demo, current_worker
from parallelkit.__main__ import main

folder = Path(sys.argv[1])
count_names = _demo.count_names

def wait_in_a_worker(path):
    if current_worker() is not None:
        (folder / "started").touch()
        while not (folder / "go on").exists():
            time.sleep(0.01)
    return count_names(path)

_demo.count_names = wait_in_a_worker
sys.exit(main(["demo", str(folder), "--max-workers", "1", "--backends", sys.argv[2]]))
"""


@pytest.mark.skipif(not hasattr(os, "killpg"), reason="needs process groups")
@pytest.mark.parametrize("backend", BACKENDS)
def test_ctrl_c_in_the_middle_of_an_item(folder, tmp_path, backend):
    program = tmp_path / "waiting.py"
    program.write_text(WAITING)
    code, told = _interrupt(folder, [program, folder, backend], waits=backend != "serial")
    assert code == 130
    assert "interrupted\n" in told
    assert "Traceback" not in told


SLOW_TO_BOOT = """
import os, sys, time
from pathlib import Path

command = " ".join(sys.orig_argv)
if "multiprocessing.forkserver" in command or "multiprocessing.spawn" in command:
    folder = Path(os.environ["DEMO_FOLDER"])
    (folder / "started").touch()
    while not (folder / "go on").exists():
        time.sleep(0.01)
"""


@pytest.mark.skipif(not hasattr(os, "killpg"), reason="needs process groups")
def test_ctrl_c_while_worker_processes_boot(folder, tmp_path):
    # Every interpreter imports sitecustomize, first of all: an import that takes its time.
    (tmp_path / "sitecustomize.py").write_text(SLOW_TO_BOOT)
    paths = [str(tmp_path), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        "DEMO_FOLDER": str(folder),
    }
    code, told = _interrupt(
        folder, ["-m", "parallelkit", "demo", folder, "--backends", "process"], environment
    )
    assert code == 130
    assert "interrupted\n" in told
    assert "Traceback" not in told


STRUCK = """
import sys, threading
from parallelkit.__main__ import main

start = threading.Thread.start

def strike(thread):
    if thread.name.startswith("parallelkit"):
        threading.Thread.start = start
        raise KeyboardInterrupt
    start(thread)

threading.Thread.start = strike
sys.exit(main(["demo", sys.argv[1], "--no-progress", "--backends", sys.argv[2]]))
"""


@pytest.mark.parametrize("backend", ["thread", "process", "asyncio"])
def test_ctrl_c_when_a_backend_is_about_to_start_its_thread(folder, tmp_path, backend):
    program = tmp_path / "struck.py"
    program.write_text(STRUCK)
    shown = python(program, folder, backend, capture_output=True)
    assert shown.returncode == 130
    assert shown.stderr == "\ninterrupted\n"
