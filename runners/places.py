"""Where data, caches and work lie: by option, environment variable, `places.toml`, else outside the repository."""

from __future__ import annotations

import argparse
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from runners.places_file import BadPlaces, no_address, read

GIB = 1 << 30
MARK = "graft-work"
"""A file that tells a work folder from a folder of somebody's own: what lies in a work folder may be removed."""
FILE = Path(__file__).resolve().with_name("places.toml")
"""This machine's own places; GRAFT_PLACES names another file."""
VARIABLES = {
    "work": "GRAFT_WORK",
    "cache": "GRAFT_CACHE",
    "data_root": "GRAFT_DATA_ROOT",
    "hf_home": "HF_HOME",
    "hf_endpoint": "HF_ENDPOINT",
    "hf_mirror": "GRAFT_HF_MIRROR",
}
OFFLINE = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE")
TRUE = ("1", "ON", "YES", "TRUE")
"""What huggingface_hub takes for true in an environment variable, in capitals."""


class Refused(Exception):
    """The places cannot be used like this; the message names the option that mends it."""


@dataclass(frozen=True)
class Places:
    """Absolute folders: `work` (runs, checkpoints), `cache` (downloads), `data_root` (data sets, or None)."""

    work: Path
    cache: Path
    data_root: Path | None
    hf_home: Path
    hub: Path
    """Where the hub's models are cached: $HF_HUB_CACHE, which commands obey too, or HF_HOME/hub."""
    hf_endpoint: str | None
    allowed_below: bool = False
    hf_mirror: str | None = None
    """For `supervise`, where the endpoint cannot be reached."""
    offline: bool = False
    origins: Mapping[str, str] = field(default_factory=dict)
    """Where each of these came from, by its name: an option, a variable, places.toml, or the default."""

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
        if self.offline or self.origins.get("offline", "").startswith("--"):
            own |= dict.fromkeys(OFFLINE, str(int(self.offline)))
        stays = {name: os.environ[name] for name in own if os.environ.get(name) and name not in _CHOSEN}
        return own | stays


_CHOSEN = ("HF_HOME", "HF_ENDPOINT", *OFFLINE)
"""Variables that `resolve` has read already: an option wins over them."""


def add_options(
    parser: argparse.ArgumentParser, work: str, *, also: Sequence[str] = (), data: bool = True, hub: bool = True
) -> None:
    """The options of every runner; `work` is the name of its folder below the default work place, `also` other names
    of --work. Without `data` nothing about data sets, without `hub` nothing about downloads.
    """
    group = parser.add_argument_group("places", "`python -m runners places` shows what holds without these, and why")
    group.add_argument(
        "--work",
        *also,
        metavar="DIR",
        help=f"runs and checkpoints; default $GRAFT_WORK, work in places.toml, or ~/.local/share/graft, then {work}",
    )
    if data:
        _add_data_root(group)
    if hub:
        group.add_argument("--cache", metavar="DIR", help="downloads; default $GRAFT_CACHE, places.toml, or ~/.cache")
        group.add_argument(
            "--hf-home", metavar="DIR", help="the model hub's cache; default $HF_HOME, places.toml, CACHE/huggingface"
        )
        group.add_argument(
            "--hf-endpoint", metavar="URL", help="the model hub or its mirror; default $HF_ENDPOINT, or places.toml"
        )
        group.add_argument(
            "--offline",
            action=argparse.BooleanOptionalAction,
            default=None,
            help="fetch nothing; default $HF_HUB_OFFLINE, places.toml, or not",
        )
    _add_allowance(group)


def add_data_options(parser: argparse.ArgumentParser, *, also: Sequence[str] = ()) -> None:
    """The options of a runner that writes to the folder of the data sets alone; `also` other names of --data-root."""
    group = parser.add_argument_group("places")
    _add_data_root(group, also)
    _add_allowance(group)


def _add_data_root(group: argparse._ArgumentGroup, also: Sequence[str] = ()) -> None:
    group.add_argument(
        "--data-root", *also, metavar="DIR", help="folder of the data sets; default $GRAFT_DATA_ROOT, or places.toml"
    )


def _add_allowance(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--allow-below-repository", action="store_true", help="let GiBs be written below a git repository"
    )


