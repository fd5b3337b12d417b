"""`python -m parallelkit`: how many cores there are to use, and why; with `demo`, see them at work."""

from __future__ import annotations

import argparse
import io
import os
import platform
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version

from ._demo import BACKENDS, TOP, demo, source_files, standard_library
from .backends import backend_names
from .cpus import describe

__all__ = ["main"]

INTERRUPTED = 130
"""The exit code of a program that Ctrl-C ended: 128 and the number of the signal, as in a shell."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line; None for the one of this process.

    Returns:
        The exit code: 0, or 1 where a result of the demo differs, or 130 after Ctrl-C.

    Raises:
        SystemExit: the command line asks for help (0) or for something that cannot be done (2).
    """
    parser = _parser()
    options = parser.parse_args(arguments)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # identifiers and paths may be of any alphabet
    try:
        code = _run(options, parser)
        sys.stdout.flush()
    except KeyboardInterrupt:
        sys.stderr.write("\ninterrupted\n")  # in one piece, whoever else writes there
        code = INTERRUPTED
    except BrokenPipeError:  # whoever reads has had enough, as `head` has; Python is not to try again at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1
    return code


def _run(options: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    try:
        cores = describe()
        files = source_files(options.folder) if options.command == "demo" else []
    except ValueError as error:  # no files, or a wrong number in the environment; the message tells the cure
        parser.error(str(error))
    if options.command is None:
        _print_overview(cores)
        return 0
    same = demo(
        options.folder,
        files,
        backends=options.backends,
        max_workers=options.max_workers,
        top=options.top,
        progress=options.progress,
    )
    return 0 if same else 1


def _print_overview(cores: str) -> None:
    print(f"parallelkit {_version()}, Python {platform.python_version()} on {platform.system()}\n")
    print(f"{cores}\n")
    print(f"backends: {', '.join(backend_names())}")
    if os.name == "posix":
        from ._wire.starting import start_context

        print(f"worker processes are started by: {start_context(None).get_start_method()}")
    print()
    print("See it at work: python -m parallelkit demo")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m parallelkit",
        description="Print how many cores this process may use, and why; what backends there are.",
    )
    parser.add_argument("--version", action="version", version=f"parallelkit {_version()}")
    commands = parser.add_subparsers(dest="command", metavar="[demo]")
    demo_parser = commands.add_parser(
        "demo",
        help="count identifiers in Python files, on every backend, and compare",
        description="Count the identifiers in Python files with pmap_reduce, on every backend, and compare: "
        "seconds, and whether the results are equal. Exit code 1 if one is not.",
    )
    demo_parser.add_argument(
        "folder",
        nargs="?",
        default=standard_library(),
        help="take the .py files below it; without it, the sources of the Python standard library",
    )
    demo_parser.add_argument(
        "--backends",
        type=_backends,
        default=BACKENDS,
        metavar="NAME,NAME,...",
        help=f"which to compare (default: {','.join(BACKENDS)})",
    )
    demo_parser.add_argument(
        "--max-workers", type=_whole(1), metavar="N", help="workers of each backend (default: what suits it)"
    )
    demo_parser.add_argument(
        "--top",
        type=_whole(0),
        default=TOP,
        metavar="N",
        help=f"commonest identifiers to show (default: {TOP})",
    )
    demo_parser.add_argument(
        "--no-progress", dest="progress", action="store_false", help="do not show how far it is"
    )
    return parser


def _backends(text: str) -> list[str]:
    """The names in a list with commas, each once."""
    names = list(dict.fromkeys(name.strip() for name in text.split(",")))
    known = backend_names()
    for name in names:
        if name not in known:
            raise argparse.ArgumentTypeError(f"there is no backend {name!r}; there are {', '.join(known)}")
    return names


def _whole(least: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            number = least - 1
        if number < least:
            raise argparse.ArgumentTypeError(f"{text!r} will not do; give a whole number, at least {least}")
        return number

    return parse


def _version() -> str:
    try:
        return version("parallelkit")
    except PackageNotFoundError:  # run from a checkout that is not installed
        return "(not installed)"


if __name__ == "__main__":
    sys.exit(main())
