#!/usr/bin/env python3
"""The one entry: ``python apply.py [verb] [upstream ...]``; ``python apply.py --help`` says the rest."""

import sys
from pathlib import Path

if __name__ == "__main__":
    if sys.version_info < (3, 10):  # noqa: UP036 - said here, since an older Python fails on the imports below
        sys.exit("graft needs Python 3.10 or later; this is " + sys.version.split()[0])
    try:
        from graft.cli import main
    except ModuleNotFoundError as error:
        sys.exit(f"graft needs {error.name}: pip install -r requirements.txt")
    sys.exit(main(Path(__file__).resolve().parent, sys.argv[1:]))
