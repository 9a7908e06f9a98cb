"""Makes what the tests on the real starVLA run on: a tiny Qwen2.5-VL and a LeRobot data set. Nothing is downloaded.

    python tests/starvla_real/materials.py FOLDER        in the environment of starVLA; the same seed, the same bytes

Afterwards FOLDER/Qwen2.5-VL-tiny is a `framework.qwenvl.base_vlm` and FOLDER/data a `datasets.vla_data.data_root_dir`.
"""

from __future__ import annotations

import sys
from pathlib import Path

from tiny_data import write_data
from tiny_vlm import make_vlm


def main() -> None:
    if len(sys.argv) != 2:
        raise SystemExit("usage: python tests/starvla_real/materials.py FOLDER")
    folder = Path(sys.argv[1]).resolve()
    make_vlm(folder, seed=7)
    write_data(folder / "data", seed=7)


if __name__ == "__main__":
    main()
