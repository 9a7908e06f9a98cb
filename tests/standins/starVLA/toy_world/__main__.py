import sys
from pathlib import Path

from . import write_world

if len(sys.argv) != 2:
    raise SystemExit("usage: python -m toy_world DIR")
print(write_world(Path(sys.argv[1])))
