"""Modules by path, with wildcards, and what was nearly meant where a path is not there.

``*`` and ``?`` match within one part of a path (``model.layers.*.mlp.gate``), ``**`` any number of parts, none too
(``**.mlp.gate``). What DDP, FSDP, torch.compile and activation checkpointing put into a path is left out.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence

from torch import nn

_ENGINES = {"DistributedDataParallel", "DataParallel", "DeepSpeedEngine"}
_WRAPPERS = {"_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}


class ProbeError(ValueError):
    """A probe that cannot be taken: what is wrong, where, and what to do."""


def modules_by_path(model: nn.Module) -> dict[str, nn.Module]:
    """Every module below ``model`` by its path without wrappers, in the model's order; of a wrapped one the wrapper."""
    while type(model).__name__ in _ENGINES:
        model = model.module  # type: ignore[assignment]
    found: dict[str, nn.Module] = {}
    # A module used in two places has two paths, and a user may mean either.
    for name, module in model.named_modules(remove_duplicate=False):
        path = ".".join(part for part in name.split(".") if part not in _WRAPPERS)
        if path:
            found.setdefault(path, module)
    return found


def matches(pattern: str, path: str) -> bool:
    return _regex(pattern).fullmatch(path + ".") is not None


def _regex(pattern: str) -> re.Pattern[str]:
    parts = []
    for part in pattern.split("."):
        if part == "**":
            parts.append(r"(?:[^.]+\.)*")
        else:
            written = {"*": "[^.]*", "?": "[^.]"}
            parts.append("".join(written.get(letter, re.escape(letter)) for letter in part) + r"\.")
    return re.compile("".join(parts))


def resolve(patterns: Sequence[str], paths: Iterable[str], asked_by: str) -> list[str]:
    """The paths that the patterns name, each once, in the order of ``paths`` below that of the patterns.

    ``asked_by`` begins the error. Raises ``ProbeError`` for a pattern that matches nothing, with the nearest paths.
    """
    known = list(paths)
    found: dict[str, None] = {}
    for pattern in patterns:
        regex = _regex(pattern)
        hits = [path for path in known if regex.fullmatch(path + ".")]
        if not hits:
            raise ProbeError(
                f"{asked_by}: no module of the model is named {pattern!r}; the nearest are {_nearest(pattern, known)}. "
                "'*' stands for one part of a path, '**' for any number of parts"
            )
        found.update(dict.fromkeys(hits))
    return list(found)


def _nearest(pattern: str, known: Sequence[str], number: int = 5) -> str:
    """Layers differ in their numbers only: each kind of path is compared, and shown, once."""
    kinds: dict[str, str] = {}
    for path in known:
        kinds.setdefault(re.sub(r"(?<![^.])\d+(?![^.])", "*", path), path)
    wanted = re.sub(r"(?<![^.])\d+(?![^.])", "*", pattern)
    close = difflib.get_close_matches(wanted, kinds, n=number, cutoff=0.0)
    return ", ".join(kind if "*" in pattern else kinds[kind] for kind in close) or "none: the model has no modules"
