"""Versions of packages in an environment, asked of its own interpreter."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence

from runners.places import Refused

SCRIPT = """
import importlib.metadata, json, platform, sys
found = {"python": platform.python_version()}
for name in sys.argv[1:]:
    try:
        found[name] = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        pass
print(json.dumps(found))
"""


def versions_of(python: str, packages: Sequence[str]) -> dict[str, str]:
    """By name, of those that are installed, and of Python. Raises Refused where `python` does not run."""
    command = [python, "-c", SCRIPT, *packages]
    try:
        ran = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    except OSError as error:
        raise Refused(f"{python} does not run: {error}; name another with --python") from None
    if ran.returncode:
        raise Refused(f"{python} does not run: {ran.stderr.strip()[-300:]}; name another with --python")
    found: dict[str, str] = json.loads(ran.stdout)
    return found
