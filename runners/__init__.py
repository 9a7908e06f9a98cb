"""Pipelines over the upstreams' native commands: one file a method, and the small modules that they share."""

import sys

# While `-m` is being looked up, that is what stands in argv[0]. A module of this package would be imported, do nothing
# and end well.
if sys.argv[:1] == ["-m"]:
    _dotted = next((word for word in getattr(sys, "orig_argv", ()) if word.startswith("runners.")), "")
    if _dotted not in ("", "runners.__main__"):
        sys.exit(f"error: {_dotted} is no command of its own: python -m runners {_dotted.split('.')[1]} ...")
