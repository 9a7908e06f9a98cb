"""Where data, caches and work lie: by option, else by environment variable, else outside the repository."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

GIB = 1 << 30
MARK = "graft-work"
"""A file that tells a work folder from a folder of somebody's own: what lies in a work folder may be removed."""


class Refused(Exception):
    """The places cannot be used like this; the message names the option that mends it."""


@dataclass(frozen=True)
class Places:
    """Absolute folders: `work` (runs, checkpoints), `cache` (downloads), `data_root` (RLDS data sets, or None)."""

    work: Path
    cache: Path
    data_root: Path | None
    hf_home: Path
    hub: Path
    """Where the hub's models are cached: $HF_HUB_CACHE, which commands obey too, or HF_HOME/hub."""
    hf_endpoint: str | None
    allowed_below: bool = False

    def environment(self) -> dict[str, str]:
        """What a command is told about caches and the hub.

        A variable that the caller has set already is the caller's choice, and stays.
        """
        own = {
            "HF_HOME": str(self.hf_home),
            "TORCH_HOME": str(self.cache / "torch"),
            "WANDB_CACHE_DIR": str(self.cache / "wandb"),
            "WANDB_MODE": "offline",
            "TOKENIZERS_PARALLELISM": "false",
        }
        if self.hf_endpoint:
            own["HF_ENDPOINT"] = self.hf_endpoint
        stays = {name: os.environ[name] for name in own if os.environ.get(name) and name not in _CHOSEN}
        return own | stays


_CHOSEN = ("HF_HOME", "HF_ENDPOINT")
"""Variables that `resolve` has read already: an option wins over them."""


def add_options(parser: argparse.ArgumentParser, work: str) -> None:
    """The options of every runner; `work` is the name of its folder below the default work place."""
    group = parser.add_argument_group("places")
    group.add_argument(
        "--work", metavar="DIR", help=f"runs and checkpoints; default $GRAFT_WORK or ~/.local/share/graft, then {work}"
    )
    group.add_argument("--data-root", metavar="DIR", help="folder of the RLDS data sets; default $GRAFT_DATA_ROOT")
    group.add_argument("--cache", metavar="DIR", help="downloads; default $GRAFT_CACHE or ~/.cache")
    group.add_argument("--hf-home", metavar="DIR", help="the model hub's cache; default $HF_HOME or CACHE/huggingface")
    group.add_argument("--hf-endpoint", metavar="URL", help="the model hub or its mirror; default $HF_ENDPOINT")
    group.add_argument(
        "--allow-below-repository", action="store_true", help="let GiBs be written below a git repository"
    )


def resolve(options: argparse.Namespace, work: str, environment: Mapping[str, str] | None = None) -> Places:
    """The places that `options` (of `add_options`) and `environment` name; creates nothing."""
    env = os.environ if environment is None else environment

    def folder(option: str | None, variable: str, otherwise: Path) -> Path:
        chosen = option or env.get(variable)
        return (Path(chosen).expanduser() if chosen else otherwise).absolute()

    home = Path(env.get("HOME") or Path.home())
    share = Path(env.get("XDG_DATA_HOME") or home / ".local" / "share")
    caches = Path(env.get("XDG_CACHE_HOME") or home / ".cache")
    # The default is where these libraries look by themselves: what was downloaded before is found.
    cache = folder(options.cache, "GRAFT_CACHE", caches)
    chosen_work = Path(options.work).expanduser().absolute() if options.work else None
    data = options.data_root or env.get("GRAFT_DATA_ROOT")
    hf_home = folder(options.hf_home, "HF_HOME", cache / "huggingface")
    return Places(
        work=chosen_work or folder(None, "GRAFT_WORK", share / "graft") / work,
        cache=cache,
        data_root=Path(data).expanduser().absolute() if data else None,
        hf_home=hf_home,
        hub=folder(None, "HF_HUB_CACHE", hf_home / "hub"),
        hf_endpoint=options.hf_endpoint or env.get("HF_ENDPOINT") or None,
        allowed_below=options.allow_below_repository,
    )


def repository_above(folder: Path) -> Path | None:
    """The git repository that `folder` lies in, whether it exists yet or not; None where there is none."""
    real = folder.resolve()
    return next((above for above in (real, *real.parents) if (above / ".git").exists()), None)


def size_of(path: Path) -> int:
    """Bytes of a file, or of all files below a folder."""
    if path.is_file():
        return path.stat().st_size
    return sum(item.stat().st_size for item in path.rglob("*") if item.is_file())


def refuse_below(places: Places, written: Mapping[str, int | None]) -> None:
    """Refuses a run that would write a GiB or more below a repository, unless that was allowed.

    `written` maps the option that moves a place (`--work`, `--cache`, `--hf-home`) to the bytes expected there, None
    where they cannot be known beforehand, as with a model that is still to be downloaded.

    Raises Refused naming place, size and option.
    """
    if places.allowed_below:
        return
    folders = {"--work": places.work, "--cache": places.cache, "--hf-home": places.hf_home}
    for option, amount in written.items():
        above = repository_above(folders[option])
        if above is None or (amount is not None and amount < GIB):
            continue
        size = "an amount not known beforehand" if amount is None else f"about {amount / GIB:.1f} GiB"
        raise Refused(
            f"{size} would be written to {folders[option]}, which lies below the repository {above}: choose a folder "
            f"outside with {option}, or say --allow-below-repository"
        )


def claim(work: Path) -> None:
    """Makes `work` and marks it as a work folder.

    Raises Refused where a folder with other things in it is there: stages remove what lies in their folders.
    """
    if work.is_dir() and any(work.iterdir()) and not (work / MARK).exists():
        raise Refused(f"{work} holds files that no run of this kind wrote: choose an empty or a new folder with --work")
    if work.exists() and not work.is_dir():
        raise Refused(f"{work} is a file: choose a folder with --work")
    work.mkdir(parents=True, exist_ok=True)
    (work / MARK).touch()


def same_settings(work: Path, found: Mapping[str, Any], option: str) -> None:
    """Keeps in `work` the settings, plain data, that decide what is written there.

    Raises Refused naming `option` where what is there was written with others.
    """
    kept = work / "settings.json"
    if kept.exists() and (before := json.loads(kept.read_text(encoding="utf-8"))) != found:
        changed = ", ".join(sorted(name for name in {*found, *before} if before.get(name) != found.get(name)))
        raise Refused(f"{work} holds episodes of other settings ({changed}): choose another {option}")
    kept.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
