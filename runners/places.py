"""Where data, caches and work lie: by option, environment variable, `places.toml`, else outside the repository."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from runners.places_file import BadPlaces, absolute, expanded, no_address, read

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
LIBRARY = ("HF_HOME", "HF_HUB_CACHE")
"""Variables of a library that takes a path relative to the current folder."""
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
        if self.origins.get("hub") == "$HF_HUB_CACHE":
            own["HF_HUB_CACHE"] = str(self.hub)
        if self.offline or self.origins.get("offline", "").startswith("--"):
            own |= dict.fromkeys(OFFLINE, str(int(self.offline)))
        stays = {name: os.environ[name] for name in own if os.environ.get(name) and name not in _CHOSEN}
        return own | stays

    def chosen(self) -> dict[str, str]:
        """Of `environment` what somebody chose, and nothing that is a default of this project's."""
        return {
            name: value
            for name, value in self.environment().items()
            if self.origins.get(ORIGINS.get(name, ""), "default") != "default"
        }


ORIGINS = {
    "HF_HOME": "hf_home",
    "HF_HUB_CACHE": "hub",
    "HF_ENDPOINT": "hf_endpoint",
    "TORCH_HOME": "torch_home",
    "WANDB_CACHE_DIR": "wandb_cache",
    **dict.fromkeys(OFFLINE, "offline"),
}
"""The name in `Places.origins` of what decides a variable of a command."""
_CHOSEN = ("HF_HOME", "HF_HUB_CACHE", "HF_ENDPOINT", *OFFLINE)
"""Variables that `resolve` has read already: an option wins over them."""


def resolve(options: argparse.Namespace, work: str, environment: Mapping[str, str] | None = None) -> Places:
    """The places that `options` (of `add_options`), `environment` and places.toml name; creates nothing.

    A relative path is taken from the current folder where it is an option's. A variable outlives the folder that it was
    set in, so that there it is refused, but for those of the hub's own library, which takes them: commands that run in
    other folders are told the absolute path.

    Raises Refused for a places.toml that cannot be used, for a path that is none, and for an endpoint that is no
    address.
    """
    try:
        return _resolved(options, work, os.environ if environment is None else environment)
    except BadPlaces as error:
        raise Refused(str(error)) from None


def _resolved(options: argparse.Namespace, work: str, env: Mapping[str, str]) -> Places:
    file = _variable(env, "GRAFT_PLACES") or FILE
    kept = read(file) if env.get("GRAFT_PLACES") or file.exists() else {}
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

    def folder(name: str) -> Path | None:
        chosen = text(name)
        if not chosen:
            return None
        if origins[name].startswith("$"):
            return _variable(env, VARIABLES[name])
        return expanded(chosen, f"{origins[name]} {chosen}").absolute()

    def address(name: str) -> str | None:
        chosen = text(name)
        if chosen and (complaint := no_address(chosen)):
            raise Refused(f"{origins[name]} {chosen}: {complaint}")
        return chosen

    home = Path(env.get("HOME") or Path.home())
    # The default is where these libraries look by themselves: what was downloaded before is found.
    cache = folder("cache") or _variable(env, "XDG_CACHE_HOME") or home / ".cache"
    chosen_work = folder("work") or (_variable(env, "XDG_DATA_HOME") or home / ".local" / "share") / "graft"
    hf_home = folder("hf_home")
    if hf_home is None:
        hf_home, origins["hf_home"] = cache / "huggingface", origins["cache"]
    for name, variable in {"torch_home": "TORCH_HOME", "wandb_cache": "WANDB_CACHE_DIR"}.items():
        origins[name] = f"${variable}" if env.get(variable) else origins["cache"]
    hub = _variable(env, "HF_HUB_CACHE")
    origins["hub"] = "$HF_HUB_CACHE" if hub else origins["hf_home"]
    return Places(
        # An option names the runner's own folder, everything else the place that has one for each runner.
        work=chosen_work if origins["work"] == "--work" else chosen_work / work,
        cache=cache,
        data_root=folder("data_root"),
        hf_home=hf_home,
        hub=hub or hf_home / "hub",
        hf_endpoint=address("hf_endpoint"),
        allowed_below=options.allow_below_repository,
        hf_mirror=address("hf_mirror"),
        offline=_offline(options, env, kept, file, origins),
        origins=origins,
    )


def _variable(env: Mapping[str, str], name: str) -> Path | None:
    """The absolute path in an environment variable, or None where it is not set."""
    text = env.get(name)
    if not text:
        return None
    if name in LIBRARY:
        return expanded(text, f"${name} {text}").absolute()
    return absolute(text, f"${name} {text}", f"unset {name}")


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
