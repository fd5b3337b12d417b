"""The README and the docs do what they say.

The ```python blocks of a file make one script, in their order and in one namespace. It runs as a user
would run it: as `__main__`, in a process of its own, in an empty folder. Blocks of `>>>` lines go
through doctest, in the same namespace, where they stand. A block is left out by a line directly above
its fence:

    <!-- not run: the reason -->

Each line of the script has the number of its line in the Markdown file, so a traceback points there.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[1]
FILES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
SCRIPT_SECONDS = 50  # below the limit of a test in pyproject.toml, so that the output is shown

FENCE = re.compile(r"^(?P<indent> *)(?P<ticks>`{3,})(?P<language>[\w+-]*)")
NOT_RUN = re.compile(r"^ *<!-- not run: \S.* -->$")
LINK = re.compile(r"\[[^\]]*\]\((?P<target>[^)\s]+)\)")

DOCTEST_MODULE = '''\
import doctest


def check(source, namespace, name, line):
    """Run the >>> examples of `source`, which begins at line `line` (from 0), in `namespace`."""
    test = doctest.DocTestParser().get_doctest(source, namespace, name, name, line)
    test.globs = namespace  # not the copy: what an example defines, the next block can use
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    if runner.run(test, clear_globs=False).failed:
        raise SystemExit(1)
'''


class Block(NamedTuple):
    line: int  # of its first line, from 1
    source: str

    @property
    def is_interactive(self) -> bool:
        return self.source.lstrip().startswith(">>>")


def python_blocks(text: str) -> list[Block]:
    """The blocks of `text` that are to run; ``` inside a longer fence is text."""
    blocks: list[Block] = []
    opened: re.Match[str] | None = None
    start = 0
    lines = text.splitlines()
    for number, line in enumerate(lines):
        if opened is None:
            opened = FENCE.match(line)
            start = number
        elif line.strip() == opened["ticks"]:
            not_run = start > 0 and NOT_RUN.match(lines[start - 1])
            if opened["language"] in ("python", "pycon") and not not_run:
                source = textwrap.dedent("\n".join(lines[start + 1 : number]))
                blocks.append(Block(start + 2, source))
            opened = None
    assert opened is None, f"the fence of line {start + 1} is never closed"
    return blocks


def script(text: str, name: str) -> str:
    lines = [""] * len(text.splitlines())
    for block in python_blocks(text):
        first = block.line - 1
        if block.is_interactive:
            lines[first] = (
                f"__import__('doctest_of_docs').check({block.source!r}, globals(), {name!r}, {first})"
            )
        else:
            source = block.source.splitlines()
            lines[first : first + len(source)] = source
    return "\n".join(lines) + "\n"


def run_script(path: Path, folder: Path) -> None:
    """Run `path` in `folder`; on failure, and when it takes too long, fail with its output."""
    process = subprocess.Popen(
        [sys.executable, path],
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        encoding="utf-8",
        env={**os.environ, "PYTHONIOENCODING": "utf-8"},
        start_new_session=True,  # so that it can be killed with its workers
    )
    try:
        # Comes back when nobody holds the pipe any more: a worker that outlives the script is seen here.
        output, _ = process.communicate(timeout=SCRIPT_SECONDS)
    except subprocess.TimeoutExpired:
        if hasattr(os, "killpg"):
            os.killpg(process.pid, signal.SIGKILL)
        process.kill()
        output, _ = process.communicate()
        pytest.fail(f"not at its end after {SCRIPT_SECONDS} s; it printed:\n{output}", pytrace=False)
    if process.returncode != 0:
        pytest.fail(f"ended with {process.returncode}; it printed:\n{output}", pytrace=False)


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize(
    "path", [path for path in FILES if python_blocks(path.read_text(encoding="utf-8"))], ids=name_of
)
def test_examples_run(path, tmp_path):
    name = name_of(path)
    beside, empty = tmp_path / "beside", tmp_path / "empty"
    beside.mkdir()
    empty.mkdir()
    (beside / "doctest_of_docs.py").write_text(DOCTEST_MODULE, encoding="utf-8")
    # A name that hides no module: docs/how-to/random.md must not become random.py.
    program = beside / (re.sub(r"\W", "_", name) + ".py")
    program.write_text(script(path.read_text(encoding="utf-8"), name), encoding="utf-8")
    run_script(program, empty)


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_links_lead_somewhere(path):
    targets = [link["target"].partition("#")[0] for link in LINK.finditer(path.read_text(encoding="utf-8"))]
    missing = [
        target
        for target in targets
        if target and "://" not in target and not target.startswith("mailto:")
        if not (path.parent / target).exists()
    ]
    assert missing == []


@pytest.mark.parametrize("name", ["demo", "tests"])
def test_readme_command_is_one_line(name):
    # As .ci/run reads them.
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(re.findall(rf"^<!-- command: {name} -->\n```bash\n[^\n]+\n```$", readme, re.MULTILINE)) == 1


# The reading of Markdown itself.


def test_script_keeps_line_numbers_and_order():
    text = textwrap.dedent("""\
        # Title

        ```python
        a = 1
        ```

        <!-- not run: needs a cluster -->
        ```python
        a = 2
        ```

        ```bash
        a = 3
        ```

        - in a list

          ```python
          a += 4
          ```
        """)
    lines = script(text, "x.md").splitlines()
    assert {number: line for number, line in enumerate(lines, 1) if line} == {4: "a = 1", 19: "a += 4"}


def test_a_longer_fence_holds_fences():
    assert python_blocks("````markdown\n```python\nnonsense(\n```\n````\n") == []


@pytest.mark.parametrize(("shown", "passes"), [("3", True), ("4", False)])
def test_interactive_blocks_are_checked(tmp_path, shown, passes):
    sources = ["a = 1", f">>> b = a + 2\n>>> b\n{shown}", "assert b == 3"]
    text = "".join(f"```python\n{source}\n```\n" for source in sources)
    (tmp_path / "doctest_of_docs.py").write_text(DOCTEST_MODULE, encoding="utf-8")
    (tmp_path / "x_md.py").write_text(script(text, "x.md"), encoding="utf-8")
    if passes:
        run_script(tmp_path / "x_md.py", tmp_path)
    else:
        with pytest.raises(pytest.fail.Exception, match=r'File "x.md", line 6'):
            run_script(tmp_path / "x_md.py", tmp_path)
