"""LIBERO made importable, with stand-ins for assets where asked for, and a way to draw, before MuJoCo is loaded."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from runners.headless import backend_for
from runners.libero_assets import ASSETS, MANIFEST, Unusable, build
from runners.places import Refused
from runners.processes import sole

ROOT = Path(__file__).resolve().parents[2]


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--libero", type=Path, default=ROOT / "upstreams" / "LIBERO", metavar="DIR")
    parser.add_argument("--asset-standins", action="store_true", help="plain shapes for assets that --libero lacks")


@contextlib.contextmanager
def simulated(options: argparse.Namespace, work: Path) -> Iterator[int]:
    """Holds `work` for this process, in which MuJoCo can draw and LIBERO be imported; yields how many of LIBERO's
    assets are stand-ins. Sets `options.no_gpu` where CUDA_VISIBLE_DEVICES says so.

    Raises Refused where LIBERO is not there, Busy for a folder in use, NoBackend where nothing draws.
    """
    with sole(work), backend_for(sys.executable).environment() as drawn:
        # MuJoCo reads them when it is imported, which only happens later.
        os.environ.update(drawn)
        yield importable(options, work.resolve())


def importable(options: argparse.Namespace, work: Path) -> int:
    package = options.libero.resolve()
    if options.asset_standins:
        package = work / "libero"
        try:
            build(options.libero, package)
        except Unusable as error:
            raise Refused(str(error)) from error
    if not (package / "libero" / "guard").is_dir():
        raise Refused(f"{package} is no LIBERO with its pack: run `python apply.py LIBERO`, or name it with --libero")
    sys.path.insert(0, str(package))
    # Empty it means no GPU, for the policy too; robosuite reads numbers in it, and fails.
    options.no_gpu = os.environ.get("CUDA_VISIBLE_DEVICES") == ""
    if options.no_gpu:
        del os.environ["CUDA_VISIBLE_DEVICES"]
    os.environ["LIBERO_CONFIG_PATH"] = str(work / "libero-paths")
    manifest = package / ASSETS / MANIFEST
    return len(json.loads(manifest.read_text(encoding="utf-8"))["standins"]) if manifest.is_file() else 0
