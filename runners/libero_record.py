"""Training data of LIBERO with depth, for SA-GR policies: replays demonstrations and writes a LeRobot data set.

    python -m runners libero-record --suite libero_goal --demos DIR_OF_HDF5 --data-root DATA

Needs `make openvla` and LIBERO's HDF5 files. The data set lies in DATA/SUITE_no_noops_1.0.0_lerobot, where upstream's
mixtures (`libero_goal`, `libero_goal_next`, ...) look below `data_root_dir`, and is there only when it is whole. What a
stopped run has replayed is kept beside it, in DATA/SUITE.recording, and the same command goes on from there.
As in the public data, actions that move nothing are left out, and demonstrations whose replay does not succeed dropped.
Exit codes: 0 done, 1 no replay succeeded, 2 bad options or files.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from runners import places, places_options, room, table
from runners.drawing import NoBackend
from runners.libero_world.simulator import add_options, simulated
from runners.libero_world.task import GROWS, LIMITS
from runners.places import Refused
from runners.processes import Busy
from runners.work_folder import claim


def parser() -> argparse.ArgumentParser:
    options = table.parser("libero-record", __doc__)
    options.add_argument(
        "--demos", type=Path, nargs="+", required=True, metavar="PATH", help="LIBERO's HDF5 files, or their folder"
    )
    options.add_argument("--suite", required=True, choices=tuple(LIMITS))
    options.add_argument("--tasks", type=int, nargs="+", metavar="N", help="numbers of tasks; default: all")
    options.add_argument("--limit", type=int, metavar="N", help="demonstrations of each task; default: all")
    options.add_argument("--keep-failures", action="store_true", help="also replays that do not end in success")
    add_options(options)
    places_options.add_data_options(options, also=["--out"])
    return options


def folder_in(here: places.Places, demos: list[Path]) -> Path:
    """The folder of the data sets, outside repositories where it will be large.

    Raises Refused.
    """
    if here.data_root is None:
        raise Refused("where shall the data set lie? Name training's data_root_dir with --data-root or GRAFT_DATA_ROOT")
    files = [file for path in demos for file in (path.rglob("*.hdf5") if path.is_dir() else [path])]
    room.refuse_below(here, {"--data-root": GROWS * sum(file.stat().st_size for file in files)})
    return here.data_root


def main(arguments: list[str] | None = None) -> int:
    options = parser().parse_args(arguments)
    try:
        if options.limit is not None and options.limit < 1:
            raise Refused(f"--limit is {options.limit}: wants 1 or more")
        for path in options.demos:
            if not path.exists():
                raise Refused(
                    f"{path} is not there: --demos wants LIBERO's HDF5 files, or the folder they were unpacked to"
                )
        options.out = folder_in(places.resolve(options, ""), options.demos)
        # Beside the data set: it is moved to its place by its name alone.
        work = options.out / f"{options.suite}.recording"
        claim(work)
        with simulated(options, work) as standins:
            from runners.libero_world.record import record

            return record(options, work, standins)
    except (Refused, Busy, NoBackend) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
