"""Shows where data, models, caches and runs lie, why there, how much room is there, and what a command would be told.

    python -m runners places
    python -m runners places --work DIR --offline            # what these options would change

Each place is taken from an option, else an environment variable, else runners/places.toml (copy
runners/places.example.toml), else the default. A relative HF_HOME or HF_HUB_CACHE is
taken from this folder, as the hub's library does, and told to commands as an absolute path; every other variable has to
be absolute. Writes nothing, runs in any Python from 3.10 on, and needs no network.
Exit codes: 0, or 2 where the places cannot be used (the message names file, key and remedy).
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence

from runners.places import FILE, Places, Refused, resolve
from runners.places_options import add_options
from runners.room import free, in_words, repository_above
from runners.table import parser


def lines_of(places: Places) -> Iterator[str]:
    """The lines that are printed."""
    folders = {"work": places.work, "data_root": places.data_root, "cache": places.cache}
    folders |= {"hf_home": places.hf_home, "hub": places.hub}
    for name, folder in folders.items():
        if folder is None:
            yield f"{name:12} not set (name one with --data-root, GRAFT_DATA_ROOT or places.toml)"
            continue
        there = "" if folder.exists() else ", not there yet"
        above = repository_above(folder)
        below = "" if above is None else f"\n{'':13}below the repository {above}: a GiB or more is refused there"
        room = f"{in_words(free(folder))} free{there}"
        yield f"{name:12} {folder}\n{'':13}from {places.origins[name]}; {room}{below}"
    yield f"{'hf_endpoint':12} {places.hf_endpoint or 'the hub itself'}\n{'':13}from {places.origins['hf_endpoint']}"
    yield f"{'hf_mirror':12} {places.hf_mirror or 'none'}\n{'':13}from {places.origins['hf_mirror']}"
    yield f"{'offline':12} {'yes' if places.offline else 'no'}\n{'':13}from {places.origins['offline']}"
    yield f"\nThe file for this machine: {FILE}{'' if FILE.exists() else ' (not there)'}"
    yield "A command is told:"
    yield from (f"    {name}={value}" for name, value in sorted(places.environment().items()))


def main(arguments: Sequence[str] | None = None) -> int:
    options = parser("places", __doc__)
    add_options(options, "the runner's name")
    try:
        for line in lines_of(resolve(options.parse_args(arguments), "")):
            print(line)
    except Refused as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0
