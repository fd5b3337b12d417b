"""What a parent that was killed leaves behind in its temporary folder: nothing."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import psutil
import pytest

from programs.watching import HERE, METHODS, kill_tree, run, start, wait_until_gone

pytestmark = pytest.mark.timeout(60)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
@pytest.mark.parametrize("method", METHODS)
def test_no_temporary_file_outlives_a_parent_that_is_killed(tmp_path: Path, method: str, number: int) -> None:
    program = start([HERE / "busy.py", method, "sleep"], env={**os.environ, "TMPDIR": str(tmp_path)})
    assert program.stdout is not None
    try:
        for _ in range(2):
            assert program.stdout.readline(), "each worker says that it is busy"
        below = psutil.Process(program.pid).children(recursive=True)
        os.kill(program.pid, number)
        assert not wait_until_gone(below)
        assert not list(tmp_path.iterdir())
    finally:
        kill_tree(program)
        program.communicate()


@pytest.mark.skipif("forkserver" not in METHODS, reason="there is no fork server here")
def test_the_folder_of_a_parent_that_lives_stays() -> None:
    out, err = run(
        [
            "-c",
            """
from multiprocessing import forkserver
from parallelkit import Executor
for _ in range(2):
    with Executor("process", 1, "forkserver") as executor:
        print(executor.submit(abs, -1).result())
    forkserver._forkserver._stop()  # the next one listens in the same folder
""",
        ]
    )
    assert (out, err) == ("1\n1\n", "")
