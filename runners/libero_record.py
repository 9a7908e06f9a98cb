"""Training data of LIBERO with depth, for SA-GR policies: replays demonstrations and writes a LeRobot data set.

    .venvs/openvla/bin/python runners/libero_record.py --suite libero_goal --demos DIR_OF_HDF5 --out DATA

Runs in the environment that has LIBERO. The data set lies in DATA/SUITE_no_noops_1.0.0_lerobot, where upstream's
mixtures (`libero_goal`, `libero_goal_next`, ...) look below `data_root_dir`, and is there only when it is whole. What a
stopped run has replayed is kept beside it, in DATA/SUITE.recording, and not replayed again.
As in the public data, actions that move nothing are left out, and demonstrations whose replay does not succeed dropped.
Exit codes: 0 done, 1 no replay succeeded, 2 bad options or files.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from runners.headless import NoBackend  # noqa: E402
from runners.libero_world.simulator import add_options, simulated  # noqa: E402
from runners.libero_world.task import LIMITS  # noqa: E402
from runners.places import Refused, claim  # noqa: E402
from runners.processes import Busy  # noqa: E402


def parser() -> argparse.ArgumentParser:
    options = argparse.ArgumentParser(prog="runners/libero_record.py", description=(__doc__ or "").split("\n\n")[0])
    options.add_argument(
        "--demos", type=Path, nargs="+", required=True, metavar="PATH", help="LIBERO's HDF5 files, or their folder"
    )
    options.add_argument("--suite", required=True, choices=tuple(LIMITS))
    options.add_argument("--out", type=Path, required=True, metavar="DIR", help="training's data_root_dir")
    options.add_argument("--tasks", type=int, nargs="+", metavar="N", help="numbers of tasks; default: all")
    options.add_argument("--limit", type=int, metavar="N", help="demonstrations of each task; default: all")
    options.add_argument("--keep-failures", action="store_true", help="also replays that do not end in success")
    add_options(options)
    return options


def main(arguments: list[str] | None = None) -> int:
    options = parser().parse_args(arguments)
    # Beside the data set: it is moved to its place by its name alone.
    work = options.out / f"{options.suite}.recording"
    try:
        if options.limit is not None and options.limit < 1:
            raise Refused(f"--limit is {options.limit}: wants 1 or more")
        for path in options.demos:
            if not path.exists():
                raise Refused(
                    f"{path} is not there: --demos wants LIBERO's HDF5 files, or the folder they were unpacked to"
                )
        claim(work)
        with simulated(options, work) as standins:
            from runners.libero_world.record import record

            return record(options, work, standins)
    except (Refused, Busy, NoBackend) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
