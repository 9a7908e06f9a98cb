"""The Python that a program is run by."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

PYTHON = re.compile(r"python(\d+(\.\d+)*)?")


class NoPython(Exception):
    """The program is not there or does not say; the message has the remedy."""


def python_of(word: str, folder: Path, search: str | None) -> str:
    """The Python behind a word: itself, or what a console script's first lines name. `search` is a PATH.

    Raises NoPython where the program is not there or names none.
    """
    found = str(folder / word) if "/" in word else shutil.which(word, path=search)
    if not found or not Path(found).is_file():
        raise NoPython(f"{word} is not on the PATH: activate its environment, or give the program's whole path")
    if PYTHON.fullmatch(Path(found).name):
        return os.path.abspath(found)
    with open(found, "rb") as file:
        head = file.read(1024).decode(errors="replace").splitlines()[:2]
    # Paths that are too long for a first line are in the second: '''exec' "/long/bin/python" "$0" "$@"
    for line in head:
        for quoted, bare in re.findall(r"\"(/[^\"]*)\"|(/[^\s'\"]*)", line):
            name: str = quoted or bare
            if PYTHON.fullmatch(Path(name).name):
                return name
    if head and (named := re.match(r"#!\s*\S*/env\s+(?:-S\s+)?(python[\d.]*)", head[0])):
        return python_of(named[1], folder, search)
    raise NoPython(f"{found} does not say which Python runs it: give the command as PYTHON SCRIPT ...")
