"""``gym``: the package of that name, or gymnasium, which goes on from it with the same ``Env`` and ``spaces``."""

from importlib import import_module
from importlib.util import find_spec


def _find():
    for name in ("gym", "gymnasium"):
        if find_spec(name) is not None:
            return import_module(name)
    raise ModuleNotFoundError(
        "LIBERO's environments need gym or gymnasium, and neither is installed: pip install gymnasium", name="gymnasium"
    )


gym = _find()
