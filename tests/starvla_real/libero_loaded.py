"""Reads a recorded data set of LIBERO with starVLA's own loader, mixture `libero_goal_next`; prints JSON.

python tests/starvla_real/libero_loaded.py DATA_ROOT      in the environment of starVLA, its checkout on PYTHONPATH
"""

from __future__ import annotations

import json
import sys

import numpy as np
from omegaconf import OmegaConf
from starVLA.dataloader.lerobot_datasets import collate_fn, get_vla_dataset


def main() -> None:
    settings = OmegaConf.create(
        {"data_root_dir": sys.argv[1], "data_mix": "libero_goal_next", "include_state": True, "future_offset": 2}
    )
    data = get_vla_dataset(settings)
    batch = collate_fn([data[number] for number in range(4)])
    sample = batch[0]
    depth = np.asarray(sample["depth"])
    print(
        json.dumps(
            {
                "samples": len(data.datasets[0]),
                "lang": sorted({each["lang"] for each in batch}),
                "shapes": {key: list(np.shape(value)) for key, value in sample.items() if key != "image"},
                "nearest": float(depth[0][depth[0] > 0].min()),
                "farthest": float(depth[0].max()),
            }
        )
    )


if __name__ == "__main__":
    main()
