"""`python -m runners NAME ...`, or `python PATH/TO/runners NAME ...`: a runner, in the environment that it needs.

Exit codes: those of the runner; 2 for a name that is not there or an environment that is not built, 130 interrupted.
"""

from __future__ import annotations

import importlib
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
if not __package__:
    # Called as a folder: its modules must not hide packages of the same name, such as lerobot.
    sys.path[0] = str(FOLDER.parent)

from runners.table import (  # noqa: E402
    BUILT_BY,
    CALLER,
    OLDEST,
    ROOT,
    Runner,
    UnknownRunner,
    find,
    interpreter,
    overview,
)

HERE = "GRAFT_HERE"


def interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def go_on(runner: Runner, arguments: Sequence[str]) -> int | None:
    """Replaces this process by one of the runner's own environment; returns where this one is it, or 2 without it."""
    if runner.environment is None and sys.version_info >= OLDEST:
        return None
    name = runner.environment or "engine"
    python = interpreter(name)
    if Path(sys.prefix).resolve() == python.parents[1].resolve():
        return None
    if not python.exists():
        wanted = f"the environment {name}, and {python} is not there"
        if runner.environment is None:
            wanted = f"Python {'.'.join(map(str, OLDEST))} or later, and {sys.executable} is {sys.version.split()[0]}"
        print(
            f"error: {runner.name} runs in {wanted}: run `{BUILT_BY[name]}` in {ROOT}, or keep this interpreter with "
            "--here",
            file=sys.stderr,
        )
        return 2
    if runner.environment is None:
        os.environ[CALLER] = sys.executable
    print(f"{runner.name}: goes on in {python} (--here keeps this interpreter)", file=sys.stderr, flush=True)
    sys.stdout.flush()
    os.execv(python, [str(python), str(FOLDER), "--here", runner.name, *arguments])


def main(arguments: Sequence[str] | None = None) -> int:
    try:
        try:
            return run(list(sys.argv[1:] if arguments is None else arguments))
        finally:
            # What is still to be written is written here, where a reader that is gone can be told from an error.
            sys.stdout.flush()
    except BrokenPipeError:
        # Who read what is printed has seen enough; the interpreter would complain when it ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE


def run(words: list[str]) -> int:
    """Runs what `words` name, in this process or in its place; returns the exit code."""
    here = os.environ.get(HERE, "") not in ("", "0")
    while words[:1] == ["--here"]:
        here = bool(words.pop(0))
    if not words or words[0] in ("-h", "--help"):
        print(overview())
        return 0
    try:
        runner = find(words[0])
    except UnknownRunner as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if not here and (code := go_on(runner, words[1:])) is not None:
        return code
    # So that what a runner started is ended however it is asked to stop.
    signal.signal(signal.SIGTERM, interrupt)
    try:
        module = importlib.import_module(runner.module)
    except ModuleNotFoundError as error:
        if runner.environment is None or (error.name or "runners").partition(".")[0] in ("runners", "look"):
            raise
        print(
            f"error: {runner.name} needs {error.name}, which {sys.executable} lacks: leave --here out and it runs in "
            f"the environment {runner.environment}, which `{BUILT_BY[runner.environment]}` builds",
            file=sys.stderr,
        )
        return 2
    try:
        return int(module.main(words[1:]))
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
