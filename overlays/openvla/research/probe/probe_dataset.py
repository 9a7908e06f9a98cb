"""Makes probe sets: pairs of picture and instruction that hidden states are measured on and nothing is trained on.

    python -m research.probe.probe_dataset --out DIR --data_root_dir DIR --dataset_name NAME [--n 500] [--seed 7]
    python -m research.probe.probe_dataset --out DIR --jsonl FILE --images DIR

``coverage`` says which samples are taken, ``probe_set`` what is written. draccus reads the annotations of
``ProbeConfig`` as they stand, so they are classes here and not strings.
"""

from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import draccus

from .coverage import Coverage
from .probe_set import ProbeSample, ProbeSet, check_free, write_probe_set
from .sources import ProbeError, jsonl_samples, rlds_episodes

__all__ = ["ProbeConfig", "ProbeError", "ProbeSample", "ProbeSet", "build"]


@dataclass
class ProbeConfig:
    """Options of the command. Give either ``data_root_dir`` and ``dataset_name``, or ``jsonl`` and ``images``."""

    out: Path  # folder of the probe set; must not be there yet
    n: int = 500  # samples; the probe size of the method's authors
    seed: int = 7  # upstream's own default seed (train.py)
    data_root_dir: Path | None = None  # folder of RLDS data sets, as finetune.py takes it
    dataset_name: str | None = None  # RLDS data set or mixture of upstream's, as finetune.py takes it
    image_size: int = 224  # pixels; the checkpoint's image_sizes, to which finetune.py resizes (openvla-7b: 224)
    split: str = "train"  # train, or held_out: what finetune.py never sees (the last 5 % without a validation split)
    max_episodes: int | None = None  # stop reading after so many; all if not given
    jsonl: Path | None = None  # a line is {"image": ..., "instruction": ..., "id": optional}
    images: Path | None = None  # folder that the JSONL's pictures are relative to


def build(cfg: ProbeConfig) -> ProbeSet:
    """Make a probe set as configured. Raises ``ProbeError`` before anything is read if the options do not fit."""
    rlds, own = (cfg.data_root_dir, cfg.dataset_name), (cfg.jsonl, cfg.images)
    if (None in rlds) == (None in own) or (None in rlds and any(rlds)) or (None in own and any(own)):
        raise ProbeError("give either --data_root_dir and --dataset_name, or --jsonl and --images")
    if cfg.split not in ("train", "held_out"):
        raise ProbeError(f"--split {cfg.split}: train or held_out")
    if cfg.n < 1 or (cfg.max_episodes is not None and cfg.max_episodes < 1):
        raise ProbeError(f"--n {cfg.n}, --max_episodes {cfg.max_episodes}: at least 1")
    check_free(cfg.out)
    if cfg.jsonl is not None and cfg.images is not None:
        episodes = jsonl_samples(cfg.jsonl, cfg.images)
        source: dict[str, Any] = {"kind": "jsonl", "jsonl": cfg.jsonl.name}
    else:
        episodes = rlds_episodes(cfg.data_root_dir, cfg.dataset_name, cfg.image_size, cfg.split == "train")
        source = {"kind": "rlds", "dataset_name": cfg.dataset_name, "image_size": cfg.image_size, "split": cfg.split}
    source["max_episodes"] = cfg.max_episodes
    coverage = Coverage(cfg.n, cfg.seed)
    for episode in islice(episodes, cfg.max_episodes):
        coverage.offer(episode)
    return write_probe_set(cfg.out, coverage.taken(), cfg.seed, source)


@draccus.wrap()
def main(cfg: ProbeConfig) -> None:
    probe = build(cfg)
    wanted = "" if len(probe) == cfg.n else f" ({cfg.n} were asked for; the source has no more that differ)"
    print(f"{cfg.out}: {len(probe)} samples{wanted}, {probe.meta['instructions']} instructions, hash {probe.hash}")


if __name__ == "__main__":
    main()
