"""The options by which every runner is told its places."""

from __future__ import annotations

import argparse
from collections.abc import Sequence


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
