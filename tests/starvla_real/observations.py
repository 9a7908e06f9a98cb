"""Examples of the tiny scene, as a robot would hand them to the policy, and as a data set does."""

from __future__ import annotations

from typing import Any

import numpy as np
import tiny_data

HORIZON, DIMENSIONS = tiny_data.HORIZON, tiny_data.DIMENSIONS


def example(offset: float, lang: str = "pick up the cup") -> dict[str, Any]:
    """The box at `offset` in [-1, 1]."""
    from PIL import Image

    picture, depth = tiny_data.frame(offset, 100)
    return {
        "image": [Image.fromarray(picture).resize((224, 224))],
        "lang": lang,
        "state": np.full((1, DIMENSIONS), offset, np.float16),
        "depth": [depth],
        "intrinsics": [tiny_data.intrinsics()],
        "named_mask": [tiny_data.named(depth)],
    }


def sample(offset: float, number: int) -> dict[str, Any]:
    """An example with a demonstrated chunk, the frame in which it ends and the chunk before it."""
    rng = np.random.default_rng(number)
    other = {"_tk": example(min(offset + 0.3, 1.0)), "_tp": example(max(offset - 0.3, -1.0))}
    frames = {f"{key}{end}": value for end, seen in other.items() for key, value in seen.items() if key != "lang"}
    more = {"valid_tk": 1.0, "offset_tk": HORIZON, "valid_tp": 1.0, "offset_tp": 4}
    chunks = {key: rng.uniform(-1, 1, (HORIZON, DIMENSIONS)).astype(np.float32) for key in ("action", "action_tp")}
    return {**example(offset), **frames, **more, **chunks}
