"""Pictures of 32 x 32 pixels: a table of 4 x 4 cells with one thing in some of them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

SIZE, CELL = 32, 8
COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (230, 30, 30),
    "green": (30, 190, 40),
    "blue": (40, 60, 230),
    "yellow": (240, 230, 40),
    "white": (245, 245, 245),
    "black": (10, 10, 10),
    "orange": (250, 140, 20),
    "purple": (150, 40, 180),
}
# Things of the downstream tasks only: an outer and an inner colour that no block or ball has.
WARES: dict[str, tuple[tuple[int, int, int], tuple[int, int, int]]] = {
    "plate": ((200, 200, 120), (90, 60, 40)),
    "bowl": ((20, 200, 210), (240, 120, 170)),
}
TABLE = np.array((128, 126, 124), dtype=np.float32)


@dataclass(frozen=True)
class Thing:
    """Something in a cell; its place is the cell's middle, with x and y in (-1, 1)."""

    name: str  # "red block", "plate"
    cell: int

    @property
    def place(self) -> tuple[float, float]:
        row, column = divmod(self.cell, SIZE // CELL)
        return column * 0.5 - 0.75, row * 0.5 - 0.75


def draw(things: list[Thing], rng: np.random.Generator) -> np.ndarray:
    """The picture, uint8 [32, 32, 3], with noise and a brightness of its own."""
    picture = np.broadcast_to(TABLE, (SIZE, SIZE, 3)).copy()
    rows, columns = np.mgrid[0:CELL, 0:CELL] - (CELL - 1) / 2
    ball, block = rows**2 + columns**2 < 11, np.maximum(abs(rows), abs(columns)) < 3
    for thing in things:
        row, column = divmod(thing.cell, SIZE // CELL)
        window = picture[row * CELL : (row + 1) * CELL, column * CELL : (column + 1) * CELL]
        if thing.name in WARES:
            outer, inner = WARES[thing.name]
            window[block] = outer
            window[rows**2 + columns**2 < 4] = inner
        else:
            colour, shape = thing.name.split()
            window[ball if shape == "ball" else block] = COLOURS[colour]
    picture = picture * rng.uniform(0.9, 1.1) + rng.normal(0, 4, picture.shape)
    return picture.clip(0, 255).round().astype(np.uint8)
