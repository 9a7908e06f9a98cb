"""Pictures as they come from a client."""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image


def to_pil_preserve(images: Any, scale_float: bool = True) -> Any:
    """Arrays [H, W, 3], uint8 or float in [0, 1], become pictures; lists and tuples keep their nesting."""
    if isinstance(images, list | tuple):
        return type(images)(to_pil_preserve(each, scale_float) for each in images)
    if isinstance(images, Image.Image):
        return images
    if np.issubdtype(images.dtype, np.floating):
        images = np.clip(images * (255 if scale_float else 1), 0, 255).astype(np.uint8)
    return Image.fromarray(images)
