"""Where the programs of an environment lie that a launcher names: conda run -n ENV, uv run."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from runners.supervise.launchers import Target, UnknownCommand

ENVIRONMENTS = (
    *("PATH", "HOME", "CONDA_EXE", "CONDA_PREFIX", "CONDA_ENVS_PATH", "CONDA_ENVS_DIRS", "MAMBA_ROOT_PREFIX"),
    *("UV_PROJECT_ENVIRONMENT", "VIRTUAL_ENV"),
)
"""Variables that tell where environments lie."""


def bins_of(target: Target, folder: Path, variables: Mapping[str, str | None]) -> list[str]:
    """Folders in which a launcher's own environment has its programs, to be looked into before the PATH.

    Raises UnknownCommand where the environment is not there.
    """
    launcher, named = target.within
    if not launcher:
        return []
    places = _conda(named, folder, variables) if launcher == "conda" else _uv(named, folder, variables)
    found = next((place / "bin" for place in places if (place / "bin").is_dir()), None)
    if found is None:
        looked = ", ".join(map(str, places)) or "nowhere"
        remedy = "give -p PREFIX" if launcher == "conda" else "make it with `uv sync`, or name UV_PROJECT_ENVIRONMENT"
        raise UnknownCommand(
            f"{launcher} run: no environment{named and f' {named}'} was found (looked at {looked}): {remedy}"
        )
    return [str(found)]


def _conda(named: str, folder: Path, variables: Mapping[str, str | None]) -> list[Path]:
    """Where an environment of conda's, mamba's or micromamba's may lie: by its folder, or by its name."""
    if not named:
        return [Path(prefix)] if (prefix := variables.get("CONDA_PREFIX")) else []
    if "/" in named:
        return [folder / named]
    home = Path(variables.get("HOME") or "~").expanduser()
    program = variables.get("CONDA_EXE") or shutil.which("conda", path=variables.get("PATH"))
    root = variables.get("MAMBA_ROOT_PREFIX")
    roots = [Path(root)] if root else []
    roots += [Path(program).resolve().parent.parent] if program else []
    if named == "base":
        return roots
    listed = (variables.get("CONDA_ENVS_PATH") or variables.get("CONDA_ENVS_DIRS") or "").split(os.pathsep)
    places = (
        [Path(place) for place in listed if place] + [place / "envs" for place in roots] + [home / ".conda" / "envs"]
    )
    known = home / ".conda" / "environments.txt"
    lines = known.read_text(encoding="utf-8").splitlines() if known.is_file() else []
    return [*(place / named for place in places), *(Path(line) for line in lines if Path(line).name == named)]


def _uv(named: str, folder: Path, variables: Mapping[str, str | None]) -> list[Path]:
    """Where uv's environment of a project lies: the project is `named`, or the folder above that has one."""
    project = folder / named if named else folder
    chosen, active = variables.get("UV_PROJECT_ENVIRONMENT"), variables.get("VIRTUAL_ENV")
    places = [place / (chosen or ".venv") for place in (project, *project.parents)]
    return [*places, Path(active)] if active else places
