"""What a run's configuration says about its probes: a mapping, JSON or YAML in a line, or a file of either kind."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from .module_paths import ProbeError

KNOWN = ("validation_subset_size", "tokens_per_sample", "save_every_n_epochs", "seed")


def load_yaml(path: Path) -> Any:
    """What a YAML or JSON file holds."""
    import yaml

    return yaml.safe_load(path.read_text(encoding="utf-8"))


def as_mapping(name: str, given: Any, load: Callable[[Path], Any] = load_yaml) -> dict[str, Any]:
    """A switch's value as a mapping: from YAML as it is, from the command line as JSON or a file's path.

    ``name`` begins the errors, ``load`` reads a file. Raises ValueError for neither of these, or a file that holds no
    mapping.
    """
    if given is None:
        return {}
    found = given
    if isinstance(given, str):
        if given.lstrip().startswith("{"):
            found = _inline(name, given)
        elif Path(given).is_file():
            found = _in_file(name, Path(given), load)
        else:
            raise ValueError(f"`{name}` is neither a mapping, nor JSON, nor a file that exists: {given!r}.")
    if not isinstance(found, Mapping):
        raise ValueError(f"`{name}` must be a mapping of options, got {type(found).__name__}.")
    return dict(found)


def _in_file(name: str, path: Path, load: Callable[[Path], Any]) -> Any:
    import yaml

    try:
        return load(path)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ValueError(f"`{name}`: {path} holds neither YAML nor JSON ({error}).") from error


def _inline(name: str, given: str) -> Any:
    try:
        return json.loads(given)
    except json.JSONDecodeError as error:
        # Parsers of command lines (draccus) read JSON themselves and hand it on with other quotes, which is YAML still.
        import yaml

        try:
            return yaml.safe_load(given)
        except yaml.YAMLError:
            raise ValueError(f"`{name}` begins like a mapping, but is no JSON ({error}): {given!r}.") from error


def split_options(options: Mapping[str, Any]) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The list ``probes``, and what else ``ActivationProbe`` takes by name.

    Raises ``ProbeError`` for no such list, or an option that does not exist.
    """
    given = dict(options)
    specs = given.pop("probes", None)
    if not isinstance(specs, Sequence) or isinstance(specs, str):
        raise ProbeError("`probes` needs a list `probes` of mappings with name, source_modules and target_modules.")
    unknown = sorted(str(option) for option in given if option not in KNOWN)
    if unknown:
        raise ProbeError(f"`probes` has no option {', '.join(unknown)}; it has {', '.join(sorted(KNOWN))}.")
    return list(specs), given
