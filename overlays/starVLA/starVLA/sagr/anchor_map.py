"""Attention of the anchor, drawn over the image that the geometry tokens came from."""

from __future__ import annotations

import numpy as np
from PIL import Image
from torch import Tensor

_STOPS = np.array([(0, 0, 4), (87, 16, 110), (188, 55, 84), (249, 142, 9), (252, 255, 164)], dtype=np.float64)
"""Five colours along matplotlib's inferno, from dark to bright."""


def per_view(attention: Tensor, grid: tuple[tuple[int, int], ...]) -> list[Tensor]:
    """The attention [..., Ng] of ``SemanticAnchor`` cut into one [..., rows * columns] for each view of the grid.

    Raises ``ValueError`` where Ng is not the number of all views' patches.
    """
    sizes = [rows * columns for rows, columns in grid]
    if sum(sizes) != attention.shape[-1]:
        raise ValueError(f"attention over {attention.shape[-1]} tokens does not fit the views' grids {grid}")
    return list(attention.split(sizes, dim=-1))


def draw(
    attention: Tensor | np.ndarray,
    image: Image.Image,
    grid: tuple[int, int],
    opacity: float = 0.75,
    cell: tuple[float, float] | None = None,
) -> Image.Image:
    """The image in grey with the attention in colour over it, brightest where it is largest; RGB, the image's size.

    attention: [rows * columns] of one view, or [Ns, rows * columns], of which the mean over slots is drawn. cell: the
    height and width of a patch in the image's own pixels, where patches at the right or below stick out of the image;
    by default the grid fills the image. Raises ``ValueError`` for a grid or cells that do not fit, and for attention
    that is not finite.
    """
    values = attention.detach().float().cpu().numpy() if isinstance(attention, Tensor) else np.asarray(attention)
    rows, columns = grid
    if values.ndim not in (1, 2) or values.shape[-1] != rows * columns:
        raise ValueError(f"attention {values.shape} does not fit a grid of {rows} x {columns}: cut it with per_view")
    if not np.isfinite(values).all():
        raise ValueError("attention holds NaN or inf: there is nothing to draw")
    values = values.reshape(-1, rows, columns).mean(0)
    values = values / max(float(values.max()), np.finfo(np.float32).tiny)
    height, width = cell or (image.height / rows, image.width / columns)
    covered = (image.width / width, image.height / height)
    if covered[0] > columns * 1.001 or covered[1] > rows * 1.001:
        raise ValueError(f"{rows} x {columns} cells of {height} x {width} pixels do not cover an image of {image.size}")
    box = (0.0, 0.0, min(covered[0], columns), min(covered[1], rows))
    smooth = Image.fromarray(values.astype(np.float32)).resize(image.size, Image.Resampling.BILINEAR, box=box)
    strength = np.asarray(smooth, dtype=np.float64)
    grey = np.asarray(image.convert("L"), dtype=np.float64)[..., None]
    blend = opacity * np.sqrt(strength)[..., None]  # a linear one hides all but the peak
    mixed = (1 - blend) * grey + blend * colours(strength)
    return Image.fromarray(np.round(mixed).astype(np.uint8))


def colours(strength: np.ndarray) -> np.ndarray:
    """[...] in [0, 1] to RGB [..., 3] in [0, 255], linear between the five stops."""
    places = np.linspace(0, 1, len(_STOPS))
    return np.stack([np.interp(strength, places, _STOPS[:, c]) for c in range(3)], axis=-1)