def resolve(options: argparse.Namespace, work: str, environment: Mapping[str, str] | None = None) -> Places:
    """The places that `options` (of `add_options`), `environment` and places.toml name; creates nothing.

    Raises Refused for a places.toml that cannot be used, and for an endpoint that is no address.
    """
    env = os.environ if environment is None else environment
    file = Path(env.get("GRAFT_PLACES") or FILE)
    try:
        kept = read(file) if env.get("GRAFT_PLACES") or file.exists() else {}
    except BadPlaces as error:
        raise Refused(str(error)) from None
    origins: dict[str, str] = {}

    def text(name: str) -> str | None:
        option, variable = getattr(options, name, None), VARIABLES[name]
        if option:
            origins[name] = "--" + name.replace("_", "-")
            return str(option)
        if env.get(variable):
            origins[name] = f"${variable}"
            return env[variable]
        origins[name] = str(file) if name in kept else "default"
        return str(kept[name]) if name in kept else None

    def folder(name: str, otherwise: Path) -> Path:
        chosen = text(name)
        return (Path(chosen).expanduser() if chosen else otherwise).absolute()

    def address(name: str) -> str | None:
        chosen = text(name)
        if chosen and (complaint := no_address(chosen)):
            raise Refused(f"{origins[name]} {chosen}: {complaint}")
        return chosen

    home = Path(env.get("HOME") or Path.home())
    share = Path(env.get("XDG_DATA_HOME") or home / ".local" / "share")
    caches = Path(env.get("XDG_CACHE_HOME") or home / ".cache")
    # The default is where these libraries look by themselves: what was downloaded before is found.
    cache = folder("cache", caches)
    chosen_work = folder("work", share / "graft")
    data = text("data_root")
    hf_home = folder("hf_home", cache / "huggingface")
    hub = env.get("HF_HUB_CACHE")
    origins["hub"] = "$HF_HUB_CACHE" if hub else origins["hf_home"]
    return Places(
        # An option names the runner's own folder, everything else the place that has one for each runner.
        work=chosen_work if origins["work"] == "--work" else chosen_work / work,
        cache=cache,
        data_root=Path(data).expanduser().absolute() if data else None,
        hf_home=hf_home,
        hub=Path(hub).expanduser().absolute() if hub else hf_home / "hub",
        hf_endpoint=address("hf_endpoint"),
        allowed_below=options.allow_below_repository,
        hf_mirror=address("hf_mirror"),
        offline=_offline(options, env, kept, file, origins),
        origins=origins,
    )


def _offline(
    options: argparse.Namespace,
    env: Mapping[str, str],
    kept: Mapping[str, str | bool],
    file: Path,
    origins: dict[str, str],
) -> bool:
    said = getattr(options, "offline", None)
    if said is not None:
        origins["offline"] = "--offline" if said else "--no-offline"
        return bool(said)
    # huggingface_hub reads both of them; the third is for data sets alone.
    for variable in OFFLINE[:2]:
        if env.get(variable):
            origins["offline"] = f"${variable}"
            return env[variable].upper() in TRUE
    origins["offline"] = str(file) if "offline" in kept else "default"
    return bool(kept.get("offline", False))


def repository_above(folder: Path) -> Path | None:
    """The git repository that `folder` lies in, whether it exists yet or not; None where there is none."""
    real = folder.resolve()
    return next((above for above in (real, *real.parents) if (above / ".git").exists()), None)


def size_of(path: Path) -> int:
    """Bytes of a file, or of all files below a folder."""
    if path.is_file():
        return path.stat().st_size
    return sum(item.stat().st_size for item in path.rglob("*") if item.is_file())


def downloaded(name: str, hub: Path) -> Path | None:
    """The folder in the hub's cache that holds the model `name`, or None where it was not downloaded yet."""
    place = hub / f"models--{name.replace('/', '--')}"
    reference = place / "refs" / "main"
    if not reference.is_file():
        return None
    snapshot = place / "snapshots" / reference.read_text(encoding="utf-8").strip()
    return snapshot if (snapshot / "config.json").is_file() else None


def model_size(model: str, hub: Path) -> int | None:
    """Bytes of a model, a folder or a name on the hub; None for one that was not downloaded yet."""
    place = Path(model) if Path(model).is_dir() else downloaded(model, hub)
    return None if place is None else size_of(place)


def refuse_below(places: Places, written: Mapping[str, int | None]) -> None:
    """Refuses a run that would write a GiB or more below a repository, unless that was allowed.

    `written` maps the option that moves a place (`--work`, `--cache`, `--hf-home`, `--data-root`) to the bytes expected
    there, None where they cannot be known beforehand, as with a model that is still to be downloaded.

    Raises Refused naming place, size and option.
    """
    if places.allowed_below:
        return
    folders = {"--work": places.work, "--cache": places.cache, "--hf-home": places.hf_home}
    if places.data_root is not None:
        folders["--data-root"] = places.data_root
    for option, amount in written.items():
        above = repository_above(folders[option])
        if above is None or (amount is not None and amount < GIB):
            continue
        size = "an amount not known beforehand" if amount is None else f"about {amount / GIB:.1f} GiB"
        raise Refused(
            f"{size} would be written to {folders[option]}, which lies below the repository {above}: choose a folder "
            f"outside with {option}, or say --allow-below-repository"
        )


def free(folder: Path) -> int:
    """Bytes that this user may still write to the disk of `folder`, which need not exist yet."""
    real = folder.resolve()
    return shutil.disk_usage(next(above for above in (real, *real.parents) if above.exists())).free


def need(folder: Path, amount: int, what: str, option: str = "--work") -> None:
    """Refuses to begin `what`, which writes about `amount` bytes to `folder`, where there is no room for them.

    Raises Refused naming folder, room, need and `option`, which moves the folder.
    """
    room = free(folder)
    if room < amount:
        raise Refused(
            f"{what} needs about {in_words(amount)} in {folder}, where {in_words(room)} are free: make room, or choose "
            f"a folder on another disk with {option}"
        )


def in_words(amount: int) -> str:
    """Bytes for a person to read."""
    return f"{amount / GIB:.1f} GiB" if amount >= GIB // 10 else f"{amount / (1 << 20):.1f} MiB"


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
