"""Makes what the tests on the real openvla run on: a tiny checkpoint and a small RLDS data set. Nothing is downloaded.

    python tests/openvla_real/materials.py FOLDER        in the environment of openvla; the same seed, the same bytes

Afterwards FOLDER/openvla-tiny is a --vla_path and FOLDER/rlds a --data_root_dir with the set libero_spatial_no_noops,
for vla-scripts/finetune.py. vla-scripts/train.py, run in FOLDER, finds its base VLM there (see tiny_tables.py).
"""

from __future__ import annotations

import sys
from pathlib import Path

from tiny_checkpoint import make_checkpoint
from tiny_episodes import NAME, write_episodes
from tiny_prismatic import BASE_VLM, make_prismatic
from tiny_tokenizer import make_tokenizer

MODEL = "openvla-tiny"
DATA = "rlds"


def make(folder: Path, seed: int = 7) -> None:
    """Writes checkpoint and data set to `folder`; what is there already stays."""
    tokenizer = make_tokenizer(folder / "tokenizer")
    if not (folder / MODEL / "preprocessor_config.json").exists():
        make_checkpoint(folder / MODEL, tokenizer, seed)
    if not (folder / BASE_VLM / "config.json").exists():
        make_prismatic(folder, tokenizer, folder / MODEL)
    if not (folder / DATA / NAME).exists():
        write_episodes(folder / DATA, seed)


def main() -> None:
    if len(sys.argv) != 2:
        raise SystemExit("usage: python tests/openvla_real/materials.py FOLDER")
    folder = Path(sys.argv[1]).resolve()
    make(folder)
    print(f"--vla_path {folder / MODEL} --data_root_dir {folder / DATA} --dataset_name {NAME}")


if __name__ == "__main__":
    main()
